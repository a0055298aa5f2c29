"""One training step on known answers: jaxdistill beside TRL's GRPOTrainer.

  python benchmarks/grpo_step.py --model DIRECTORY --python TRL_PYTHON

Run it with the Python that has jaxdistill; TRL_PYTHON is one that has TRL. Both
sides start from the same weights, are asked the same prompts (the same ids) and
learn with the same objective, optimizer and LoRA; README.md beside this file
says what is equal and what is not. Each run is a process of its own, and the
sides take turns. Linux only: peak memory and load are read from /proc.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sides

SIDES = {
  'ours': 'jaxdistill',
  'trl': 'TRL',
  'trl_answers': "TRL, answers' logits only",
}
GRPO = {'method.name': 'grpo'}
SETTINGS = (  # of the real run, with known answers in place of self-play
  pathlib.Path(__file__).parents[1] / 'configs' / 'sqlm_qwen05_addition.py'
)
LONGEST = 8  # answer of the real run, whose batches are laid out for it
AUTOMATIC = {'batch.length': '0', 'batch.sequences': '0'}
DTYPES = {'cpu': 'float32', 'gpu': 'bfloat16'}
RANDOM = pathlib.Path(__file__).with_name('random_task.py')
MAKE = """
import sys, torch, transformers
shape, folder = sys.argv[1:]
torch.manual_seed(0)
config = transformers.AutoConfig.from_pretrained(shape)
make = transformers.AutoModelForCausalLM.from_config
make(config, dtype=torch.bfloat16).save_pretrained(folder)
"""
MODULES = [  # every linear map of a layer
  *('q_proj', 'k_proj', 'v_proj', 'o_proj'),
  *('gate_proj', 'up_proj', 'down_proj'),
]


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, RUNS):
    return
  if not args.model or not args.python:
    raise SystemExit('grpo_step: --model and --python are needed')
  chosen = args.sides.split(',')
  if unknown := set(chosen) - set(SIDES):
    raise SystemExit(
      f'grpo_step: --sides has {min(unknown)!r}, which is none of '
      + ', '.join(SIDES)
    )
  pythons = {s: sys.executable if s == 'ours' else args.python for s in chosen}
  measured = sides.Sides.of(__file__, args, pythons)
  compare(args, measured, SIDES, make_job)


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 3, 'grpo_step')
  add_options(parser, problems=32, names=SIDES)
  return parser


def add_options(
  parser: argparse.ArgumentParser,
  problems: int,
  names: Iterable[str],
  rows: int = 32,
) -> None:
  """The options of a step of a given model, beside those of `sides.parser`."""
  add, names = parser.add_argument, ','.join(names)
  add('--model', help="a directory in Hugging Face's layout")
  add('--python', help='a Python that has trl, peft, torch and datasets')
  add('--steps', type=int, default=3, help='timed steps of a run (3)')
  add('--warmup', type=int, default=1, help='steps before these (1)')
  add(
    '--problems',
    type=int,
    default=problems,
    help=f'of a step, 8 answers each ({problems})',
  )
  add(
    '--trl_rows',
    type=int,
    default=rows,
    help=f'of a microbatch of TRL ({rows})',
  )
  add(
    '--max_tokens',
    type=int,
    default=LONGEST,
    help=f'of the longest answer ({LONGEST})',
  )
  add(
    '--random',
    action='store_true',
    help='random weights in the shape of --model, which needs to have none;\n'
    'what is right is decided by chance',
  )
  add('--sides', default=names, help=f'({names})')


# What starts the runs


def compare(
  args: argparse.Namespace,
  measured: sides.Sides,
  names: Mapping[str, str],
  make: Callable[[argparse.Namespace], dict],
) -> None:
  """Runs the sides in turn, prints a table and writes all that was seen.

  Args:
    args: The options.
    measured: The sides.
    names: By side, what the table calls it.
    make: Makes the job of the options.
  """
  script = pathlib.Path(measured.script).stem
  os.environ['JAX_PLATFORMS'] = 'cpu'  # here: a GPU is for the sides alone
  try:
    job = make(args)
  except ValueError as e:
    raise SystemExit(f'{script}: {e}') from None
  with tempfile.TemporaryDirectory() as folder:
    if args.random:
      _make_random(args, folder)
      job['config']['model'] = folder
    runs = _run(args, measured, job)
  head = ('median (min to max)', *[names.get(side, side) for side in runs])
  print('\n' + sides.text([head, *table(runs, args.warmup)]))
  print(f'\nall steps of all runs: {args.out}')


def _make_random(args: argparse.Namespace, folder: str) -> None:
  """A model in the shape of another, with the files that are not weights."""
  subprocess.run([args.python, '-c', MAKE, args.model, folder], check=True)
  for file in pathlib.Path(args.model).iterdir():
    if file.suffix in ('.json', '.jinja', '.txt') and '.index' not in file.name:
      shutil.copy(file, folder)


def _run(
  args: argparse.Namespace, measured: sides.Sides, job: dict
) -> dict[str, list[dict]]:
  """What was seen of each side's runs."""
  runs = {side: [] for side in measured.pythons}
  script = pathlib.Path(measured.script).stem
  for i, side in measured.in_turn(args.runs):
    found = measured.start(side, job)
    runs[side].append(found)
    timed = found['steps'][args.warmup :]
    print(
      f'run {i + 1} of {args.runs}, {side}: '
      f'{statistics.median(s["seconds"] for s in timed):.2f} s a step, '
      f'others used {found["others"]:.2f} CPUs',
      flush=True,
    )
    _write(args, runs)  # hours of work: what is there stays there
    ends = {side: r[-1]['eos_ids'] for side, r in runs.items() if r}
    if len({*map(tuple, ends.values())}) > 1:
      raise SystemExit(f'{script}: the sides end answers otherwise: {ends}')
  return runs


