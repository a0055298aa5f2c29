"""Itself or a teacher: what predicts the gain, over all arms of a comparison.

  python launch/reproduce/self_or_teacher.py runs/self_or_teacher \\
    results/self_or_teacher

Reads what `jaxdistill compare --config configs/self_or_teacher_small.py` left,
and measures of each arm, before any training, what might tell how much it will
gain:

  misfit    how much less likely the student finds the texts of whom it learns
            from (a teacher; itself, where it is told something; or what a
            verifier keeps of its own) than its own: nats per token
  right     how often these texts are right
  covered   how much of the held-out mix of kinds the pool has, 0 to 1

Gains (last less first, means over seeds) are then regressed on the three, over
all arms; how well that predicts is the error on arms of whose writer all were
left out (the student itself, however its texts are chosen, is one), beside that
of the mean of the others. Writes `predictors.json` (which also has what arms
that differ in one thing differ by), `predicted.md`, copies of `summary.json`,
`table.md` and `compare.png`, and the README's figure and table, `answer.png`
and `answer.md`. All of it again, from what is there:

  python launch/reproduce/self_or_teacher.py --draw results/self_or_teacher
"""

import argparse
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jaxdistill as jd
from jaxdistill.config import read_comparison
from jaxdistill.data.small import world
from jaxdistill.data.tasks import load_task
from jaxdistill.data.tasks.small_pools import POOLS
from jaxdistill.plots.intervals import estimate
from jaxdistill.rollout import Sampling, contexts
from jaxdistill.types import Prompt

CONFIG = 'configs/self_or_teacher_small.py'
PROBLEMS, SAMPLES, LONGEST = 200, 8, 64
# Arms without their coverage, and who it is that is learned from.
TEACHERS = {
  'vote': 'itself, paid by its vote (no label)',
  'by_heart': 'itself, by heart what its vote keeps (no label)',
  'answer': 'itself, told the answer',
  'solution': 'itself, told a solution',
  'past': 'itself, as it began',
  'weaker': 'a weaker teacher, by heart',
  'equal': 'an equal teacher, by heart',
  'stronger': 'a stronger teacher, by heart',
  'voted': 'a stronger teacher, by heart what its vote keeps',
  'foreign': 'a stronger one that words it otherwise, by heart',
  'on_policy': 'a stronger teacher, token by token (GKD)',
  'truth': 'itself, paid by known answers (GRPO)',
  'kept': 'itself, by heart what is right',
  'given': 'given solutions (SFT; costs no tokens)',
}
# Whose the texts are, however they are chosen.
OWN = ('vote', 'by_heart', 'answer', 'solution', 'past', 'truth', 'kept')
WRITERS = dict.fromkeys(OWN, 'self')
WRITERS |= dict.fromkeys(('stronger', 'voted', 'on_policy'), 'stronger')
COVERAGES = {
  'matched': 'trained on home problems',
  'narrow': 'on a narrow pool',
  'broad': 'on a broad pool',
}
# Columns of the README's table: title, coverage, metric.
SHOWN = (
  ('home, sampled', 'matched', 'eval/test/accuracy_sampled'),
  ('home, greedy', 'matched', 'eval/test/accuracy_greedy'),
  ('abroad, sampled', 'matched', 'eval/ood/accuracy_sampled'),
  ('abroad, greedy', 'matched', 'eval/ood/accuracy_greedy'),
  ('narrow pool: abroad, greedy', 'narrow', 'eval/ood/accuracy_greedy'),
  ('broad pool: abroad, greedy', 'broad', 'eval/ood/accuracy_greedy'),
)
# Arms that differ in one thing: who wrote, who judged, or how it is learned.
PAIRS = (
  ('kept', 'voted'),
  ('by_heart', 'voted'),
  ('vote', 'voted'),
  ('kept', 'by_heart'),
  ('vote', 'by_heart'),
  ('truth', 'kept'),
)
LEAST = 6  # arms that a regression wants
MEASURED = ('misfit', 'right', 'covered')
GAINS = tuple(
  f'eval/{split}/accuracy_{how}'
  for split in ('test', 'ood')
  for how in ('greedy', 'sampled')
)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--draw', action='store_true', help='again, from what OUT has'
  )
  parser.add_argument(
    'folders',
    type=pathlib.Path,
    nargs='+',
    metavar='RUNS OUT',
    help='of the comparison, and to write to; OUT alone with --draw',
  )
  args = parser.parse_args()
  if len(args.folders) != 2 - args.draw:
    parser.error('RUNS and OUT are needed, or OUT alone with --draw')
  out = args.folders[-1]
  if not (args.folders[0] / 'summary.json').exists():
    parser.error(f'there is no {args.folders[0] / "summary.json"}')
  out.mkdir(parents=True, exist_ok=True)
  if not args.draw:
    for name in ('table.md', 'compare.png'):
      shutil.copy(args.folders[0] / name, out / name)
    summary = json.loads((args.folders[0] / 'summary.json').read_text())
    (out / 'summary.json').write_text(json.dumps(summary) + '\n')  # less long
  arms = json.loads((out / 'summary.json').read_text())['arms']
  (out / 'answer.md').write_text(answer(arms))
  draw(arms, out / 'answer.png')
  print(answer(arms))
  if len(arms) < LEAST:
    print(f'{len(arms)} arms are too few to say what predicts the gain')
    return
  found = out / 'predictors.json'
  if args.draw:
    measured = json.loads(found.read_text())['measured']
  else:
    measured = predictors(read_comparison(CONFIG, ()), list(arms))
  near = {n: arm for n, arm in arms.items() if not n.endswith('_foreign')}
  fits = {
    title: {name: regressed(some, measured, name) for name in GAINS}
    for title, some in (('all', arms), ('without_foreign', near))
  }
  apart = differences(arms)
  record = {'measured': measured, 'regressions': fits, 'differences': apart}
  found.write_text(json.dumps(record, indent=1) + '\n')
  text = '\n'.join(f'{title}:\n\n{table(fit)}' for title, fit in fits.items())
  (out / 'predicted.md').write_text(text)
  print(text)


