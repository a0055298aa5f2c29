"""jaxdistill: language models that improve themselves.

jaxdistill train --config configs/sqlm_small.py --workdir runs/a
jaxdistill chat --workdir runs/a
"""

import argparse
import contextlib
import errno
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from jaxdistill.cli import options
from jaxdistill.cli.caches import cache_compilations

_FAILED = 1  # of the machine: a full disk
_STOPPED = 130  # by Ctrl-C
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AGAIN = 'the same command goes on from its newest checkpoint'


class _Failed(Exception):
  """The machine failed, not what was asked of it."""


class _Stopped(Exception):
  """A run was asked to stop, and did."""


def main(argv: list[str] | None = None) -> int:
  """Runs a verb; returns the exit code."""
  try:
    args = options.parse(sys.argv[1:] if argv is None else argv)
  except SystemExit as e:  # help was asked for, or something is wrong
    return int(e.code or 0)
  if args.verb == 'doctor':
    from jaxdistill.cli import doctor

    return doctor.main(as_json=args.json)
  from jaxdistill.config import ConfigError

  try:
    _RUN[args.verb](args)
  except ConfigError as e:
    print('jaxdistill:', *str(e).splitlines(), file=sys.stderr)
    return options.WRONG
  except _Stopped as e:
    print(f'jaxdistill: {e}; {_AGAIN}', flush=True)
  except _Failed as e:
    print(f'jaxdistill: {e}', file=sys.stderr)
    return _FAILED
  except KeyboardInterrupt:
    again = f'; {_AGAIN}' if args.verb in ('train', 'compare') else ''
    print(f'\njaxdistill: stopped{again}', file=sys.stderr)
    return _STOPPED
  return 0


def _start(args: argparse.Namespace) -> None:
  """Joins the processes that a verb's options name."""
  from jaxdistill import dist

  cache_compilations()
  if 0 <= args.process_id < args.num_processes > 1:
    others = f'{args.num_processes} processes at {args.coordinator}'
    print(f'process {args.process_id} waits for {others}', file=sys.stderr)
  with _one_line():
    dist.start_hosts(args.coordinator, args.num_processes, args.process_id)


def _train(args: argparse.Namespace) -> None:
  from jaxdistill import config as configs

  config = configs.read_config(args.config, args.overrides)
  configs.check(config)
  _start(args)
  import jax

  from jaxdistill import dist
  from jaxdistill.run.loop import Loop
  from jaxdistill.run.workdir import Workdir

  with _one_line():  # before anything is loaded
    workdir = Workdir(args.workdir)
    dist.by_first(lambda: workdir.check(config.to_dict()))
    dist.by_first(workdir.free)
  configs.prepare(config)
  run = configs.build(config)
  with jax.set_mesh(run.mesh), _written():
    with _one_line():
      loop = Loop(run, args.workdir, config.to_dict())
    if not loop.first_step and loop.workdir.has_logged():
      print(f'{args.workdir} begins again: nothing had been saved.')
    if loop.first_step and jax.process_index() == 0:
      print(
        f'{args.workdir} is finished; this is what it came to.'
        if loop.finished()
        else f'{args.workdir} goes on from step {loop.first_step}.'
      )
    summary = loop.train()
    if jax.process_index() == 0:
      from jaxdistill.plots import draw_curves, write_report

      draw_curves([args.workdir], epath.Path(args.workdir) / 'curves.png')
      write_report(args.workdir)
      print(account(summary, args.workdir))