def _write(args: argparse.Namespace, runs: dict[str, list[dict]]) -> None:
  options = (
    *('steps', 'warmup', 'runs', 'problems', 'threads', 'trl_rows'),
    *('max_tokens', 'random', 'device'),
  )
  rows = table(runs, args.warmup) if all(runs.values()) else []
  record = {
    'model': pathlib.Path(args.model).resolve().name,
    'machine': sides.machine(),
    'options': {name: getattr(args, name) for name in options},
    'table': {name: dict(zip(runs, c, strict=True)) for name, *c in rows},
    'runs': runs,
  }
  sides.write(args.out, record)


def make_job(
  args: argparse.Namespace, method: Mapping[str, Any] = GRPO
) -> dict:
  """What both sides are to do; the prompts as texts and as ids.

  Args:
    args: The options.
    method: Keys of the config that make it the method that is measured.
  """
  from jaxdistill.config import read_config
  from jaxdistill.data.tasks.load import load_task
  from jaxdistill.data.text.tokenizer import TextTokenizer

  overrides = {
    **method,
    'method.problems': str(args.problems),
    'method.max_tokens': str(args.max_tokens),
    'optimizer.schedule': 'constant',
    'model': args.model,
    'dtype': DTYPES[args.device],
  }
  if args.random:
    overrides['task'] = str(RANDOM)
  if (args.device, args.max_tokens) != ('cpu', LONGEST):
    overrides |= AUTOMATIC
  config = read_config(str(SETTINGS), overrides.items())
  answers = args.problems * config.method.samples
  if args.trl_rows < 1 or answers % args.trl_rows:
    raise ValueError(
      f'--trl_rows {args.trl_rows} does not divide the {answers} answers of a '
      'step'
    )
  task = load_task(config.task)
  tokenizer = TextTokenizer.from_directory(args.model)
  problems = task.problems('train')
  asked = []
  for i in range(args.problems * (args.warmup + args.steps)):
    text = task.solver_prompt(problems[i])
    ids = list(tokenizer.prompt(text))
    # Of a task that is paid by chance it is known before.
    worth = task.reward(problems[i], [None] * config.method.samples)
    known = {'answer': problems[i].answer, 'worth': worth}
    asked.append({'text': text, 'ids': ids, **known})
  return {
    'config': config.to_dict(),
    'steps': args.warmup + args.steps,
    'threads': args.threads,
    'trl_rows': args.trl_rows,
    'device': args.device,
    'random': args.random,
    'asked': asked,
  }