def answer(arms):
  """Who it learned from, on which problems, and where it ended: Markdown."""
  head = ['it learns from', *(title for title, _, _ in SHOWN), 'steps']
  start = next(iter(arms.values()))
  began = [f'{start[metric]["first"]:.2f}' for _, _, metric in SHOWN]
  lines = [head, ['---'] * len(head), ['(before)', *began, '']]
  for name, said in TEACHERS.items():
    found = [
      arms.get(f'{coverage}_{name}', {}).get(metric)
      for _, coverage, metric in SHOWN
    ]
    steps = [
      f'{arms[arm]["optimizer_steps"]:.0f}'
      for arm in (f'{coverage}_{name}' for coverage in COVERAGES)
      if arm in arms
    ]
    cells = [(x and _ended(x)) or '' for x in found]
    lines.append([said, *cells, ', '.join(steps)])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _ended(found):
  """A last value, and half of its interval."""
  if not found['interval']:
    return f'{found["mean"]:.2f}'
  return f'{found["mean"]:.2f} ± {found["interval"][1] - found["mean"]:.2f}'


def differences(arms):
  """Last values of an arm less those of another, over seeds, by pool."""
  found = {}
  for coverage in COVERAGES:
    for one, other in PAIRS:
      pair = [arms.get(f'{coverage}_{name}') for name in (one, other)]
      if not all(pair):
        continue
      for metric in GAINS:
        a, b = (arm[metric]['by_seed']['last'] for arm in pair)
        mean, bounds = estimate([a[s] - b[s] for s in a if s in b])
        name = f'{coverage}_{one}-{other}'
        found.setdefault(name, {})[metric] = {'mean': mean, 'interval': bounds}
  return found


