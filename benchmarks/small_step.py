"""A GRPO step of a small model as a newcomer would set it up: three libraries.

  python benchmarks/small_step.py --tunix PYTHON --trl PYTHON

4 prompts of 64 tokens, 4 answers each of 64 tokens, beta 0.04, AdamW, a reward
that costs nothing. A step's time is that from one step's first reward to the
next one's, so all that a library does is in it. README.md beside this file says
what is equal and what is not.
"""

import argparse
import itertools
import random
import statistics
import sys
import tempfile
import time

import numpy as np
import shape
import sides

PROMPTS, SAMPLES, TOKENS, LENGTH, BETA = 4, 4, 64, 64, 0.04
LR = 1e-6  # rewards by chance must not teach the model to end
MOST = 400  # prompts there are


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, SIDES):
    return
  pythons = {'ours': sys.executable, 'ours_fitted': sys.executable}
  pythons |= {'tunix': args.tunix, 'trl': args.trl}
  pythons = {s: p for s, p in pythons.items() if s in args.sides.split(',')}
  measured = sides.Sides.of(__file__, args, pythons)
  runs = {side: [] for side in measured.pythons}
  with tempfile.TemporaryDirectory() as folder:
    shape.write(folder, 'random')
    job = {'weights': folder, 'steps': args.steps, 'threads': args.threads}
    job['device'] = args.device
    for i, side in measured.in_turn(args.runs):
      found = measured.start(side, job)
      runs[side].append(found)
      print(
        f'run {i + 1} of {args.runs}, {side}: {warm(found):.3f} s a step, '
        f'others used {found["others"]:.2f} CPUs',
        flush=True,
      )
      record = {'machine': sides.machine(), 'runs': runs}
      if all(runs.values()):
        record['summary'] = {side: summary(r) for side, r in runs.items()}
      sides.write(args.out, record)
  print('\n' + sides.text(table(runs)))
  print(f'\nall runs: {args.out}')


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 5, 'small_step')
  add = parser.add_argument
  add('--tunix', help='a Python that has google-tunix')
  add('--trl', help='a Python that has torch and trl')
  add('--sides', default=','.join(SIDES), help=f'({",".join(SIDES)})')
  add('--steps', type=int, default=12, help='of a run, two not timed (12)')
  return parser


def prompts() -> list[str]:
  """The same on all sides, by words of the shape's vocabulary."""
  ids = np.random.default_rng(0).integers(4, shape.VOCABULARY, (MOST, LENGTH))
  return [' '.join(shape.word(i) for i in row) for row in ids]


def pay(n: int) -> list[float]:
  """Rewards by chance: the answers have no end, so they may be paid nothing."""
  return [random.random() for _ in range(n)]


def gaps(times: list[float]) -> list[float]:
  return [b - a for a, b in itertools.pairwise(times)]


def warm(found: dict) -> float:
  """The median step of a run; the first gap has compilations in it."""
  return statistics.median(gaps(found['times'])[1:])


def summary(runs: list[dict]) -> dict:
  def of(get):
    seen = [get(r) for r in runs]
    return [statistics.median(seen), min(seen), max(seen)]

  return {
    'step_seconds': of(warm),
    'first_reward_seconds': of(lambda r: r['times'][0]),
    'first_step_seconds': of(lambda r: gaps(r['times'])[0]),
    'peak_gb': of(lambda r: r['peak_gb']),
    'cpus_of_others': of(lambda r: r['others']),
    'version': runs[0]['version'],
  }


def table(runs: dict[str, list[dict]]) -> list[list[str]]:
  base = statistics.median(map(warm, next(iter(runs.values()))))
  rows = [
    ['side', 's a step (min to max)', 'times ours', 'first reward after, s']
  ]
  rows[0] += ['first step, s', 'peak GB', 'others']
  for side, seen in runs.items():
    steps = [warm(r) for r in seen]
    rows.append(
      [
        side,
        sides.spread(steps, '.3f'),
        f'{statistics.median(steps) / base:.2f}',
        f'{statistics.median(r["times"][0] for r in seen):.1f}',
        f'{statistics.median(gaps(r["times"])[0] for r in seen):.1f}',
        f'{statistics.median(r["peak_gb"] for r in seen):.2f}',
        f'{max(r["others"] for r in seen):.2f}',
      ]
    )
  return rows


# The sides: each returns when each step's rewards were asked for, from the
# beginning of the process on.


def ours(job: dict, **changes) -> dict:
  """`jaxdistill.steps` with the defaults of method `grpo`."""
  begin = time.perf_counter()
  import pathlib

  import jax

  import jaxdistill as jd
  from jaxdistill.config import base_config

  config = base_config('grpo')
  changes |= {
    'model': job['weights'],
    'task': str(pathlib.Path(__file__).with_name('small_task.py')),
    'steps': job['steps'],
    'method.problems': PROMPTS,
    'method.samples': SAMPLES,
    'method.max_tokens': TOKENS,
    'method.kl': BETA,
    'optimizer.lr': LR,
    # The others neither evaluate nor save.
    'eval_every': 1000,
    'checkpoint_every': 1000,
    'eval.problems': 1,
    'eval.samples': 1,
    'eval.max_tokens': 1,
  }
  with (
    tempfile.TemporaryDirectory() as folder,
    jd.steps(config, folder, **changes) as steps,
  ):
    name = 'rollout/length'  # the line of the end has none
    lengths = [line[name] for line in steps if name in line]
    seen = steps.loop.run.task.seen
  times = [when - begin for when in seen[::PROMPTS]]
  _check(lengths)
  return {'version': f'jax {jax.__version__}', 'times': times}