def _compare(args: argparse.Namespace) -> None:
  from jaxdistill import config as configs

  comparison = configs.read_comparison(args.config, args.overrides)
  arms = _chosen('arm', args.arms, comparison.arms)
  every_seed = {s for arm in arms for s in comparison.seeds_of(arm)}
  seeds = _chosen('seed', args.seeds, {str(s): s for s in every_seed})
  for arm in comparison.arms:
    try:
      configs.check(comparison.config(arm, comparison.seeds_of(arm)[0]))
    except configs.ConfigError as e:
      raise configs.ConfigError(f'arm {arm}: {e}') from None
  _start(args)
  import jax

  from jaxdistill.plots import draw_comparison
  from jaxdistill.run import compare

  first = jax.process_index() == 0
  with _one_line():
    compare.check_folders(comparison, args.workdir)
  planned = [
    found
    for found in compare.runs(comparison, args.workdir)
    if found[0] in arms and str(found[1]) in seeds
  ]
  for i, (arm, seed, folder) in enumerate(planned, 1):
    done = compare.finished(folder)
    if first:
      told = ', finished' if done else ''
      print(f'{i} of {len(planned)}: {arm}, seed {seed}{told}', flush=True)
    if not done:
      with _written():
        _train_arm(comparison.config(arm, seed), folder)
  if not first:
    return
  root = epath.Path(args.workdir)
  with _one_line():
    summary = compare.summarise(comparison, args.workdir)
    compare.write(summary, args.workdir)
    draw_comparison(summary, root / 'compare.png')
  print(f'\n{compare.table(summary)}')
  print(f'{summary["finished"]} of {summary["planned"]} runs are finished.')
  for what, name in (
    *(('table', 'table.md'), ('figure', 'compare.png')),
    *(('numbers', 'summary.json'),),
  ):
    print(f'The {what + ":":9} {root / name}')


def _train_arm(config: Any, folder: epath.Path) -> None:
  """Trains one run of a comparison from where its newest checkpoint left it."""
  import jax

  from jaxdistill import config as configs
  from jaxdistill import dist
  from jaxdistill.run.loop import Loop
  from jaxdistill.run.workdir import Workdir

  dist.by_first(Workdir(folder).free)  # before anything is loaded
  configs.prepare(config)
  run = configs.build(config)
  with jax.set_mesh(run.mesh):
    Loop(run, folder, config.to_dict()).train()


def _chosen(what: str, text: str, known: Iterable[str]) -> list[str]:
  """The names in a list with commas, all of them if it is empty."""
  from jaxdistill.config import ConfigError

  known = list(known)
  chosen = text.split(',') if text else known
  for name in chosen:
    if name not in known:
      raise ConfigError(
        f'there is no {what} {name!r}; there are {", ".join(known)}'
      )
  return chosen


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
  """Turns what the user can mend into a `ConfigError`."""
  from jaxdistill.config import ConfigError

  try:
    yield
  except ValueError as e:
    raise ConfigError(str(e)) from None
  except OSError as e:  # ours say it in words, the system's by a number
    why = f'{e.filename}: {e.strerror.lower()}' if e.strerror else str(e)
    raise ConfigError(why) from None


@contextlib.contextmanager
def _writing(option: str) -> Iterator[None]:
  from jaxdistill.config import ConfigError

  try:
    yield
  except OSError as e:
    if e.errno in _FULL:
      raise _Failed(_told(e)) from None
    why = (e.strerror or str(e)).lower()
    raise ConfigError(f'{option} cannot be written: {why}') from None


def _told(e: OSError) -> str:
  return f'{e.filename or "a file"}: {(e.strerror or str(e)).lower()}'


def _but_closed_loops(unraisable) -> None:
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def _written() -> Iterator[None]:
  """Ends what a run may end of in one line."""
  import logging

  from jaxdistill.checkpoint import STORAGE_ERRORS, RefusedError
  from jaxdistill.config import ConfigError
  from jaxdistill.run.stopping import Stopped

  # What Orbax fails of is raised as well, once; and what it was about to write
  # then finds its event loop closed, which its C++ tells this hook.
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  sys.unraisablehook = _but_closed_loops
  try:
    yield
  except Stopped as e:
    raise _Stopped(f'stopped as asked; {e}') from None
  except RefusedError as e:
    raise ConfigError(str(e)) from None
  except OSError as e:
    if e.errno not in STORAGE_ERRORS:
      raise
    raise _Failed(f'{_told(e)}; make room, and {_AGAIN}') from None


def _check_out(path: str, *kinds: str) -> None:
  """Refuses a file that cannot be written, or that is something else."""
  from jaxdistill.checkpoint import check_writable
  from jaxdistill.config import ConfigError

  file = epath.Path(path)
  if file.suffix not in kinds:
    raise ConfigError(f'--out {path} must end in {" or ".join(kinds)}')
  if file.is_dir():
    raise ConfigError(f'--out {path} is a folder')
  if not file.parent.exists():
    raise ConfigError(f'--out {path}: there is no folder {file.parent}')
  with _writing(f'--out {path}'):
    check_writable(file.parent)


