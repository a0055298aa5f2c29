"""One step of self-distillation (SDPO): jaxdistill beside TRL's SDPOTrainer.

  python benchmarks/sdpo_step.py --model DIRECTORY --python TRL_PYTHON

`grpo_step.py` with another method: answers are drawn, each is read once more by
a teacher, the model itself (an average of its past selves) that has read a
right sibling's answer, and the student is drawn to what the teacher would have
said: the Jensen-Shannon divergence over its 100 likeliest tokens and a bucket
for the rest. README.md beside this file says what is equal and what is not.
"""

import argparse
import sys
import time

import grpo_step
import sides

NAMES = {'ours': 'jaxdistill', 'trl': 'TRL'}
SHOWN = '123'  # of the prompt that both sides must read alike


def main() -> None:
  args = _parser().parse_args()
  if sides.answer(args, RUNS):
    return
  if not args.model or not args.python:
    raise SystemExit('sdpo_step: --model and --python are needed')
  chosen = args.sides.split(',')
  if unknown := set(chosen) - set(RUNS):
    raise SystemExit(
      f'sdpo_step: --sides has {min(unknown)!r}, which is none of '
      + ', '.join(RUNS)
    )
  pythons = {s: sys.executable if s == 'ours' else args.python for s in chosen}
  measured = sides.Sides.of(__file__, args, pythons)
  grpo_step.compare(args, measured, NAMES, make_job)


def _parser() -> argparse.ArgumentParser:
  parser = sides.parser(__doc__, 3, 'sdpo_step')
  grpo_step.add_options(parser, problems=16, names=NAMES, rows=8)
  return parser


def make_job(args: argparse.Namespace) -> dict:
  """What both sides are to do, and how a teacher is asked."""
  from jaxdistill.config import system
  from jaxdistill.data.tasks.load import load_task
  from jaxdistill.data.text.tokenizer import TextTokenizer
  from jaxdistill.rollout.contexts import SOLVED
  from jaxdistill.types import Hint

  # With the method's defaults: EMA .95, alpha .5, top 100, a tail.
  job = grpo_step.make_job(args, system('sdpo'))
  task = load_task(job['config']['task'])
  problem = task.problems('train')[0]
  text = task.hinted_prompt(problem, Hint(SOLVED, SHOWN))
  asked, _, after = text.partition(task.solver_prompt(problem))
  before, _, end = after.partition(SHOWN)
  if asked:
    raise ValueError(f'the teacher reads {asked!r} before the problem')
  ids = TextTokenizer.from_directory(args.model).prompt(text)
  others = [{'text': text, 'ids': list(ids)}]
  return job | {'hint': (before, end), 'others': others}


# The sides


def run_ours(job: dict) -> dict:
  """What `jaxdistill train` does at each step of method `self_distill`."""
  return grpo_step.run_ours(job, 'train/right')


def run_trl(job: dict) -> dict:
  """`SDPOTrainer` with a second adapter as the teacher, set up for speed."""
  begin = time.perf_counter()
  from trl.experimental import sdpo

  n, hint = job['config']['method'], job['hint']
  rule, _, kept = n['teacher'].partition(':')
  if (rule, n['support'], n['taught']) != ('ema', 'student', 'all'):
    raise ValueError(f'there is no such setting here: {n}')
  own = {
    'distillation_mode': 'topk_logits',
    'distillation_topk': n['support_k'],
    'distillation_add_tail': n['tail'],
    'distillation_alpha': n['alpha'],
    'distillation_is_clip': n['importance_cap'],
    'teacher_model_kind': 'ema',
    'teacher_update_rate': 1 - float(kept),
    'reprompt_template': '{prompt}{solution}{feedback}',
    'solution_template': '{successful_previous_attempt}'.join(hint),
  }
  return grpo_step.train_trl(job, begin, sdpo.SDPOTrainer, sdpo.SDPOConfig, own)


RUNS = {'ours': run_ours, 'trl': run_trl}


if __name__ == '__main__':
  main()