def _check(lengths) -> None:
  if set(lengths) != {TOKENS}:
    raise ValueError(f'answers of {sorted(set(lengths))} tokens')


def ours_fitted(job: dict) -> dict:
  """The same, with as many sequences as a step has problems, of their size."""
  return ours(
    job,
    **{
      'batch.length': LENGTH + SAMPLES * TOKENS,
      'batch.sequences': PROMPTS,
    },
  )


class _Words:
  """The vocabulary as Tunix wants it; a begin mark of 0 is none."""

  def encode(self, text, **_):
    return [int(word[1:]) for word in text.split()]

  def decode(self, ids, **_):
    return ' '.join(shape.word(i) for i in ids)

  def bos_id(self):
    return 0

  def eos_id(self):
    return shape.END

  def pad_id(self):
    return shape.PAD


def tunix(job: dict) -> dict:
  """`GRPOLearner` with the vanilla rollout."""
  begin = time.perf_counter()
  import importlib.metadata

  import jax
  import jax.numpy as jnp
  import optax
  from rollout import tunix_config
  from tunix.models.qwen3 import model as qwen3
  from tunix.models.qwen3.params import create_model_from_safe_tensors
  from tunix.rl import rl_cluster
  from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
  from tunix.rl.rollout.base_rollout import RolloutConfig

  config = tunix_config(qwen3)
  devices = np.array(jax.devices()[:1]).reshape(1, 1)
  mesh = jax.sharding.Mesh(devices, ('fsdp', 'tp'))

  def load():
    return create_model_from_safe_tensors(
      job['weights'], config, mesh, dtype=jnp.float32
    )

  role = rl_cluster.Role
  cluster = rl_cluster.RLCluster(
    actor=load(),
    reference=load(),
    tokenizer=_Words(),
    cluster_config=rl_cluster.ClusterConfig(
      role_to_mesh=dict.fromkeys(
        (role.ACTOR, role.REFERENCE, role.ROLLOUT), mesh
      ),
      training_config=rl_cluster.RLTrainingConfig(
        actor_optimizer=optax.adamw(LR),
        eval_every_n_steps=1000,
        max_steps=job['steps'],
      ),
      rollout_config=RolloutConfig(
        max_tokens_to_generate=TOKENS,
        max_prompt_length=LENGTH,
        kv_cache_size=LENGTH + TOKENS,
        temperature=1.0,
        top_p=1.0,
      ),
    ),
  )
  times, lengths = [], []

  def reward(prompts, completions, **_):
    del prompts
    times.append(time.perf_counter() - begin)
    lengths.extend(len(c.split()) for c in completions)
    return pay(len(completions))

  learner = GRPOLearner(
    rl_cluster=cluster,
    algo_config=GRPOConfig(num_generations=SAMPLES, beta=BETA),
    reward_fns=reward,
  )
  texts = prompts()
  with mesh:
    learner.train(
      [
        {'prompts': np.array(texts[i * PROMPTS : (i + 1) * PROMPTS])}
        for i in range(job['steps'])
      ]
    )
  _check(lengths)
  version = importlib.metadata.version('google-tunix')
  return {'version': f'tunix {version}, jax {jax.__version__}', 'times': times}


def trl(job: dict) -> dict:
  """`GRPOTrainer`, in float32 and without what only saves memory."""
  begin = time.perf_counter()
  import torch

  torch.set_num_threads(job['threads'])
  import datasets
  import transformers
  import trl as library

  device = sides.torch_device(job['device'])

  times, lengths = [], []

  def reward(completions, completion_ids, **_):
    times.append(time.perf_counter() - begin)
    lengths.extend(map(len, completion_ids))
    return pay(len(completions))

  with tempfile.TemporaryDirectory() as folder:
    trainer = library.GRPOTrainer(
      model=job['weights'],
      reward_funcs=reward,
      args=library.GRPOConfig(
        output_dir=folder,
        model_init_kwargs={'dtype': 'float32'},
        bf16=False,
        use_cpu=device == 'cpu',
        gradient_checkpointing=False,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=TOKENS,
        max_steps=job['steps'],
        beta=BETA,
        learning_rate=LR,
        shuffle_dataset=False,
        dataloader_pin_memory=False,
        logging_strategy='no',
        save_strategy='no',
        report_to='none',
        disable_tqdm=True,
      ),
      train_dataset=datasets.Dataset.from_dict({'prompt': prompts()}),
      processing_class=transformers.AutoTokenizer.from_pretrained(
        job['weights'], padding_side='left'
      ),
    )
    trainer.train()
  _check(lengths)
  version = f'trl {library.__version__}, torch {torch.__version__}'
  return {'version': version, 'times': times}


SIDES = {'ours': ours, 'ours_fitted': ours_fitted, 'tunix': tunix, 'trl': trl}


if __name__ == '__main__':
  main()