def _check_pass_at(path: str) -> None:
  """Refuses to overwrite what `eval` has not written."""
  import json

  from jaxdistill.config import ConfigError

  if epath.Path(path).exists():
    try:
      ours = 'of' in json.loads(epath.Path(path).read_text())
    except (ValueError, TypeError):
      ours = False
    if not ours:
      raise ConfigError(f'--out {path} is there and not from eval')


def account(summary: dict, workdir: epath.PathLike) -> str:
  """A run in a few plain lines: where it began, where it ended, what next."""
  lines = ['', f'{"":38}{"began":>8}{"ended":>8}{"best":>8}']
  for split, where in (('test', 'held out'), ('ood', 'out of distribution')):
    for kind in ('sampled', 'greedy'):
      values = summary.get(f'eval/{split}/accuracy_{kind}')
      if values:
        figures = (values[k] for k in ('first', 'last', 'best'))
        row = ''.join(f'{v:8.3f}' for v in figures)
        lines.append(f'{f"accuracy {where}, {kind}":38}{row}')
  cut = summary.get('eval/test/cut', {}).get('last', 0)
  if cut > 0.1:
    lines += ['', f'{cut:.0%} of the answers were cut: eval.max_tokens is low.']
  if not summary['optimizer_steps']:
    lines += ['', 'Nothing was learned: no step had an answer to train on.']
  root = epath.Path(workdir)
  skipped = summary['skipped_updates']
  command = 'jaxdistill'
  if not shutil.which(command) and sys.argv[0].endswith(command):
    command = sys.argv[0]  # as the user has just called it
  lines += [
    '',
    f'{summary["wall_s"]:.0f} s, {summary["tokens"]:,} tokens generated'
    + (f', {skipped} updates skipped (not finite)' if skipped else ''),
    f'The report:   {root / "report.html"}',
    f'The curves:   {root / "curves.png"}',
  ]
  if (root / 'rollouts').exists():
    lines.append(f'Every answer: {root / "rollouts"}')
  lines.append(f'Talk to it:   {command} chat --workdir {root}')
  return '\n'.join(lines)


def _asked_config(args: argparse.Namespace) -> Any:
  """The checked config of what a verb's options name."""
  from ml_collections import ConfigDict

  from jaxdistill import config as configs
  from jaxdistill.run.workdir import read_config

  if args.anchor and not args.workdir:
    raise configs.ConfigError('--anchor needs --workdir')
  if args.workdir:
    with _one_line():
      config: Any = ConfigDict(read_config(args.workdir), convert_dict=True)
    config.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1}  # of this machine
  else:
    config = configs.base_config('sft')
    config.model, config.roles = args.model, 'shared'
  configs.check(config)
  if args.workdir:
    with _one_line():
      _check_stored(args.workdir, args.anchor)
  return config


def _check_stored(workdir: str, anchor: str | None) -> None:
  """Finds that a version is not there, before a model is built."""
  from jaxdistill.anchors import Bank

  root = epath.Path(workdir)
  if anchor:
    known = Bank(root / 'anchors').listing()
    if anchor not in known.split():
      raise ValueError(
        f'--anchor is {anchor!r}; it must be name@step, one of: '
        f'{known or "none is there yet"}'
      )
  elif not ((root / 'checkpoints').is_dir() and (root / 'manifests').is_dir()):
    raise ValueError(f'{workdir} has no whole checkpoint yet')


@contextlib.contextmanager
def _asked(args: argparse.Namespace) -> Iterator[tuple]:
  """The run, the model and a player that a verb's options name."""
  import jax
  from flax import nnx

  from jaxdistill import config as configs
  from jaxdistill import dist
  from jaxdistill.run.ask import make_player
  from jaxdistill.run.step import Params, param_shardings, place, split_params

  cache_compilations()
  run = configs.build(_asked_config(args))
  with jax.set_mesh(run.mesh):
    graphdef, moving, frozen = split_params(run.loaded.model, run.trainable)
    params = (*moving, frozen)
    params = place(params, param_shardings(params, run.mesh, dist.DECODE_RULES))
    if args.workdir:
      with _one_line():
        like = Params(*params[:2])
        stored = _stored_params(args.workdir, args.anchor, like)
        params = (*stored, params[2])
    yield run, nnx.merge(graphdef, *params), make_player(run, graphdef, params)