def table(runs: dict[str, list[dict]], warmup: int) -> list[tuple[str, ...]]:
  """Rows of a name and one cell per side."""

  def steps(side, name):
    return [s[name] for run in runs[side] for s in run['steps'][warmup:]]

  def spread(of):
    return lambda side: sides.spread(of(side))

  def each(name):
    return lambda side: [run[name] for run in runs[side]]

  def mean(name):
    return lambda side: f'{statistics.mean(steps(side, name)):.2f}'

  def compiled(part):
    def cell(side):
      if not side.startswith('ours'):
        return '-'
      seconds = [
        sum(s['compiling'] for s in run['steps'][part]) for run in runs[side]
      ]
      return f'{statistics.median(seconds):.2f}'

    return cell

  def ratio(side):
    if not (ours := [s for s in runs if s.startswith('ours')]):
      return '-'
    middles = [statistics.median(steps(s, 'seconds')) for s in (side, ours[0])]
    return f'{middles[0] / middles[1]:.2f}'

  on_gpu = all('gpu_gb' in run for side in runs for run in runs[side])
  wanted = {
    'seconds per step': spread(lambda side: steps(side, 'seconds')),
    '  times ours': ratio,
    '  of these, generating': spread(lambda side: steps(side, 'generating')),
    '  of these, learning': spread(lambda side: steps(side, 'learning')),
    'first step': spread(
      lambda side: [run['steps'][0]['seconds'] for run in runs[side]]
    ),
    'XLA compiles, s a run': compiled(slice(None)),
    '  of these, in timed steps': compiled(slice(warmup, None)),
    'imports and loading, s': spread(each('loading')),
    'peak memory, GB': spread(each('peak_gb')),
    **({'peak GPU memory, GB': spread(each('gpu_gb'))} if on_gpu else {}),
    'weights that move': lambda side: f'{runs[side][0]["trainable"]:,}',
    'tokens per answer': mean('tokens'),
    'different answers per problem': mean('different'),
    'reward': mean('reward'),
    'CPUs used by others': spread(each('others')),
    'version': lambda side: runs[side][0]['version'],
  }
  return [(name, *map(cell, runs)) for name, cell in wanted.items()]


# The sides


def run_ours(job: dict, paid: str = 'train/reward') -> dict:
  """What `jaxdistill train` does at each step, without evaluating or saving.

  Args:
    job: What to do.
    paid: The metric that is the share of right answers.
  """
  begin = time.perf_counter()
  import jax
  from ml_collections import ConfigDict

  import jaxdistill  # noqa: F401  # its imports are part of loading
  from jaxdistill import config as configs
  from jaxdistill.run.loop import Loop

  compiling = [0.0]

  def listen(event, seconds, **_):
    if event.endswith('backend_compile_duration'):
      compiling[0] += seconds

  jax.monitoring.register_event_duration_secs_listener(listen)
  if jax.default_backend() != job['device']:  # JAX goes on without a GPU
    raise SystemExit(f'JAX finds no {job["device"]}: {jax.devices()}')
  config = ConfigDict(job['config'], convert_dict=True)
  configs.check(config)
  run = configs.build(config)
  problems, n = run.task.problems('train'), run.method.problems
  steps = []
  with jax.set_mesh(run.mesh), tempfile.TemporaryDirectory() as folder:
    loop = Loop(run, folder, config.to_dict())
    loop.draw = lambda step: [
      dataclasses.replace(problems[step * n + i], address=i) for i in range(n)
    ]
    jax.block_until_ready((loop.state, loop.frozen))
    loading = time.perf_counter() - begin
    for step in range(job['steps']):
      compiling[0], before = 0.0, time.perf_counter()
      loop._refresh_anchors(step, {})
      metrics = loop._train_step(step)
      jax.block_until_ready(loop.state)
      after = time.perf_counter()
      rollouts = pathlib.Path(folder, 'rollouts', f'{step:06d}.jsonl')
      records = [json.loads(x) for x in rollouts.read_text().splitlines()]
      steps.append(
        {
          'seconds': after - before,
          'generating': metrics['time/collect_s'],
          'learning': metrics['time/update_s'],
          'compiling': compiling[0],
          'tokens': metrics['rollout/length'],
          'reward': metrics[paid],
          'different': statistics.mean(len({*r['texts']}) for r in records),
        }
      )
    trainable = sum(x.size for x in jax.tree.leaves(loop.state.params))
    loop.checkpoints.close()
  device = jax.devices()[0]
  used = (device.memory_stats() or {}).get('peak_bytes_in_use', 0)
  return {
    **_gpu(job, device.device_kind, used),
    'version': f'jax {jax.__version__}',
    'loading': loading,
    'steps': steps,
    'trainable': trainable,
    'eos_ids': sorted(run.loaded.tokenizer.eos_ids),
  }