def draw(arms, out):
  """Where every arm ended, at home and abroad, with its 95% interval."""
  panels = {
    'eval/test/accuracy_sampled': 'home, sampled',
    'eval/ood/accuracy_sampled': 'abroad, sampled',
    'eval/ood/accuracy_greedy': 'abroad, greedy',
  }
  figure = Figure(figsize=(12.5, 4.6), layout='constrained')
  axes = figure.subplots(1, len(panels), sharey=True)
  names = list(TEACHERS)
  for axis, (metric, title) in zip(axes, panels.items(), strict=True):
    for i, (coverage, said) in enumerate(COVERAGES.items()):
      for place, name in enumerate(names):
        found = arms.get(f'{coverage}_{name}', {}).get(metric)
        if found is None:
          continue
        at, tint = place + 0.22 * (i - 1), f'C{i}'
        axis.plot(found['mean'], at, 'o', color=tint, ms=6, label=said)
        if found['interval']:
          axis.plot(found['interval'], [at, at], color=tint, lw=2)
    axis.axvline(
      next(iter(arms.values()))[metric]['first'], ls='--', color='.4'
    )
    axis.set_title(title, fontsize=11)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel('share of answers that are right')
    axis.grid(alpha=0.3)
  axes[0].set_yticks(range(len(names)), TEACHERS.values())
  axes[0].invert_yaxis()
  handles, labels = axes[0].get_legend_handles_labels()
  once = dict(zip(labels, handles, strict=True))
  once['before training'] = Line2D([], [], ls='--', color='.4')
  figure.legend(
    once.values(), once, loc='outside lower center', ncols=4, fontsize=9
  )
  figure.savefig(out, dpi=110)


def predictors(comparison, names):
  """What is measured of each arm before it trains."""
  student, out = jd.load(comparison.base.model), {}
  for name in names:
    config = comparison.config(name, 0)
    problems = load_task(config.task).problems('train')
    asked = [
      dataclasses.replace(problems[i], address=i) for i in range(PROBLEMS)
    ]
    learned, every = texts(student, asked, config)
    own = likely(student, *answered(student, asked))
    right = [contexts.by_task(p, [r]).right_G[0] is True for p, r in learned]
    out[name] = {
      'misfit': own - likely(student, *zip(*learned, strict=True)),
      'right': float(np.mean(right)),
      'kept': len(learned) / every,
      'covered': {s: covered(config.task, s) for s in ('test', 'ood')},
    }
    print(name, out[name], flush=True)
  return out


def answered(model, problems, prompts=None):
  """Problems and a model's samples, one to one."""
  prompts = prompts or [Prompt.solve(p) for p in problems]
  sampling = Sampling(SAMPLES, LONGEST)
  with jax.set_mesh(model.run.mesh):
    said = model.player.generate(prompts, sampling, jax.random.key(0))
  pairs = [(p, r) for p, r_G in zip(problems, said, strict=True) for r in r_G]
  return tuple(zip(*pairs, strict=True))


def texts(student, problems, config):
  """What an arm pulls the student to: problems with responses; of how many."""
  method = config.method
  if method.name == 'sft':
    write = student.player.written
    pairs = [(p, write(Prompt.solve(p), p.demonstration[1])) for p in problems]
    return pairs, len(pairs)
  if method.name == 'self_distill':
    told = [
      Prompt.solve(p) if hint is None else hint
      for p, hint in hinted(student, problems, method)
    ]
    pairs = list(zip(*answered(student, problems, told), strict=True))
    return pairs, len(pairs)
  teacher = student
  if method.name == 'teacher_distill' and method.teacher != 'frozen':
    teacher = jd.load(method.teacher.removeprefix('model:'))
  pairs = list(zip(*answered(teacher, problems), strict=True))
  judges = {'sqlm': 'vote', 'grpo': 'known'}
  judge = judges.get(method.name) or method.get('judge') or method.keep
  if judge in ('none', 'all'):
    return pairs, len(pairs)
  kept = []
  for i in range(0, len(pairs), SAMPLES):
    group = pairs[i : i + SAMPLES]
    known = contexts.JUDGES[judge](group[0][0], [r for _, r in group])
    kept += [pair for pair, ok in zip(group, known.right_G, strict=True) if ok]
  return kept, len(pairs)


