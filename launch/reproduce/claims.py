"""Claims of the field on the small world: tables, intervals and verdicts.

  python launch/reproduce/claims.py contexts runs/contexts results/contexts
  python launch/reproduce/claims.py pool runs/pool results/pool
  python launch/reproduce/claims.py cross_encoder runs/ce results/cross_encoder
  python launch/reproduce/claims.py calibration runs/calibration \\
    results/calibration
  python launch/reproduce/claims.py real runs/qwen05_teacher \\
    results/qwen05_teacher
  python launch/reproduce/claims.py score runs/score results/score

Reads what `jaxdistill compare` left for `configs/compare_contexts.py` (C4 and
C5 of docs/evidence.md), `compare_pool.py` and `compare_cross_encoder.py` (C6),
`compare_calibration.py` (C15), `compare_qwen05_teacher.py`, or one of the
systems in `contrasts.py`: `verifiers` (C7), `score` (C3), `serl` (C10),
`temporal` (C11), `seal` and `sequential_edits` (C1), `reflection` (C2), `cot`
(C12), `anchors` and `anchors_gentle` (C8). Differences are
taken in each seed; intervals are Student's t over seeds, at 95%: the problems
are the same for all, and what others would have given is not in them. A claim
`holds` where its interval lies beyond its margin (0, if none is said) on the
claim's side, `does not hold` where it lies on the other side of the margin, and
is `inconclusive` elsewhere. Claims that stand together (C4's three, C5's two,
the primary ones of C15) have the intervals of their steps in Holm's procedure;
what is there to be looked at only has its own, at 95%, and no verdict.
Writes `claim.json`, `claim.md` and copies of what `compare` wrote.
"""

import argparse
import json
import pathlib
import shutil
from typing import Any

import contrasts
import numpy as np
from scipy import stats

from jaxdistill.plots.claims import (
  apart,
  at_holm,
  by_seed,
  cell,
  interval,
  judged,
  looked_at,
  registered,
  rise,
  rows,
  verdict,
)
from jaxdistill.rollout.contexts import NAMES

COLUMNS = {
  'test/accuracy_greedy': 'test, greedy',
  'test/accuracy_sampled': 'test, sampled',
  'ood/accuracy_greedy': 'ood, greedy',
  'ood/accuracy_sampled': 'ood, sampled',
  'ood/length': 'ood, tokens',
  'ood/markers': 'ood, doubts an answer',
  'ood/markers_per_1k': 'ood, doubts a 1,000 tokens',
  'ood/calibration_error': 'ood, calibration error',
  'ood/brier': 'ood, Brier',
}
# Those that tell something of the problem itself, and nothing.
RUNGS = tuple(name for name in NAMES if name not in ('other', 'wrong'))
PROBLEMS, SAMPLES = 256, 8  # of the ladder
# What known answers did for Qwen2.5-Coder-0.5B.
KNOWN = pathlib.Path(__file__).parents[2] / 'results/sqlm_qwen05/summary.json'
KINDS = ('first', 'best', 'last')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('claim', choices=[*CLAIMS])
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  summary = json.loads((args.workdir / 'summary.json').read_text())
  arms = summary['arms']
  for name, arm in arms.items():
    arm['folder'] = args.workdir / name  # of its runs, by seed
  if summary['finished'] < summary['planned']:
    print(f'{summary["finished"]} of {summary["planned"]} runs are finished')
  try:
    record, text = CLAIMS[args.claim](arms)
  except ValueError as e:
    raise SystemExit(f'claims: {e}') from None
  except KeyError as e:
    raise SystemExit(f'claims: no finished run has {e}') from None
  args.out.mkdir(parents=True, exist_ok=True)
  for name in ('summary.json', 'table.md', 'compare.png'):
    shutil.copy(args.workdir / name, args.out / name)
  (args.out / 'claim.json').write_text(json.dumps(record, indent=1) + '\n')
  (args.out / 'claim.md').write_text(text)
  print(text)


def ends(arms):
  """Where every arm began and ended."""

  def told(column, value):
    many = 'length' in column or '1k' in column
    return f'{value:.1f}' if many else f'{value:.3f}'

  def cells(arm, kind):
    found = [(c, arm.get(f'eval/{c}', {}).get(kind)) for c in COLUMNS]
    return ['' if value is None else told(c, value) for c, value in found]

  lines: list[list] = [
    ['before', '', *cells(next(iter(arms.values())), 'first')]
  ]
  for name, arm in arms.items():
    lines.append([name, len(arm['seeds']), *cells(arm, 'last')])
  return rows(['arm', 'seeds', *COLUMNS.values()], lines)


# The claims


