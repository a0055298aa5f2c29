"""Tokens a second of generation: jaxdistill, Tunix and transformers.

  python benchmarks/rollout.py --tunix PYTHON --transformers PYTHON

Run it with the Python that has jaxdistill; the others are Pythons that have a
peer, and may be left out. README.md beside this file says what is equal and
what is not. Each run is a process of its own, and the sides take turns.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import tempfile
import time

import numpy as np
import shape
import sides


@dataclasses.dataclass(frozen=True)
class Case:
  """What is generated.

  Attributes:
    prompts: How many, all different.
    samples: Of each.
    prompt: Tokens of a prompt.
    limit: Of a response.
    rows: Responses that are generated at once.
    model: Weights of `shape.write`.
    spellings: Of these.
    median: Of the responses' lengths; 0: each is as long as the limit.
    quick: Whether the short form has it.
  """

  prompts: int
  samples: int
  prompt: int
  limit: int
  rows: int
  model: str = 'random'
  spellings: int = 1
  median: int = 0
  quick: bool = False


def _fixed(prompts, samples, prompt, limit, quick=False) -> Case:
  rows = prompts * samples
  return Case(prompts, samples, prompt, limit, rows, quick=quick)


def _drawn(prompts: int, samples: int) -> Case:
  rows = prompts * samples
  return Case(prompts, samples, 64, 128, rows, 'counting', 4, median=31)


def _told(prompts, rows, limit, median, quick=False) -> Case:
  return Case(prompts, 1, 64, limit, rows, 'counting', 1, median, quick)


CASES = {
  # prompts x samples x prompt x response
  '1x16x512x128': _fixed(1, 16, 512, 128, quick=True),
  '16x1x64x128': _fixed(16, 1, 64, 128),
  '64x1x64x128': _fixed(64, 1, 64, 128, quick=True),
  '4x16x64x128': _fixed(4, 16, 64, 128, quick=True),
  '16x16x64x128': _fixed(16, 16, 64, 128),
  # the same, with answers that end by chance, by log-normal odds
  'ends-4x16': _drawn(4, 16),
  'ends-16x16': _drawn(16, 16),
  # 8 times as many prompts as rows; each tells how long its answer is
  'queue': _told(128, 16, limit=512, median=128, quick=True),
  # the same short answers, with more and more room
  'limit-128': _told(32, 32, limit=128, median=32),
  'limit-512': _told(32, 32, limit=512, median=32),
  'limit-2048': _told(32, 32, limit=2048, median=32),
  # what a token costs as answers grow
  **{f'grow-{n}': _fixed(16, 1, 64, n) for n in (64, 128, 256, 512, 1024)},
}
SHORT = 126  # the longest answer where only the limit changes


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, {side: functools.partial(run, s) for side, s in SIDES}):
    return
  pythons = {
    'ours': sys.executable,
    'tunix': args.tunix,
    'transformers': args.transformers,
  }
  pythons = {s: p for s, p in pythons.items() if s in args.sides.split(',')}
  chosen = [
    name
    for name, case in CASES.items()
    if any(name.startswith(x) for x in args.only.split(','))
    and (case.quick or not args.quick)
  ]
  if not chosen:
    raise SystemExit(f'rollout: --only is none of {", ".join(CASES)}')
  measured = sides.Sides.of(__file__, args, pythons)
  record = {'machine': sides.machine(), 'shape': shape.NAME, 'cases': {}}
  with tempfile.TemporaryDirectory() as folder:
    for name in chosen:
      runs = {side: [] for side in measured.pythons}
      for i, side in measured.in_turn(args.runs):
        job = make_job(CASES[name], folder, args)
        found = measured.start(side, job)
        runs[side].append(found)
        print(
          f'{name}, run {i + 1} of {args.runs}, {side}: '
          f'{rate(found):,.0f} tokens/s, {found["peak_gb"]:.2f} GB, others '
          f'used {found["others"]:.2f} CPUs',
          flush=True,
        )
      record['cases'][name] = {
        'case': dataclasses.asdict(CASES[name]),
        'summary': {side: summary(r) for side, r in runs.items()},
        'runs': runs,
      }
      sides.write(args.out, record)  # what is there stays there
  print('\n' + sides.text(table(record['cases'], [*measured.pythons])))
  print(f'\nall runs: {args.out}')


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 5, 'rollout')
  add = parser.add_argument
  add('--tunix', help='a Python that has google-tunix')
  add('--transformers', help='a Python that has torch and transformers')
  add('--sides', default=','.join(s for s, _ in SIDES), help='which')
  add('--only', default='', help='beginnings of names of cases, by commas')
  add('--quick', action='store_true', help='the short form: four cases')
  add('--seconds', type=float, default=4.0, help='timed in a run, at least (4)')
  add('--calls', type=int, default=8, help='timed in a run, at most (8)')
  return parser


# What is to be done, and what came of it


def make_job(case: Case, folder: str, args: argparse.Namespace) -> dict:
  """Prompts as ids, and the weights."""
  model = f'{folder}/{case.model}-{case.spellings}'
  shape.write(model, case.model, case.spellings)
  draw = np.random.default_rng(0)
  ids = draw.integers(4, shape.VOCABULARY, (case.prompts, case.prompt))
  known = None if case.median else [case.limit] * case.prompts * case.samples
  if case.spellings > 1:
    ids[:, -1] = shape.START
  elif case.median:
    limit = SHORT if case.median <= SHORT // 3 else shape.most()
    known = shape.lengths(case.prompts, case.median, min(limit, case.limit))
    ids[:, -1] = [shape.token(n) for n in known]
  return {
    **dataclasses.asdict(case),
    'weights': model,
    'ids': ids.tolist(),
    'known': known,
    'threads': args.threads,
    'device': args.device,
    'seconds': args.seconds,
    'calls': args.calls,
  }


def run(side, job: dict) -> dict:
  """One process: loading, a first call, and calls that are timed.

  Args:
    side: From a job to a version and what generates: from a seed, and a list
      of prompts' ids, to the lengths of the responses, ends included.
    job: What to do.
  """
  begin = time.perf_counter()
  version, ask, compiled = side(job)
  loading = time.perf_counter() - begin
  calls = []
  while len(calls) <= job['calls']:
    before = time.perf_counter()
    lengths = ask(len(calls))
    seconds = time.perf_counter() - before
    if job['known'] and sorted(lengths) != sorted(job['known']):
      raise ValueError(f'lengths {lengths} instead of {job["known"]}')
    calls.append({'seconds': seconds, 'tokens': sum(lengths), **compiled()})
    if sum(c['seconds'] for c in calls[1:]) > job['seconds']:
      break
  return {'version': version, 'loading': loading, 'calls': calls}


def rate(found: dict) -> float:
  """Tokens per second of a run: the median of its warm calls."""
  return statistics.median(
    c['tokens'] / c['seconds'] for c in found['calls'][1:]
  )


def cold(found: dict) -> float:
  """What the first call took longer than a warm one."""
  warm = statistics.median(c['seconds'] for c in found['calls'][1:])
  return found['calls'][0]['seconds'] - warm


def summary(runs: list[dict]) -> dict:
  """Medians over runs, with the least and the most."""

  def of(get):
    seen = [get(r) for r in runs]
    return [statistics.median(seen), min(seen), max(seen)]

  return {
    'tokens_per_second': of(rate),
    'cold_seconds': of(cold),
    'peak_gb': of(lambda r: r['peak_gb']),
    'cpus_of_others': of(lambda r: r['others']),
    'version': runs[0]['version'],
  }


def table(cases: dict, names: list[str]) -> list[list[str]]:
  """A row per case and side."""
  head = 'case', 'side', 'tokens/s (min to max)', '/ first side'
  rows = [[*head, '+ first call, s', 'peak GB', 'others']]
  for name, case in cases.items():
    rate_of = {s: [rate(r) for r in case['runs'][s]] for s in names}
    base = statistics.median(rate_of[names[0]])
    for side in names:
      runs = case['runs'][side]
      rows.append(
        [
          name,
          side,
          sides.spread(rate_of[side], ',.0f'),
          f'{statistics.median(rate_of[side]) / base:.2f}',
          f'{statistics.median(map(cold, runs)):.1f}',
          f'{statistics.median(r["peak_gb"] for r in runs):.2f}',
          f'{max(r["others"] for r in runs):.2f}',
        ]
      )
  return rows


# The sides


class Ids:
  """A tokenizer of texts that are ids; of ours and of Tunix."""

  pad_id, eos_ids, vocabulary = shape.PAD, (shape.END,), 'ids'

  def __len__(self) -> int:
    return shape.VOCABULARY

  def encode(self, text):
    return [int(x) for x in text.split()]

  def decode(self, ids):
    return ' '.join(map(str, ids))

  def prompt(self, asked, think=None):
    del think
    return self.encode(' '.join(text for _, text in asked))

  def turn(self, text, think=None):
    raise NotImplementedError

  def ending_at(self, text):
    del text
    return self


def _texts(job: dict) -> list[str]:
  return [' '.join(map(str, ids)) for ids in job['ids']]


def ours(job: dict):
  """`Player.generate`, with all that it returns."""
  import jax
  from flax import nnx

  from jaxdistill import dist
  from jaxdistill.batch import Shapes
  from jaxdistill.models.store import from_pretrained
  from jaxdistill.rollout import Player, Sampling
  from jaxdistill.types import Prompt

  mesh = dist.make_mesh(devices=jax.devices()[:1])
  jax.set_mesh(mesh)
  graphdef, params = nnx.split(from_pretrained(job['weights']))
  values = {
    'graphdef': graphdef,
    'params': (params,),
    'roles': ('solver',),
    'tokenizer': Ids(),
    'mesh': mesh,
    'shapes': Shapes(64, 16),
    # How much at once, of a tree before there was `cache_gib`.
    'max_prompts': max(job['rows'] // job['samples'], 1),
  }
  sampling = Sampling(samples=job['samples'], max_tokens=job['limit'])
  fields = [f.name for f in dataclasses.fields(Player)]
  if 'cache_gib' in fields:
    from jaxdistill.rollout.budget import sample_bytes

    config = nnx.merge(graphdef, params).config
    one = sample_bytes(config, sampling, job['prompt'], 1)
    values['cache_gib'] = (job['rows'] * one + 0.5) / 2**30
  player = Player(**{name: values[name] for name in fields if name in values})
  prompts = [
    Prompt('solver', text, address=i) for i, text in enumerate(_texts(job))
  ]

  def ask(seed):
    answers = player.generate(prompts, sampling, jax.random.key(seed))
    return [len(r.tokens_T) for group in answers for r in group]

  jax.block_until_ready(params)
  compiled = sides.Compiled()
  return f'jax {jax.__version__}', ask, compiled.take


class _TunixIds(Ids):
  """Tunix asks for what it calls methods; a begin mark of 0 is none."""

  def eos_id(self):
    return self.eos_ids[0]

  def bos_id(self):
    return 0

  def pad_id(self):
    return shape.PAD


def tunix(job: dict):
  """The vanilla sampler, with as many rows at once as are asked for."""
  import importlib.metadata

  import jax
  import jax.numpy as jnp
  from tunix.generate.sampler import CacheConfig, Sampler
  from tunix.models.qwen3 import model as qwen3
  from tunix.models.qwen3.params import create_model_from_safe_tensors

  config = tunix_config(qwen3)
  model = create_model_from_safe_tensors(
    job['weights'], config, dtype=jnp.float32
  )
  room = job['prompt'] + job['limit']
  cache = CacheConfig(room, shape.LAYERS, shape.KEY_HEADS, shape.HEAD)
  sampler = Sampler(model, _TunixIds(), cache)
  asked = [text for text in _texts(job) for _ in range(job['samples'])]

  def ask(seed):
    lengths = []
    for start in range(0, len(asked), job['rows']):
      out = sampler(
        asked[start : start + job['rows']],
        max_generation_steps=job['limit'],
        max_prompt_length=job['prompt'],
        temperature=1.0,
        top_p=1.0,
        seed=1000 * seed + start,
      )
      # It leaves the end mark out.
      lengths += [min(len(t) + 1, job['limit']) for t in out.tokens]
    return lengths

  compiled = sides.Compiled()
  version = importlib.metadata.version('google-tunix')
  return f'tunix {version}, jax {jax.__version__}', ask, compiled.take


def tunix_config(qwen3):
  """The shape in Tunix's words."""
  return qwen3.ModelConfig(
    num_layers=shape.LAYERS,
    vocab_size=shape.VOCABULARY,
    embed_dim=shape.WIDTH,
    hidden_dim=shape.HIDDEN,
    num_heads=shape.HEADS,
    head_dim=shape.HEAD,
    num_kv_heads=shape.KEY_HEADS,
    rope_theta=1_000_000,
    norm_eps=1e-6,
    use_tied_embedding=True,
  )


