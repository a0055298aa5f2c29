"""jaxdistill: language models that improve themselves.

jaxdistill train --config configs/sqlm_small.py --workdir runs/a
jaxdistill chat --workdir runs/a
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

_USAGE = 2  # exit code for bad input
_STOPPED = 130  # by Ctrl-C


def main(argv: list[str] | None = None) -> int:
  """Runs a verb; returns the exit code."""
  args, rest = _parser().parse_known_args(argv)
  from jaxdistill.config import ConfigError

  try:
    args.overrides = _overrides(rest, args.verb)
    args.run(args)
  except ConfigError as e:
    print(f'jaxdistill: {e}', file=sys.stderr)
    return _USAGE
  except KeyboardInterrupt:
    again = ''
    if args.verb in ('train', 'compare'):
      again = '; the same command goes on from its newest checkpoint'
    print(f'\njaxdistill: stopped{again}', file=sys.stderr)
    return _STOPPED
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='jaxdistill',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  verbs = parser.add_subparsers(dest='verb', required=True, metavar='VERB')

  train = verbs.add_parser(
    'train',
    help='train a model as a config says; goes on where it stopped',
    epilog='Any key of the config: --config.KEY=VALUE, for example '
    '--config.method.samples=16',
  )
  train.add_argument('--config', required=True, help='a file of configs/')
  train.add_argument('--workdir', required=True, help='where the run lives')
  _add_hosts(train)
  train.set_defaults(run=_train)

  compare = verbs.add_parser(
    'compare',
    help='run arms over seeds under one budget; goes on where it stopped',
    epilog='Any key of the base: --config.KEY=VALUE. Several of these commands '
    'may share the work: give each its own --arms or --seeds.',
  )
  compare.add_argument(
    '--config', required=True, help='a file of configs/ that gives a Comparison'
  )
  compare.add_argument('--workdir', required=True, help='where the runs live')
  compare.add_argument(
    '--arms', default='', help='only these, separated by commas'
  )
  compare.add_argument(
    '--seeds', default='', help='only these, separated by commas'
  )
  _add_hosts(compare)
  compare.set_defaults(run=_compare)

  score = verbs.add_parser('eval', help='accuracy on held-out problems')
  _add_model(score)
  score.add_argument('--task', help="default: the run's own, or small")
  score.add_argument('--split', choices=('dev', 'test', 'ood'), default='test')
  score.add_argument(
    '--samples', type=_positive, default=8, help='answers each'
  )
  score.add_argument(
    '--problems', type=_positive, help="most problems; default: the run's own"
  )
  score.add_argument(
    '--pass_k',
    type=_positives,
    default=(),
    help='also the chance that any of K samples is right: 1,8,64',
  )
  score.add_argument(
    '--max_tokens',
    type=_positive,
    help="longest answer; default: the run's own",
  )
  score.add_argument('--out', help='also write the figures to this JSON file')
  score.set_defaults(run=_eval)

  chat = verbs.add_parser('chat', help='ask a model; see how it votes')
  _add_model(chat)
  chat.add_argument('--role', choices=('solver', 'proposer'), default='solver')
  chat.add_argument('--samples', type=_positive, default=8, help='answers each')
  chat.add_argument('--task', help="default: the run's own, or small")
  chat.add_argument('--temperature', type=float, default=1.0)
  chat.set_defaults(run=_chat)

  plot = verbs.add_parser(
    'plot',
    help='draw the curves of runs, a comparison, or pass@k; or write a report',
  )
  plot.add_argument(
    'paths',
    nargs='+',
    help='folders of runs; or the summary.json of a comparison; or files of '
    'eval --pass_k --out',
  )
  plot.add_argument(
    '--out',
    default='curves.png',
    help='a .png; or for one run an .html, its report',
  )
  plot.set_defaults(run=_plot)

  export = verbs.add_parser('export', help='write a model to a directory')
  _add_model(export)
  export.add_argument(
    '--role', choices=('solver', 'proposer'), default='solver'
  )
  export.add_argument('--to', required=True, help='directory to make')
  export.add_argument(
    '--kind',
    choices=('merged', 'peft'),
    default='merged',
    help='of a Hugging Face model: whole weights, or only its LoRA for peft',
  )
  export.add_argument(
    '--dtype', choices=('bfloat16', 'float32'), default='bfloat16'
  )
  export.set_defaults(run=_export)
  return parser


def _add_hosts(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--coordinator',
    default='',
    help='host:port of process 0, or auto on a cluster; default one process',
  )
  parser.add_argument('--num_processes', type=int, default=0)
  parser.add_argument('--process_id', type=int, default=-1)


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError(f'{value} must be at least 1')
  return value


def _positives(text: str) -> tuple[int, ...]:
  try:
    return tuple(_positive(part) for part in text.split(','))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'{text!r} must be numbers separated by commas'
    ) from None


def _add_model(parser: argparse.ArgumentParser) -> None:
  group = parser.add_mutually_exclusive_group(required=True)
  group.add_argument('--workdir', help='of a run: its newest checkpoint')
  group.add_argument(
    '--model', help='a shipped base, a directory, or hf:owner/name'
  )
  parser.add_argument(
    '--anchor', help='with --workdir: a past version, as name@step'
  )


def _overrides(rest: list[str], verb: str) -> list[tuple[str, str]]:
  from jaxdistill.config import ConfigError

  pairs = []
  for text in rest:
    key, equals, value = text.removeprefix('--config.').partition('=')
    if verb not in ('train', 'compare'):
      raise ConfigError(
        f'{text!r} is not understood by {verb}; see jaxdistill {verb} --help'
      )
    if not text.startswith('--config.') or not equals:
      raise ConfigError(
        f'{text!r} is not understood; config keys are set as '
        '--config.KEY=VALUE, and jaxdistill train --help lists the rest'
      )
    pairs.append((key, value))
  return pairs


def _cache_compilations() -> None:
  import jax

  home = os.environ.get('XDG_CACHE_HOME', '~/.cache')
  folder = os.path.join(os.path.expanduser(home), 'jaxdistill', 'xla')
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def _start(args: argparse.Namespace) -> None:
  """Joins the processes that a verb's options name."""
  from jaxdistill import dist

  _cache_compilations()
  if args.num_processes > 1 and args.process_id >= 0:
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

  from jaxdistill.loop import Loop

  configs.prepare(config)
  run = configs.build(config)
  with jax.set_mesh(run.mesh):
    with _one_line():
      loop = Loop(run, args.workdir, config.to_dict())
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

  from jaxdistill import compare
  from jaxdistill.plots import draw_comparison

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
      compare.run(comparison, arm, seed, folder)
  if not first:
    return
  summary = compare.summarise(comparison, args.workdir)
  compare.write(summary, args.workdir)
  root = epath.Path(args.workdir)
  with _one_line():
    draw_comparison(summary, root / 'compare.png')
  print(f'\n{compare.table(summary)}')
  print(f'{summary["finished"]} of {summary["planned"]} runs are finished.')
  for what, name in (
    *(('table', 'table.md'), ('figure', 'compare.png')),
    *(('numbers', 'summary.json'),),
  ):
    print(f'The {what + ":":9} {root / name}')


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
  except FileNotFoundError as e:
    raise ConfigError(str(e)) from None
  except OSError as e:
    why = (e.strerror or str(e)).lower()
    raise ConfigError(f'{e.filename or "a file"}: {why}') from None


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