def contexts(arms):
  """C4: doubts and accuracy abroad fall; C5: the more so the more is told."""
  full, doubts = arms['full'], 'ood/markers_per_1k'
  greedy, sampled = 'ood/accuracy_greedy', 'ood/accuracy_sampled'
  c4 = {
    'doubts': (
      'C4: doubts fall (full, last less first, a 1,000 tokens)',
      rise(full, doubts),
      -1,
    ),
    'greedy': (
      'C4: accuracy abroad falls (full, last less first, greedy)',
      rise(full, greedy),
      -1,
    ),
    'below_grpo': (
      'C4: full ends below grpo abroad, greedy',
      apart(full, arms['grpo'], greedy),
      -1,
    ),
  }
  others = ('none', 'kept', 'kept_short', 'kept_undoubting', 'full_ema')
  seen = {
    'sampled': ('full abroad, sampled, last less first', rise(full, sampled))
  }
  seen |= {
    f'below_{other}': (
      f'full less {other} abroad, greedy',
      apart(full, arms[other], greedy),
    )
    for other in others
  }
  seen |= {
    control: (
      f'{title}: {control} less kept abroad, greedy',
      apart(arms[control], arms['kept'], greedy),
    )
    for control, title in (
      ('kept_short', 'length alone'),
      ('kept_undoubting', 'doubts alone'),
    )
  }
  ladder = told_scores()
  c5 = {
    f'richer_{how}': (
      f'C5: the more right when told, the worse abroad ({how}; rank '
      'correlation over rungs)',
      ranked(arms, ladder, f'ood/accuracy_{how}'),
      -1,
    )
    for how in ('greedy', 'sampled')
  }
  seen['other'] = (
    "another problem's solution less one's own, abroad, greedy",
    apart(arms['other'], full, greedy),
  )
  record, text = judged(at_holm(c4) | at_holm(c5) | looked_at(seen))
  told = rows(
    ['rung', 'right when told'],
    [[name, f'{score:.3f}'] for name, score in ladder.items()],
  )
  return record | {'ladder': ladder}, f'{ends(arms)}\n{text}\n{told}'


def told_scores():
  """How often the student is right where it has read each rung.

  Of the same answers on every rung, as its teacher reads it: those that there
  is something to tell of on all.
  """
  import jax

  import jaxdistill as jd
  from jaxdistill.api.gaps import chosen
  from jaxdistill.eval.ladder import ladder

  model = jd.load('small-middle')
  with jax.set_mesh(model.run.mesh):
    found = ladder(
      model.player,
      chosen(model.task, 'dev', PROBLEMS),
      rungs=RUNGS,
      samples=SAMPLES,
      max_tokens=model.run.eval.max_tokens,
      key=jax.random.key(0),
    )
  return of_all_rungs(found)


def of_all_rungs(found):
  """Means of `right` over what was told on every rung."""
  everywhere = np.all([rung['told'] > 0 for rung in found.values()], 0)
  return {
    name: float(np.mean(rung['right'][everywhere[rung['told'] > 0]]))
    for name, rung in found.items()
  }


def ranked(arms, scores, metric):
  """Rank correlation over rungs of how right one is told with where it ends."""
  order = [scores[name] for name in RUNGS]
  seeds = set.intersection(*(set(by_seed(arms[n], metric)) for n in RUNGS))
  values = []
  for seed in sorted(seeds):
    ended = [by_seed(arms[name], metric)[seed] for name in RUNGS]
    rho: Any = stats.spearmanr(order, ended)[0]
    values.append(float(rho))
  return interval(values)


def pool(arms):
  """C6 of a model that writes: student less teacher, by pool and coverage."""
  import jaxdistill as jd

  teacher = jd.load('small-middle')
  metrics = tuple(list(COLUMNS)[:4])
  worth = {}
  for split in ('test', 'ood'):
    worth |= teacher.evaluate(split, problems=400, samples=8)
  return passed(arms, metrics, lambda arm, metric: worth[f'eval/{metric}'])


def cross_encoder(arms):
  """C6 of a cross-encoder: order of pairs, student less teacher."""

  def worth(arm, metric):
    split = metric.partition('/')[0]
    return arm[f'eval/{split}/teacher_order_accuracy']['first']

  return passed(arms, ('test/order_accuracy', 'ood/order_accuracy'), worth)


def passed(arms, metrics, worth):
  """Student less teacher of every arm.

  One is the claim: the first metric, with soft targets of the largest pool of
  matched problems. The others are to be looked at.
  """
  claimed = [n for n in arms if n.startswith('matched') and n.endswith('soft')]
  record, lines = {}, []
  for name, arm in arms.items():
    found = {}
    for metric in metrics:
      than = worth(arm, metric)
      gap = interval([x - than for x in by_seed(arm, metric).values()])
      found[metric] = gap | {'teacher': than}
    record[name] = found
    cells = [f'{found[m]["teacher"]:.3f} {cell(found[m])}' for m in metrics]
    lines.append([name, len(arm['seeds']), *cells])
  head = ['arm', 'seeds', *(f'{m}: teacher, student less it' for m in metrics)]
  last = claimed[-1]
  title = f'C6: {last} passes its teacher, {metrics[0]}'
  judgement, text = judged({'passes': (title, record[last][metrics[0]], 1)})
  return judgement | {'arms': record}, f'{rows(head, lines)}\n{text}'