def _gpu(job: dict, name: str, used: int) -> dict:
  """What is said of a GPU, if one is measured."""
  if job['device'] == 'cpu':
    return {}
  return {'gpu': name, 'gpu_gb': used / 1e9}


def run_trl(job: dict, *, answers_only: bool) -> dict:
  """The same with TRL, set up for speed.

  Args:
    job: What to do.
    answers_only: Whether the output projection is applied where an answer's
      tokens are only, as TRL does on GPUs; without it, on a CPU, TRL applies it
      to the prompts' tokens too.
  """
  begin = time.perf_counter()
  import trl

  if answers_only:  # there it decides this, and nothing else
    from trl.trainer import utils

    assert hasattr(utils, '_use_triton'), f'not in trl {trl.__version__}'
    utils._use_triton = lambda device: True

  n = job['config']['method']
  own = {
    'loss_type': n['objective'],
    'scale_rewards': 'none',
    'beta': n['kl'],
    'epsilon': n['clip_low'],
    'epsilon_high': n['clip_high'],
  }
  return train_trl(job, begin, trl.GRPOTrainer, trl.GRPOConfig, own)


def train_trl(
  job: dict, begin: float, trainer_class: Any, config_class: Any, own: dict
) -> dict:
  """Trains by one of TRL's trainers, and watches its steps.

  Args:
    job: What to do.
    begin: When loading began.
    trainer_class: One that generates answers and asks for their rewards.
    config_class: Of its settings.
    own: Those that other trainers do not have, or otherwise.
  """
  import torch

  torch.set_num_threads(job['threads'])
  import datasets
  import peft
  import transformers
  import trl

  config, asked = job['config'], job['asked']
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    config['model'], padding_side='left'
  )
  prompts = [_prompt(tokenizer, x['text'], x['ids']) for x in asked]
  for x in job.get('others', ()):  # that are made on the way
    _prompt(tokenizer, x['text'], x['ids'])
  steps, marks = [], {}
  pay = _by_place if job['random'] else _by_answer

  def now():
    if job['device'] == 'gpu':
      torch.cuda.synchronize()
    return time.perf_counter()

  def right(prompts, completions, completion_ids, answer, worth, **_):
    marks['generated'] = now()
    texts = [c[0]['content'] for c in completions]
    rewards = pay(texts, answer, worth)
    by_problem = collections.defaultdict(set)
    for prompt, text in zip(prompts, texts, strict=True):
      by_problem[prompt[0]['content']].add(text)
    marks['seen'] = {
      'tokens': statistics.mean(map(len, completion_ids)),
      'reward': statistics.mean(rewards),
      'different': statistics.mean(map(len, by_problem.values())),
    }
    return rewards

  class Clock(transformers.TrainerCallback):
    def on_train_begin(self, *args, **kwargs):
      marks['before'] = marks['train'] = now()

    def on_step_end(self, *args, **kwargs):
      after = now()
      steps.append(
        {
          'seconds': after - marks['before'],
          'generating': marks['generated'] - marks['before'],
          'learning': after - marks['generated'],
          **marks['seen'],
        }
      )
      print(f'{after - marks["before"]:.1f} s', file=sys.stderr)  # some wait
      marks['before'] = time.perf_counter()

  with tempfile.TemporaryDirectory() as folder:
    trainer = trainer_class(
      model=config['model'],
      reward_funcs=right,
      args=config_class(output_dir=folder, **_settings(job), **own),
      train_dataset=datasets.Dataset.from_dict(
        {'prompt': prompts}
        | {name: [x[name] for x in asked] for name in ('answer', 'worth')}
      ),
      processing_class=tokenizer,
      callbacks=[Clock()],
      peft_config=peft.LoraConfig(
        task_type='CAUSAL_LM',
        r=config['rank'],
        lora_alpha=config['alpha'],
        lora_dropout=0.0,
        target_modules=MODULES,
      ),
    )
    trainer.train()
  moving = [p for p in trainer.model.parameters() if p.requires_grad]
  found = {}
  if job['device'] == 'gpu':
    used = torch.cuda.max_memory_allocated()
    found = _gpu(job, torch.cuda.get_device_name(), used)
  return {
    **found,
    'version': f'trl {trl.__version__}, torch {torch.__version__}',
    'loading': marks['train'] - begin,
    'steps': steps,
    'trainable': sum(p.numel() for p in moving),
    'eos_ids': sorted(trainer.eos_token_ids),
  }