def transformers(job: dict):
  """`generate`, with as many rows at once as are asked for."""
  import torch

  torch.set_num_threads(job['threads'])
  import transformers as library

  device = sides.torch_device(job['device'])
  model = library.AutoModelForCausalLM.from_pretrained(
    job['weights'], dtype=torch.float32
  )
  model = model.eval().to(device)
  ids = torch.tensor(job['ids'], device=device)
  here = max(job['rows'] // job['samples'], 1)

  def ask(seed):
    torch.manual_seed(seed)
    lengths = []
    for start in range(0, len(ids), here):
      asked = ids[start : start + here]
      with torch.inference_mode():
        out = model.generate(
          asked,
          attention_mask=torch.ones_like(asked),
          do_sample=True,
          temperature=1.0,
          top_k=0,
          top_p=1.0,
          max_new_tokens=job['limit'],
          num_return_sequences=job['samples'],
          pad_token_id=shape.PAD,
          eos_token_id=shape.END,
        )
      for row in out[:, job['prompt'] :].tolist():
        ended = shape.END in row
        lengths.append(row.index(shape.END) + 1 if ended else len(row))
    return lengths

  version = f'transformers {library.__version__}, torch {torch.__version__}'
  return version, ask, dict


SIDES = [('ours', ours), ('tunix', tunix), ('transformers', transformers)]


if __name__ == '__main__':
  main()