def calibration(arms):
  """C15: the contrasts of protocol b of docs/questions.md, in its words.

  Those of B1 to B3 are tested where both conditions of B0 hold, and only looked
  at elsewhere. Not here: the bootstrap over problems and the share recovered.
  """
  abroad, sure = 'ood/accuracy_greedy', 'ood/brier_sampled'
  plain = arms['plain']
  doubts = by_seed(plain, 'ood/markers_per_1k')
  begun = by_seed(plain, 'ood/markers_per_1k', 'first')
  condition = {
    'B0_grpo': (
      'B0: plain ends more than .03 below grpo abroad',
      apart(plain, arms['grpo'], abroad),
      -1,
      0.03,
    ),
    'B0_doubts': (
      "B0: plain's doubts a 1,000 tokens, last less half of the first",
      interval([doubts[s] - begun[s] / 2 for s in doubts]),
      -1,
    ),
  }
  met = all(
    verdict(found, *claimed) == 'holds'
    for _, found, *claimed in condition.values()
  )
  primary = {
    f'B1_{name}': (
      f'B1: {name} is better abroad than plain',
      apart(arms[name], plain, abroad),
      1,
      0.03,
    )
    for name in ('entropy', 'calibrated', 'markers')
  } | {
    'B2': (
      f"B2: calibrated's {sure} is below plain's",
      apart(arms['calibrated'], plain, sure),
      -1,
      0.01,
    ),
    'B3': (
      'B3: markers is better abroad than random_mask',
      apart(arms['markers'], arms['random_mask'], abroad),
      1,
      0.03,
    ),
  }
  pairs = {
    'rewarded': ('rewarded', 'plain', abroad),
    'calibrated_rewarded': ('calibrated', 'rewarded', abroad),
    'calibrated_rewarded_brier': ('calibrated', 'rewarded', sure),
    'short': ('short', 'grpo', abroad),
  }
  seen = {'plain_first': ('plain, last less first abroad', rise(plain, abroad))}
  seen |= {
    key: (f'{one} less {two}, {metric}', apart(arms[one], arms[two], metric))
    for key, (one, two, metric) in pairs.items()
  }
  if not met:
    seen = {name: (title, f) for name, (title, f, *_) in primary.items()} | seen
  record, text = judged(condition)
  if met:
    tested, more = registered(primary)
    record['tests'] |= tested
    text += f'\nB0 holds. Together, by Holm:\n\n{more}'
  else:
    text += '\nB0 does not hold: nothing that follows is tested.\n'
  looked, more = judged(looked_at(seen))
  record['tests'] |= looked['tests']
  together = changes_together(arms.values(), sure, abroad)
  more += f'\nRank correlation of changes in {sure} and {abroad}: '
  more += f'{together["rho"]:+.2f} over {together["runs"]} runs.\n'
  record |= {'B0': met, 'changes': together}
  return record, f'{ends(arms)}\n{text}\n{more}'


def changes_together(arms, one, other):
  """Rank correlation over all runs of how two metrics changed."""
  first, second = (
    [
      by_seed(arm, metric)[seed] - by_seed(arm, metric, 'first')[seed]
      for arm in arms
      for seed in by_seed(arm, metric)
    ]
    for metric in (one, other)
  )
  rho: Any = stats.spearmanr(first, second)[0]
  return {'rho': float(rho), 'runs': len(first)}


def real(arms):
  """Whether an arm of a real model ends where known answers took it.

  Of every seed alone: two are too few for an interval.
  """
  known = json.loads(KNOWN.read_text())['arms']['known_answers']
  asked = {
    how: known[f'eval/test/accuracy_{how}']['last']
    for how in ('greedy', 'sampled')
  }
  record, lines = {}, []
  for name, arm in arms.items():
    for seed in map(str, arm['seeds']):
      found: dict[str, Any] = {
        how: {
          kind: by_seed(arm, f'test/accuracy_{how}', kind)[seed]
          for kind in KINDS
        }
        for how in asked
      }
      cells = [f'{found[h][k]:.3f}' for h in asked for k in KINDS]
      there = all(found[how]['last'] >= least for how, least in asked.items())
      record.setdefault(name, {})[seed] = found | {'reached': there}
      lines.append([name, seed, *cells, 'yes' if there else 'no'])
  head = [f'{how}, {kind}' for how in asked for kind in KINDS]
  least = ', '.join(f'{how} {value:.3f}' for how, value in asked.items())
  text = rows(['arm', 'seed', *head, 'ends there'], lines)
  return {'arms': record}, f'There: {least}.\n\n{text}'


CLAIMS = {
  'contexts': contexts,
  'pool': pool,
  'cross_encoder': cross_encoder,
  'calibration': calibration,
  'real': real,
} | contrasts.CONTRASTS


if __name__ == '__main__':
  main()