def _by_answer(texts: list[str], answer: list[str], worth: list) -> list[float]:
  del worth
  return [
    float(re.findall(r'-?\d+', t.replace(',', ''))[-1:] == [a])
    for t, a in zip(texts, answer, strict=True)
  ]


def _by_place(texts: list[str], answer: list[str], worth: list) -> list[float]:
  """What was decided before; a problem's answers stand side by side."""
  del texts, answer
  return [w[i % len(w)] for i, w in enumerate(worth)]


def _prompt(tokenizer: Any, text: str, ids: list[int]) -> list[dict]:
  """What TRL asks, if it has the ids that ours has."""
  prompt = [{'role': 'user', 'content': text}]
  here = tokenizer.apply_chat_template(
    prompt, add_generation_prompt=True, return_dict=False
  )
  if list(here) != ids:
    raise ValueError(f'{text!r} has other ids here: {here}')
  return prompt


def _settings(job: dict) -> dict:
  """What all of TRL's trainers that generate are told."""
  config, n, rows = job['config'], job['config']['method'], job['trl_rows']
  optimizer = config['optimizer']
  return {
    'model_init_kwargs': {'dtype': config['dtype']},
    'bf16': config['dtype'] == 'bfloat16',
    'use_cpu': job['device'] == 'cpu',
    'seed': config['seed'],
    # One generation and one optimizer step; as no log-prob is old then, none
    # is computed a second time.
    'per_device_train_batch_size': rows,
    'gradient_accumulation_steps': n['problems'] * n['samples'] // rows,
    'num_generations': n['samples'],
    'max_steps': job['steps'],
    'max_completion_length': n['max_tokens'],
    'temperature': n['temperature'],
    'top_p': n['top_p'],
    'top_k': n['top_k'],
    'use_vllm': False,
    'shuffle_dataset': False,
    'learning_rate': optimizer['lr'],
    'lr_scheduler_type': 'constant',
    'weight_decay': optimizer['weight_decay'],
    'adam_beta1': optimizer['b1'],
    'adam_beta2': optimizer['b2'],
    'adam_epsilon': optimizer['eps'],
    'max_grad_norm': optimizer['clip'],
    'gradient_checkpointing': False,  # memory is there, time is not
    'dataloader_pin_memory': False,
    'logging_strategy': 'no',
    'save_strategy': 'no',
    'report_to': 'none',
    'disable_tqdm': True,
  }


RUNS = {
  'ours': run_ours,
  'trl': functools.partial(run_trl, answers_only=False),
  'trl_answers': functools.partial(run_trl, answers_only=True),
}


if __name__ == '__main__':
  main()