def _task(args: argparse.Namespace, run: Any) -> Any:
  """The task that a verb's options name."""
  from jaxdistill.config import ConfigError
  from jaxdistill.data.tasks import load_task

  if args.task:
    return load_task(args.task)
  if args.model and run.loaded.source:
    raise ConfigError(
      f'{args.model} needs a --task, for example arithmetic:add:3,3'
    )
  return run.task


def _named(args: argparse.Namespace) -> str:
  """The model that a verb's options name, in words."""
  if args.model:
    return args.model
  return f'{args.workdir} {args.anchor or "(newest checkpoint)"}'


def _stored_params(workdir: str, anchor: str | None, like: Any) -> Any:
  """Parameters of a run's newest checkpoint or of one of its anchors."""
  from jaxdistill.anchors import Bank
  from jaxdistill.checkpoint import Checkpoints, why

  if anchor:
    bank = Bank(epath.Path(workdir) / 'anchors')
    name, _, step = anchor.partition('@')
    return bank.restore(name, int(step), like)
  checkpoints = Checkpoints(workdir)
  newest, damaged = checkpoints.find()
  for step, faults in damaged.items():
    told = f'checkpoint {step} is damaged ({why(faults)})'
    print(f'{told}; the one before is used', file=sys.stderr)
  if newest is None:
    raise ValueError(f'{workdir} has no whole checkpoint yet')
  return checkpoints.restore(newest, {'params': like})[0]['params']


def _gap(args: argparse.Namespace) -> None:
  import json

  from jaxdistill.data.tasks import load_task
  from jaxdistill.run import gap as before

  if args.task:
    with _one_line():
      before.problems_of(load_task(args.task), args.split, args.problems)
  with _asked(args) as (run, _, player):
    with _one_line():
      task = _task(args, run)
      player = player.ending_at(task.ends)
      problems = before.problems_of(task, args.split, args.problems)
    if not args.json:
      print(
        f'{_named(args)}: {len(problems)} problems of {task.name}, '
        f'{args.samples} samples each (the first answers compile)',
        flush=True,
      )
    with _one_line():
      found = before.gap(
        *(run, player, task, problems, args.samples),
        args.max_tokens or run.eval.max_tokens,
      )
  print(json.dumps(found) if args.json else before.told(found))


def _eval(args: argparse.Namespace) -> None:
  import dataclasses
  import json

  from jaxdistill.checkpoint import write_atomically
  from jaxdistill.config import ConfigError
  from jaxdistill.data.tasks import load_task
  from jaxdistill.data.text.tokenizer import SymbolTokenizer
  from jaxdistill.run.ask import evaluate

  if max(args.pass_k, default=0) > args.samples:
    raise ConfigError(
      f'--pass_k {max(args.pass_k)} needs as many --samples; it has '
      f'{args.samples}'
    )
  if args.out:
    _check_out(args.out, '.json')
    _check_pass_at(args.out)
  if args.task:
    with _one_line():
      load_task(args.task).problems(args.split)
  with _asked(args) as (run, _, player):
    wanted = dataclasses.replace(
      run.eval,
      splits=(args.split,),
      samples=args.samples,
      problems=args.problems or run.eval.problems,
      max_tokens=args.max_tokens or run.eval.max_tokens,
    )
    with _one_line():
      task = _task(args, run)
      player = player.ending_at(task.ends)
      problems = task.problems(args.split)
      n = min(len(problems), wanted.problems)
      if isinstance(run.loaded.tokenizer, SymbolTokenizer):
        for i in range(n):  # it may know no such symbol
          run.loaded.tokenizer.encode(task.solver_prompt(problems[i]))
    run = dataclasses.replace(run, eval=wanted, task=task)
    print(
      f'{_named(args)}: {n} {args.split} problems of {task.name}, '
      f'{args.samples} samples each (the first answers compile)',
      flush=True,
    )
    found = evaluate(run, player, args.pass_k)
  for name, value in found.items():
    print(f'{name:32} {value:.4f}')
  if (cut := found[f'eval/{args.split}/cut']) > 0.1:
    print(f'{cut:.0%} of the answers are cut: set a longer --max_tokens')
  if args.out:
    about = {'of': _named(args), 'problems': n, 'samples': args.samples}
    with _one_line():
      write_atomically(args.out, json.dumps(about | found, indent=1))