@contextlib.contextmanager
def _asked(args: argparse.Namespace) -> Iterator[tuple]:
  """The run, the model and a player that a verb's options name."""
  import json

  import jax
  from flax import nnx
  from ml_collections import ConfigDict

  from jaxdistill import config as configs
  from jaxdistill import dist
  from jaxdistill.run import make_player
  from jaxdistill.step import Params, param_shardings, place, split_params

  _cache_compilations()
  if args.anchor and not args.workdir:
    raise configs.ConfigError('--anchor needs --workdir')
  if args.workdir:
    path = epath.Path(args.workdir) / 'config.json'
    if not path.exists():
      raise configs.ConfigError(f'{args.workdir} holds no run (no config.json)')
    try:
      stored = json.loads(path.read_text())
    except ValueError as e:
      raise configs.ConfigError(f'{path} is damaged: {e}') from None
    config: Any = ConfigDict(stored, convert_dict=True)
    config.mesh = {'data': -1, 'fsdp': 1, 'tensor': 1}  # of this machine
  else:
    config = configs.base_config('sft')
    config.model, config.roles = args.model, 'shared'
  configs.check(config)
  run = configs.build(config)
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
  from jaxdistill.checkpoint import Checkpoints

  if anchor:
    bank = Bank(epath.Path(workdir) / 'anchors')
    name, _, step = anchor.partition('@')
    if not step.isdecimal():
      raise ValueError(
        f'--anchor is {anchor!r}; it must be name@step, one of: '
        f'{bank.listing()}'
      )
    return bank.restore(name, int(step), like)
  checkpoints = Checkpoints(workdir)
  newest = checkpoints.newest()
  if newest is None:
    raise ValueError(f'{workdir} has no whole checkpoint yet')
  return checkpoints.restore(newest, {'params': like})[0]['params']


def _eval(args: argparse.Namespace) -> None:
  import dataclasses
  import json

  from jaxdistill.checkpoint import write_atomically
  from jaxdistill.config import ConfigError
  from jaxdistill.run import evaluate

  if max(args.pass_k, default=0) > args.samples:
    raise ConfigError(
      f'--pass_k {max(args.pass_k)} needs as many --samples; it has '
      f'{args.samples}'
    )
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
      n = min(len(task.problems(args.split)), wanted.problems)
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
  from jaxdistill.rollout import Sampling
  from jaxdistill.types import Problem, Prompt

  with _asked(args) as (run, _, player):
    with _one_line():
      sampling = Sampling(args.samples, run.eval.max_tokens, args.temperature)
      task, solver = _task(args, run), args.role == 'solver'
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

  with _one_line():
    plots.draw(args.paths, args.out)
  print(args.out)


def _export(args: argparse.Namespace) -> None:
  from jaxdistill import models
  from jaxdistill.config import ConfigError

  target = epath.Path(args.to)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ConfigError(f'--to {args.to} is there already; choose another')
  with _asked(args) as (run, model, _), _one_line():
    if run.loaded.source:
      models.export(
        *(args.to, model, run.loaded.source),
        role=args.role,
        kind=args.kind,
        dtype=args.dtype,
        base=run.loaded.base,
      )
    elif (args.kind, args.dtype) != ('merged', 'bfloat16'):
      raise ConfigError('--kind and --dtype are for Hugging Face models')
    else:
      manifest = {'source': _named(args), 'role': args.role}
      merged = models.merge(model, args.role)
      models.save(args.to, merged, run.loaded.tokenizer, manifest)
  print(args.to)


def cli() -> None:
  """Entry point of the `jaxdistill` command."""
  sys.exit(main())


if __name__ == '__main__':
  cli()