def hinted(student, problems, method):
  """Each problem with its told prompt, as the arm's teacher reads it."""
  for p in problems:
    rollout = student.player.written(Prompt.solve(p), p.demonstration[1])
    ((case,),) = contexts.cases([p], [[rollout]], 'known', method.solution)
    yield p, contexts.hinted(method.context, case)


def likely(student, problems, rollouts):
  """Mean log-prob of a token of responses, as the student is asked."""
  player = student.player
  with jax.set_mesh(student.run.mesh):
    read = [
      player.asked(r, Prompt.solve(p))
      for p, r in zip(problems, rollouts, strict=True)
    ]
    logps = player.logprobs(read)
  return float(np.concatenate(logps).mean())


def covered(task, split):
  """Mass that the kinds of a pool and those of a split have in common."""
  pool = POOLS.get(task.partition(':')[2], world.CORPUS_MIX)
  held = world.TEST_MIX if split == 'test' else world.OOD_MIX
  shares = [
    {k: v / sum(mix.values()) for k, v in mix.items()} for mix in (pool, held)
  ]
  return sum(min(shares[0].get(k, 0), v) for k, v in shares[1].items())


def regressed(arms, measured, metric):
  """Least squares of the gain on the three, and its error on writers left out.

  All arms of a writer are left out at once: of two that differ in the pool
  alone, or in what is kept, the one would tell of the other.
  """
  names = [n for n in arms if metric in arms[n]]
  teachers = [n.partition('_')[2] for n in names]
  writers = [WRITERS.get(name, name) for name in teachers]
  split = metric.split('/')[1]
  gain = np.array([arms[n][metric]['rise']['mean'] for n in names])
  x = np.array(
    [
      [
        measured[n]['misfit'],
        measured[n]['right'],
        measured[n]['covered'][split],
      ]
      for n in names
    ]
  )
  scale = x.std(0)
  x = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
  design = np.column_stack([np.ones(len(x)), x])

  def left_out(columns):
    errors = []
    for writer in dict.fromkeys(writers):
      rest = np.array([x != writer for x in writers])
      weights, *_ = np.linalg.lstsq(
        design[rest][:, columns], gain[rest], rcond=None
      )
      errors += (design[~rest][:, columns] @ weights - gain[~rest]).tolist()
    return float(np.sqrt(np.mean(np.square(errors))))

  weights, *_ = np.linalg.lstsq(design, gain, rcond=None)
  return {
    'arms': len(names),
    'by_deviation': dict(zip(MEASURED, weights[1:].tolist(), strict=True)),
    'error_left_out': left_out([0, 1, 2, 3]),
    'error_of_mean': left_out([0]),
    'error_of_one': {
      name: left_out([0, i + 1]) for i, name in enumerate(MEASURED)
    },
  }


def table(fits):
  """What predicts the gain, as Markdown."""
  lines = [
    '| gain in | misfit | right | covered | error on a writer left out | of '
    'the mean of the others | misfit alone | right alone | covered alone |',
    '|' + '---|' * 9,
  ]
  for name, fit in fits.items():
    cells = [f'{v:+.3f}' for v in fit['by_deviation'].values()]
    cells += [f'{fit["error_left_out"]:.3f}', f'{fit["error_of_mean"]:.3f}']
    cells += [f'{v:.3f}' for v in fit['error_of_one'].values()]
    lines.append(
      f'| {name.removeprefix("eval/")} | ' + ' | '.join(cells) + ' |'
    )
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()