def _chat(args: argparse.Namespace) -> None:
  import jax

  from jaxdistill import rewards
  from jaxdistill.data.tasks import load_task
  from jaxdistill.rollout import Sampling
  from jaxdistill.types import Problem, Prompt

  if args.task:
    with _one_line():
      load_task(args.task)
  with _asked(args) as (run, _, player):
    with _one_line():
      sampling = Sampling(args.samples, run.eval.max_tokens, args.temperature)
      task, solver = _task(args, run), args.role == 'solver'
      player = player.ending_at(task.ends)
      first = Problem('47+85', task, topic='add')
      if not task.name.startswith('small'):
        first = task.problems('train')[0]
    hint = f'a problem, e.g. {first.text}' if solver else f'e.g. {first.topic}'
    print(f'{hint}; an empty line ends.')
    for turn in range(10**6):
      try:
        text = input(f'{args.role}> ').strip()
      except (EOFError, KeyboardInterrupt):
        print()
        break
      if not text:
        break
      problem = task.parse_problem(text) if solver else None
      if solver and problem is None and not run.loaded.source:
        print(f'  {text!r} is not a problem of {task.name}: {hint}')
        continue
      # A model of text can be asked anything.
      problem = problem or Problem(text, task, topic=text)
      ask = task.solver_prompt if solver else task.proposer_prompt
      prompt = Prompt(args.role, ask(problem), row=turn)
      try:
        (rollouts,) = player.generate(
          [prompt], sampling, jax.random.key(run.seed)
        )
      except ValueError as e:
        print(f'  {e}')
        continue
      for r in rollouts:
        print(f'  {r.text}' + (' ... (cut)' if r.finish == 'length' else ''))
      if solver:
        vote = rewards.majority(rewards.answers(task, rollouts))
        won = f'{vote.answer} ({vote.count} of {args.samples})'
        print(f'  vote: {won if vote.answer is not None else "no majority"}')


def _plot(args: argparse.Namespace) -> None:
  from jaxdistill import plots

  _check_out(args.out, '.png', '.html')
  with _one_line():
    plots.draw(args.paths, args.out)
  print(args.out)


def _export(args: argparse.Namespace) -> None:
  from jaxdistill import models
  from jaxdistill.checkpoint import check_writable
  from jaxdistill.config import ConfigError
  from jaxdistill.models import store

  target = epath.Path(args.to)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ConfigError(f'--to {args.to} is there already; choose another')
  with _writing(f'--to {args.to}'):
    check_writable(args.to)
  plain = (args.kind, args.dtype) == ('merged', 'bfloat16')
  if not plain and store.is_own(_asked_config(args).model):
    raise ConfigError('--kind and --dtype are for Hugging Face models')
  with _asked(args) as (run, model, _), _one_line():
    if run.loaded.source:
      models.export(
        *(args.to, model, run.loaded.source),
        role=args.role,
        kind=args.kind,
        dtype=args.dtype,
        base=run.loaded.base,
      )
    else:
      manifest = {'source': _named(args), 'role': args.role}
      merged = models.merge(model, args.role)
      models.save(args.to, merged, run.loaded.tokenizer, manifest)
  print(args.to)


_RUN = {
  'train': _train,
  'gap': _gap,
  'chat': _chat,
  'eval': _eval,
  'plot': _plot,
  'export': _export,
  'compare': _compare,
}


def cli() -> None:
  """Entry point of the `jaxdistill` command."""
  sys.exit(main())


if __name__ == '__main__':
  cli()
