"""One process of a multi-process run; started by `hosts_test.py`.

python hosts_worker.py COORDINATOR ID OUT WORK[=FOLDER] ...

WORK is one of the functions below; process 0 writes what they return.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from processes import share_compiled

from jaxdistill import config as configs
from jaxdistill import dist, rollout
from jaxdistill.anchors import Bank
from jaxdistill.batch import Shapes, make_batch
from jaxdistill.checkpoint import Checkpoints
from jaxdistill.checkpoint import saved as saving
from jaxdistill.cli.main import main
from jaxdistill.data import tasks
from jaxdistill.methods.grpo import Grpo
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.models import Decoder, DecoderConfig, Deltas
from jaxdistill.rollout import contexts, schedule
from jaxdistill.rollout import player as player_module
from jaxdistill.run.step import (
  OptimizerConfig,
  init_state,
  make_step,
  split_params,
)
from jaxdistill.types import Prompt, Row, RowSet

# Prompts of process 0 and of process 1, samples of each, and how many of them
# have room on a device: with 4 of 3, groups of 3; with 3 of 6, twice 3. So the
# same programs do for both.
REFILLS = ((9, 0, 3, 4), (9, 2, 6, 3))
TARGETS = {'problems': 5, 'samples': 2, 'top_k': 3, 'max_tokens': 12}
SMALL = {'problems': 8, 'samples': 4, 'max_tokens': 32}
# Systems that take two steps each, and what makes them small: what is evaluated
# is as much as is trained on, and as much as in the other runs, so it is no
# program of its own.
LEARN = pathlib.Path(__file__).parents[1] / 'configs' / 'learn_small.py'
LEARNED = 'srpo', 'rlcsd', 'gkd'
FEW = {
  **{'steps': 2, 'eval_every': 2, 'checkpoint_every': 2},
  **{f'method.{k}': v for k, v in SMALL.items()},
  **{f'eval.{k}': v for k, v in SMALL.items()},
  'eval.splits': ('test',),
  'guard.every': 0,
  'batch.length': 96,
  'batch.sequences': 8,
  'optimizer.warmup': 0,
  'alarms.cut': 'off',
}
CONFIG = """
from jaxdistill.config import base_config

def get_config():
  config = base_config('sft')
  config.model = 'small-fresh'
  return config
"""
NO_DATA = shutil.ignore_patterns('*.safetensors', '*.txt', '__pycache__')
SPOILT = 'solver', 'solve one:'  # the model has no such symbol
TYPED = '12+3', 'what?', ''
TINY = DecoderConfig(
  vocab_size=24,
  embed_dim=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  embed_scale=4.0,
)


def stored_rows() -> list[Row]:
  """Forty rollouts with their log-probs and advantages, from a fixed seed."""
  rng = np.random.default_rng(7)
  rows = []
  for _ in range(40):
    n = int(rng.integers(6, 20))
    logp = -rng.random((2, n)).astype(np.float32) * 3
    fields = dict(
      advantage=np.full(n - 4, rng.normal(), np.float32),
      old_logp=logp[0, 4:],
      anchor_logp=logp[1, 4:],
    )
    tokens = rng.integers(3, 24, n).astype(np.int32)
    weight = np.full(n - 4, 1 / (n - 4), np.float32)
    rows.append(Row(tokens[:4], tokens[4:], weight, 1.0, fields))
  return rows


def replay(mesh: Mesh | None = None, steps: int = 5) -> dict:
  """Five steps on stored rollouts, each process with its part of them."""
  mesh = mesh or dist.make_mesh()
  method = Grpo(policy=PolicyGradient(kl=0.1))
  optimizer = OptimizerConfig(lr=1e-2, eps=1e-3)
  host, hosts = jax.process_index(), jax.process_count()
  rows = stored_rows()
  # Uneven on purpose: the first process holds fewer rows than each other.
  cut = len(rows) // (2 * hosts) if hosts > 1 else 0
  mine = rows[cut:][max(host - 1, 0) :: max(hosts - 1, 1)]
  if hosts > 1 and not host:
    mine = rows[:cut]
  losses = []
  with jax.set_mesh(mesh):
    model = Decoder(TINY, Deltas(rank=4), rngs=nnx.Rngs(0))
    graphdef, params, frozen = split_params(model, 'full')
    state = init_state(params, optimizer, mesh)
    step = make_step(graphdef, method.loss, optimizer)
    coefficients = {'clip_low': 0.2, 'clip_high': 0.2, 'kl': 0.1}
    for i in range(steps):
      row_set = RowSet('solver', mine, rollout.FIELDS, coefficients)
      batch, _ = make_batch(row_set, i % 2, mesh, Shapes(32, 8))
      state, metrics = step(state, frozen, {}, (batch,))
      losses.append({k: float(v) for k, v in metrics.items()})
    whole = jax.jit(lambda p: p, out_shardings=dist.replicated(mesh))
    leaves = jax.tree.leaves(whole(state.params))
  flat = np.concatenate([np.asarray(x).ravel() for x in leaves])
  return {'losses': losses, 'params': flat.tolist()}


def uneven(workdir: str) -> list:
  """Self-play in which process 1 gets no valid proposal, then resumed.

  At last process 1 asks for somebody who is not there.
  """
  from jaxdistill.run.loop import Loop

  def none(task, text):
    del task, text

  reads = (tasks.SmallTask.parse_problem, none)[jax.process_index()]
  config = configs.base_config('sqlm')
  config.eval_every, config.checkpoint_every = 2, 2
  config.method.problems, config.method.samples = 4, 4
  config.method.propose_every, config.method.archive = 1, 1000
  config.eval.splits, config.eval.problems = ('test',), 8
  config.eval.samples, config.eval.max_tokens = 4, 32
  config.guard.problems, config.guard.samples = 8, 4  # eval's programs
  config.method.max_tokens = 32
  configs.prepare(config)
  run, out = configs.build(config), []
  deaf = mock.patch.object(tasks.SmallTask, 'parse_problem', reads)
  with jax.set_mesh(run.mesh), deaf:
    for steps in (2, 4):
      part = dataclasses.replace(run, steps=steps)
      loop = Loop(part, workdir, config.to_dict())
      with compiled() as programs:
        first, *_ = [len(programs) for _ in loop.steps()]
      summary = loop.summary | {'first_step': loop.first_step}
      summary |= {'compiled': programs[first:]}
      out.append(summary | {'archive': loop.method_state['archive']})
    player, said = loop.player(loop.state.params), []
    for wrong in (('judge', '1+1'), ('proposer', 'propose add:'), SPOILT):
      mine = (('solver', 'solve 1+1:'), wrong)[jax.process_index()]
      try:
        player.generate([Prompt(*mine)], rollout.Sampling(), loop.key)
      except ValueError as e:
        said.append(str(e))
  return [*out, dist.gather_texts(said)]


def stopped(workdir: str) -> list[int]:
  """A run whose process 1 is asked to stop in step 1; then it goes on.

  What step 2 trains on, drawn ahead, is then on disk, a part by each process.
  """
  from jaxdistill.run.loop import Loop
  from jaxdistill.run.stopping import Stopped

  config = configs.base_config('sft')
  config.model, config.steps, config.eval_every = 'small-fresh', 4, 4
  config.method.problems, config.batch.sequences = 4, 4
  config.ahead = True
  config.eval.splits, config.eval.problems = ('test',), 8
  config.eval.samples, config.eval.max_tokens = 4, 32
  config.guard.problems, config.guard.samples = 8, 4
  run, first = configs.build(config), []
  with jax.set_mesh(run.mesh):
    loop = Loop(run, workdir, config.to_dict())
    train_step = loop._train_step

    def asked(step):
      if step == 1 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
      return train_step(step)

    loop._train_step = asked
    try:
      loop.train()
    except Stopped:
      first.append(loop.first_step)
    again = Loop(run, workdir, config.to_dict())
    first.append(again.first_step)
    first.append(len(again._pending.collected.updates))
    take = again._train_step

    def counted(step):
      with compiled() as programs:
        metrics = take(step)
      first.extend([len(programs)] if step == 3 else [])
      return metrics

    again._train_step = counted
    again.train()
  # What process 0 refuses, all refuse.
  try:
    dist.by_first(lambda: int('x'))
  except ValueError:
    first.append(-1)
  try:  # and what breaks on one, breaks on all
    dist.together(lambda: 1 // jax.process_index())
  except ArithmeticError:
    first.append(-2)
  except RuntimeError as e:
    assert 'ZeroDivisionError' in str(e)
  return first


@contextlib.contextmanager
def compiled() -> Iterator[list[str]]:
  """A list that holds the name of each program compiled in here."""
  programs = []

  def listen(event, seconds, fun_name='', **_):
    del seconds
    if event == '/jax/core/compile/backend_compile_duration':
      programs.append(fun_name)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield programs
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def gather() -> list:
  """Texts of every process, uneven in number and in bytes; and of any size.

  Returns:
    The texts, whether longer ones came whole, and how many programs those took.
  """
  mine = [['a', 'b\n"ü'], []][jax.process_index() % 2]
  texts, whole = dist.gather_texts(mine), []
  with compiled() as programs:
    for sizes in ((1012, 3), (1013, 2000), (0, 200_000), (66_552, 66_553)):
      found = dist.gather_texts(['é' * sizes[jax.process_index()]])
      whole.append(found == ['é' * n for n in sizes])
  return [texts, whole, len(programs)]


def refills() -> list:
  """Generation where few have room, and process 1 has few prompts or none.

  Returns:
    By case what both drew: tokens, log-probs and the finish of each.
  """
  import players

  out, mesh = [], dist.make_mesh()
  small = mock.patch.multiple(schedule, PAGE=8, _LEAST=4)
  player = players.endless(players.make_player(mesh))
  where = dist.replicated(mesh)

  def everywhere(x):
    return jax.make_array_from_callback(
      x.shape, where, np.asarray(x).__getitem__
    )

  params = jax.tree.map(everywhere, player.params)
  player = dataclasses.replace(player, params=params)
  with jax.set_mesh(mesh), small:
    for first, second, samples, room in REFILLS:
      parts = slice(0, first), slice(first, first + second)
      mine = players.MANY[parts[jax.process_index()]]
      sampling = rollout.Sampling(samples, max_tokens=12)
      room = {'return_value': room}
      with mock.patch.object(player_module, 'rows_within', **room):
        drawn = players.flat(player.generate(mine, sampling, players.KEY))
      said = [
        json.dumps([r.tokens_T.tolist(), r.logp_T.tolist(), r.finish])
        for r in drawn
      ]
      out.append([json.loads(text) for text in dist.gather_texts(said)])
  return out


def asking(run: str, out: str) -> list[list[str]]:
  """Command lines that ask the model of a run, sharded over all devices."""
  model = ['--workdir', run, '--mesh', '1,4,1']
  few = ['--problems', '9', '--samples', '4', '--max_tokens', '32']
  return [
    ['eval', *model, '--split', 'dev', *few, '--out', f'{out}.json'],
    ['gap', *model, *few, '--verifier', 'vote'],
    ['context', *model, *few, '--contexts', 'none,other'],
    ['export', *model, '--to', out],
    ['chat', *model, '--samples', '4'],
  ]


def talk(words: Sequence[str], typed: Iterator[str]) -> str:
  """What a command prints while a person types; it must end well."""
  said = io.StringIO()
  with (
    contextlib.redirect_stdout(said),
    mock.patch('builtins.input', lambda prompt: next(typed)),
  ):
    assert main(list(words)) == 0, said.getvalue()
  return said.getvalue()


def asked(workdir: str) -> list[list[str]]:
  """The model of the run of `uneven`, asked on two hosts.

  Returns:
    What process 0 printed at each command, and what process 1 did.
  """
  first = jax.process_index() == 0
  typed = iter(TYPED if first else ())  # nobody sits at the other
  root = pathlib.Path(workdir)
  words = asking(str(root.with_name('uneven')), str(root))
  return [dist.gather_texts([talk(x, typed)]) for x in words]


def written(folder: str) -> list:
  """Targets of a teacher, a shard by each process, read by both.

  Returns:
    The manifest; and of each process all tokens and log-probs that it reads.
  """
  from jaxdistill import api
  from jaxdistill.run.pool import pool_of

  found = api.targets('small-late', folder, **TARGETS)
  pool = pool_of(api.task('small'), TARGETS['problems'])
  read = [
    [t.tokens_T.tolist(), t.ids_Tk.tolist(), t.top_Tk.tolist()]
    for i in range(len(pool))
    for t in found[pool[i].text]
  ]
  return [found.manifest, *dist.gather_texts([json.dumps(read)])]


def knows_half(judge):
  """A judge that knows nothing of the problems of the second of two hosts."""

  def judged(problem, rollouts_G):
    if problem.address < SMALL['problems'] // 2:
      return judge(problem, rollouts_G)
    nothing_G = [None] * len(rollouts_G)
    return contexts.Known(None, nothing_G, nothing_G)

  return judged


def learned(workdir: str) -> dict[str, list[dict[str, float]]]:
  """What systems measure in a step, and in one that teaches one host only."""
  from jaxdistill.run.loop import Loop

  out = {}
  halves = {k: knows_half(judge) for k, judge in contexts.JUDGES.items()}
  for name in LEARNED:
    config = configs.read_config(f'{LEARN}:{name}', FEW.items())
    configs.prepare(config)
    run = configs.build(config)
    with jax.set_mesh(run.mesh):
      loop = Loop(run, os.path.join(workdir, name), config.to_dict())
      steps = loop.steps()
      lines = [next(steps)]
      with mock.patch.dict(contexts.JUDGES, halves):
        lines += [next(steps)]
      next(steps)  # the end
    out[name] = [
      {
        k: v
        for k, v in line.items()
        if k.startswith(('train/', 'rollout/')) and not k.endswith('_per_s')
      }
      for line in lines
    ]
  return out


def state_of(step: int, devices: Sequence[jax.Device] | None = None) -> dict:
  """Arrays that lie on all devices of all processes."""
  n = len(devices or jax.devices())
  mesh = dist.make_mesh(fsdp=n, devices=devices)
  values = np.arange(64.0, dtype=np.float32).reshape(8, 8) + step
  where = dist.sharding(mesh, ('embed',), values.shape)
  part = values.__getitem__
  return {'w': jax.make_array_from_callback(values.shape, where, part)}


def saved(workdir: str) -> list:
  """Checkpoints and a past version that all processes wrote a part of.

  Process 1 is slow to hash its part of the second, whose manifest waits for it.
  What is then found is read by all.
  """
  bank, seen = Bank(os.path.join(workdir, 'anchors')), []
  checkpoints = Checkpoints(workdir)
  manifest = pathlib.Path(workdir, 'manifests', '4.json')
  hashes, slow = saving.hashes, jax.process_index() == 1

  def slowly(*args):
    time.sleep(1.5)
    return hashes(*args)

  for step in (2, 4):
    bank.save('base', step, state_of(step))
    bank.wait()
    if slow and step == 4:
      saving.hashes = slowly
    needs = [bank.root / f'base/{step}']
    checkpoints.save(step, state_of(step), {'step': step}, needs)
    if step == 4 and not slow:  # it is on disk, and is none yet
      checkpoints._manager.wait_until_finished()
      seen.append(manifest.exists())
  saving.hashes = hashes
  checkpoints.close()
  dist.barrier('all is sealed')
  checkpoints.read_together()
  read = len(checkpoints._read)
  step, _ = dist.by_first(checkpoints.recover)
  checkpoints.reload()
  found, record = checkpoints.restore(step, state_of(0))
  same = [
    np.array_equal(x.data, y.data)
    for x, y in zip(
      found['w'].addressable_shards,
      state_of(4)['w'].addressable_shards,
      strict=True,
    )
  ]
  return [seen, read, step, record, dist.gather_texts([str(all(same))])]


def pods(folder: str) -> list:
  """Hosts held against each other: alike, and then one that deviates in all.

  Returns:
    Of both the checks, and the exit codes.
  """
  from jax._src import distributed

  from jaxdistill.cli import pod as verb
  from jaxdistill.run import pod, trial

  root, process = pathlib.Path(folder), jax.process_index()
  client = distributed.global_state.client
  mine = root / str(process)
  mine.mkdir(parents=True)
  config, workdir = str(mine / 'config.py'), str(root / 'run')
  (mine / 'config.py').write_text(CONFIG)
  found, said = [], io.StringIO()

  def checked(meeting, config, workdir):
    checks = [*verb.look(meeting, (config, ()), workdir)]
    with contextlib.redirect_stdout(said):
      found.append(verb.report(iter(checks), meeting, as_json=True))

  alike = pod.Meeting(client, process, 2)
  checked(alike, config, workdir)
  other = pod.Meeting(client, process, 2, lambda: time.time() + 5 * process)
  other._asked = alike._asked
  losses, package, faulty = trial.losses, pod.PACKAGE, 1.0
  if process == 1:
    deviating = CONFIG.replace('return', 'config.seed = 7\n  return')
    (mine / 'config.py').write_text(deviating)
    shutil.copytree(package, mine / 'jaxdistill', ignore=NO_DATA)
    package, faulty = mine / 'jaxdistill', 1.01
    (package / 'run/loop.py').write_text('# older')
    workdir = str(mine / 'config.py' / 'run')  # below what is no folder

  def computed(devices):
    return losses(devices) * faulty

  planted = mock.patch.object(pod, 'PACKAGE', package)
  with planted, mock.patch.object(trial, 'losses', computed):
    checked(other, config, workdir)
  return [found, said.getvalue().splitlines()]


WORKS = (
  *(pods, replay, uneven, stopped, asked, gather, refills, written, learned),
  saved,
)


def work():
  coordinator, process, out, *texts = sys.argv[1:]
  jax.config.update('jax_disable_most_optimizations', True)  # to compile fast
  share_compiled()
  processes = int(os.environ.get('PROCESSES', 2))
  dist.start_hosts(coordinator, processes, int(process))
  done = []
  for name, _, folder in (text.partition('=') for text in texts):
    do = {f.__name__: f for f in WORKS}[name]
    done.append(do(*([folder] if folder else [])))
    print(f'{name} by {time.process_time():.1f} s', file=sys.stderr)
  if jax.process_index() == 0:
    with open(out, 'w') as file:
      json.dump(done, file)


if __name__ == '__main__':
  work()
