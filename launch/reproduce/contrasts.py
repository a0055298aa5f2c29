"""What `claims.py` asks of the arms of each comparison of systems.

Each takes what `jaxdistill compare` made of the arms, and gives a record with
`tests`, and a text. What has a verdict is tested together, by Holm; the rest is
there to be looked at, at 95% each. When each was written down, before its runs
or after some, is said in `claims_table.py`.
"""

from typing import Any

import numpy as np
from differences import (
  claimed,
  last,
  less,
  risen,
  told,
  within,
  within_apart,
)
from scipy import stats

from jaxdistill.plots.claims import (
  at_holm,
  by_seed,
  cell,
  interval,
  judged,
  logged,
  rise,
  rows,
)
from jaxdistill.plots.files import read_metrics

GREEDY, SAMPLED = 'test/accuracy_greedy', 'test/accuracy_sampled'
ROUNDING = 0.02  # by how much a gain may pass its bound
# Verifiers of one base, and neither the one that knows all nor none.
RANKED = ('vote', 'yes', 'tournament')
# Their first round is that of another arm: the verifier has not moved yet.
SAME_FIRST = ('first_yes',)


def score(arms):
  """C3: correction learned on one's own attempts lasts, offline it does not."""
  delta, second = 'ood/delta_sampled', 'ood/accuracy_turn_2_sampled'
  pairs = ('score', 'pairs'), ('score', 'star')
  claims = {
    'delta': (
      'C3: the second attempt beats the first (score, ood, sampled)',
      last(arms['score'], delta),
      1,
    ),
  }
  claims |= claimed('C3', less(arms, delta, *pairs), 1)
  claims |= claimed('C3', less(arms, second, *pairs), 1)
  # Of first attempts that stay the same: not by making them worse.
  fixed = 'ood/fixed_delta_sampled'
  claims |= claimed('C3', less(arms, fixed, *pairs), 1)
  seen = {
    f'delta_{arm}': (f'{arm}: second less first attempt', last(found, delta))
    for arm, found in arms.items()
    if arm != 'score'
  }
  seen |= {
    'delta_base': (
      'the base, only asked',
      interval(by_seed(arms['score'], delta, 'first').values()),
    )
  }
  title = ": second attempts after the base's first, last less first"
  seen |= risen(arms, fixed, 'fixed', title)
  others = [a for a in arms if a not in ('score', 'pairs', 'star')]
  seen |= less(arms, second, *(('score', a) for a in others))
  columns = {
    f'{split}/{what}_sampled': f'{split}, {title}'
    for split in ('test', 'ood')
    for what, title in (
      ('accuracy_turn_1', 'first'),
      ('accuracy_turn_2', 'second'),
      ('delta', 'difference'),
      ('wrong_to_right', 'wrong to right'),
      ('right_to_wrong', 'right to wrong'),
      ('fixed_delta', 'difference, after fixed ones'),
    )
  }
  return told(arms, claims, seen, columns)


def verifiers(arms):
  """C7: a round gains no more than its verifier knows, and rounds saturate."""
  found = {
    name: {seed: rounds(arm['folder'] / str(seed)) for seed in arm['seeds']}
    for name, arm in arms.items()
  }
  record, lines = {}, []
  for name, of_seeds in found.items():
    gaps_SR, right_SR = map(np.array, zip(*of_seeds.values(), strict=True))
    record[name] = {
      'gap': interval(gaps_SR[:, 0]),
      'gain': interval(np.diff(right_SR)[:, 0]),
      'right': right_SR.mean(0).tolist(),
      'gaps': gaps_SR.mean(0).tolist(),
    }
    cells = [cell(record[name][k]) for k in ('gap', 'gain')]
    course = ' '.join(f'{x:.3f}' for x in record[name]['right'])
    course_of_gaps = ' '.join(f'{x:+.3f}' for x in record[name]['gaps'])
    lines.append([name, len(of_seeds), *cells, course, course_of_gaps])
  claims: dict[str, Any] = {
    f'bound_{name}': (
      f'C7: a first round by {name} gains at most {ROUNDING} more than its gap '
      '(what is left of that)',
      interval([g[0] + ROUNDING - gains(r)[0] for g, r in of_seeds.values()]),
      1,
    )
    for name, of_seeds in found.items()
    if name not in ('all', 'by_chance', *SAME_FIRST)
  }
  claims['saturates'] = (
    f'C7: the fourth round by vote gains less than {ROUNDING} (what is left)',
    interval([ROUNDING - gains(r)[-1] for _, r in found['vote'].values()]),
    1,
  )
  claims['ordered'] = (
    'C7: the larger the gap, the larger the gain (rank correlation over '
    f'{", ".join(RANKED)})',
    ranked([found[name] for name in RANKED]),
    1,
  )
  tests, text = judged(at_holm(claims))
  head = ['arm', 'seeds', 'gap before', 'gain of the first round']
  head += ['right, sampled, by round', 'gaps, by round']
  return tests | {'arms': record}, f'{rows(head, lines)}\n{text}'


def gains(right):
  """By how much each round raises what is right."""
  return np.diff(right)


def rounds(folder):
  """Gaps of a run's rounds, and how often samples are right around them."""
  lines = read_metrics(folder)
  gaps = [x['train/gap'] for x in lines if 'train/gap' in x]
  return gaps, [x[logged(SAMPLED)] for x in lines if logged(SAMPLED) in x]


def ranked(arms):
  """Rank correlation over arms of gaps and gains of the first round."""
  values = []
  for seed in sorted(set.intersection(*map(set, arms))):
    of_arms = [arm[seed] for arm in arms]
    order = [gaps[0] for gaps, _ in of_arms]
    rho: Any = stats.spearmanr(order, [gains(r)[0] for _, r in of_arms])[0]
    values.append(float(rho))
  return interval(values)


def seal(arms):
  """C1: one's own training data fits better than a stronger one's."""
  own, edited = arms['seal'], 'test/accuracy_edited'
  alone = 'test/accuracy_passage'
  claims = {
    'own': (
      "C1: an untrained writer's edits teach more than the passage alone",
      within(own, edited, alone, 'first'),
      1,
    ),
    'trained': (
      'C1: learning to write them adds to that (seal, last less first)',
      rise(own, edited),
      1,
    ),
  } | claimed('C1', less(arms, edited, ('seal', 'random')), 1)
  seen = {
    'own_beside': (
      "the paper's form: an untrained writer's edits beside the passage, less "
      'the passage alone',
      within(arms['passage'], edited, alone, 'first'),
    ),
    'trained_beside': (
      "the paper's form, trained (passage, last less first)",
      rise(arms['passage'], edited),
    ),
    'seal_alone': (
      'seal, trained: an edit less the passage alone, last',
      within(own, edited, alone, 'last'),
    ),
  }
  others = {a: x for a, x in arms.items() if a not in ('seal', 'passage')}
  seen |= risen(others, edited, 'rise', ': after an edit, last less first')
  title = ': after the passage alone, last less first'
  seen |= risen(arms, alone, 'alone', title)
  others = ('any', 'matched', 'passage', 'given', 'other')
  seen |= less(arms, edited, *(('seal', a) for a in others if a in arms))
  seen |= less(arms, 'test/accuracy_nothing', ('seal', 'random'))
  if 'other' in arms:
    seen |= of_another(arms['other'], own)
  columns = {
    edited: 'after an edit',
    alone: 'after the passage',
    'test/accuracy_nothing': 'after nothing',
    'seal/score': 'of edits in training',
    'test/edit_length': 'tokens of an edit',
  }
  return told(arms, claims, seen, columns)


def of_another(other, own):
  """What edits of the same passages teach: own ones less another model's.

  At first one model learns both; at last each is learned by the model that was
  trained on its kind.
  """
  said = {'first': 'one learner, first', 'last': 'each its own learner, last'}
  title = "what edits in training add, own less another model's"
  return {
    f'own_other_{kind}': (
      f'{title} ({learners})',
      within_apart(own, other, ('seal/score', kind), ('seal/no_edit', kind)),
    )
    for kind, learners in said.items()
  }


def sequential_edits(arms):
  """C1, second part: what eight edits one after another cost."""
  forgotten, of_all = 'edits/forgotten', 'edits/all'
  claims = {
    'forgets': (
      'C1: edits one after another are forgotten (plain, at the eighth)',
      last(arms['plain'], forgotten),
      1,
    )
  } | claimed(
    'C1: less is forgotten',
    less(arms, forgotten, ('replay', 'plain'), ('kl', 'plain')),
    -1,
  )
  others = [(a, 'plain') for a in arms if a != 'plain']
  seen = less(arms, of_all, *others)
  columns = {
    'edits/now': 'of the passage just learned',
    'edits/earlier': 'of those before',
    forgotten: 'forgotten',
    of_all: 'of all',
    'edits/gained': 'more than untaught',
  }
  return told(arms, claims, seen, columns)


def reflection(arms):
  """C2: refined data can hurt, and the student should choose."""
  claims = claimed('C2', less(arms, SAMPLED, ('refined', 'original')), -1)
  pairs = (('both', 'refined'), ('both', 'random'), ('ifd', 'refined'))
  claims |= claimed('C2', less(arms, SAMPLED, *pairs), 1)
  seen = less(
    arms,
    SAMPLED,
    *(('random', 'refined'), ('r_ifd', 'refined'), ('perplexity', 'refined')),
    *(('strict', 'both'), ('foreign_perplexity', 'foreign')),
    *(('told', 'refined'), ('told_foreign', 'foreign')),
    *(('style_aligned', 'told'), ('style_aligned', 'original')),
  )
  seen |= less(arms, GREEDY, ('refined', 'original'), ('both', 'refined'))
  columns = {
    GREEDY: 'test, greedy',
    SAMPLED: 'test, sampled',
    'ood/accuracy_sampled': 'ood, sampled',
    'reflection/learned': 'learned',
    'test/right_refined': 'refined and right',
    'test/perplexity_refined': 'perplexity of refined',
  }
  return told(arms, claims, seen, columns)


def serl(arms):
  """C10: a model can judge itself.

  The fixed judge is the base, whose tastes, for length among them, the policy
  is trained by: wins are read beside accuracy and length.
  """
  wins, judges = 'test/win_rate', 'test/fixed_judge_accuracy'
  wins_less_half = [x - 0.5 for x in by_seed(arms['serl'], wins).values()]
  claims = {
    'wins': (
      'C10: a fixed judge prefers what it has become (win rate less a half)',
      interval(wins_less_half),
      1,
    ),
    'judges': (
      'C10: it judges fixed pairs better (last less first)',
      rise(arms['serl'], judges),
      1,
    ),
  }
  parts = ('serl', 'random'), ('serl', 'no_actor'), ('serl', 'no_judge')
  claims |= claimed('C10', less(arms, wins, *parts), 1)
  claims |= claimed('C10', less(arms, judges, ('serl', 'random')), 1)
  pairs = [('serl', a) for a in arms if a not in ('serl', 'by_chance')]
  seen = {
    'accuracy': ('serl, accuracy, sampled', rise(arms['serl'], SAMPLED)),
    'by_chance': (
      'a judge by chance: accuracy, sampled',
      rise(arms['by_chance'], SAMPLED),
    ),
  }
  seen |= less(arms, SAMPLED, *pairs)
  seen |= risen(arms, 'test/length', 'length', ', tokens of an answer')
  columns = {
    wins: 'win rate',
    SAMPLED: 'sampled',
    GREEDY: 'greedy',
    judges: 'fixed pairs',
    'test/fixed_judge_flips': 'flips',
    'test/fixed_judge_longer': 'the longer one',
    'test/length': 'tokens',
  }
  return told(arms, claims, seen, columns)


def temporal(arms):
  """C11: halves drawn apart in time keep the preference signal alive."""
  gap, pairs, own = 'tsr/score_gap', 'tsr/pairs', arms['self_rewarding']
  claims = {
    'fades': (
      'C11: own halves become alike (self_rewarding: gap of best and worst)',
      rise(own, 'tsr/own_gap'),
      -1,
    ),
    # On one and the same responses those of `both` are never closer: what
    # counts is by how much less they come closer.
    'stays': (
      'C11: gaps of pairs shrink less (both less self_rewarding, last less '
      'first)',
      within_apart(arms['both'], own, (gap, 'last'), (gap, 'first')),
      1,
    ),
  }
  better = ('both', 'self_rewarding'), ('both', 'random')
  claims |= claimed('C11', less(arms, SAMPLED, *better), 1)
  seen = {'dry': ('self_rewarding: problems with a pair', rise(own, pairs))}
  others = [a for a in arms if a not in ('both', 'self_rewarding')]
  seen |= less(arms, SAMPLED, *((a, 'self_rewarding') for a in others))
  seen |= less(arms, GREEDY, ('both', 'self_rewarding'))
  columns = {
    SAMPLED: 'test, sampled',
    GREEDY: 'test, greedy',
    gap: 'score gap',
    'tsr/own_gap': 'own gap',
    pairs: 'problems with a pair',
    'tsr/judge_auc': "judge's AUC",
  }
  return told(arms, claims, seen, columns)


def cot(arms):
  """C12: one's own problems, well filtered, beat given ones.

  At equal tokens, what building the set takes included: arms that write learn
  for fewer steps.
  """
  claims = claimed(
    'C12',
    less(
      arms,
      SAMPLED,
      *(('answer_match', 'given'), ('answer_match', 'none')),
      *(('self_consistency', 'none'), ('rip', 'none')),
    ),
    1,
  )
  pairs = [('given_voted', 'given'), ('answer_match', 'given_voted')]
  pairs += [('self_play', 'answer_match'), ('none', 'given')]
  seen = less(arms, SAMPLED, *pairs)
  pairs = (('answer_match', 'given'), ('answer_match', 'none'))
  seen |= less(arms, GREEDY, *pairs)
  columns = {
    SAMPLED: 'test, sampled',
    GREEDY: 'test, greedy',
    'ood/accuracy_sampled': 'ood, sampled',
    'cot_self_instruct/trained_label_right': 'labels that are right',
    'cot_self_instruct/trained_share': 'votes that agree',
  }
  return told(arms, claims, seen, columns)


def anchors(arms):
  """C8: what lasts is held by something that does not move itself."""
  # Each beside the arm of its own method that nothing holds.
  beside = {'past_judge': 'own_judge', 'other_judge': 'own_judge'}
  beside |= {'past_rejected': 'own_rejected'}
  unheld = ('none', 'own_judge', 'own_rejected')
  pairs = [(a, beside.get(a, 'none')) for a in arms if a not in unheld]
  claims = claimed('C8', less(arms, GREEDY, *pairs), 1)
  claims |= {
    f'unheld_{name}': (
      f'C8: {name} ends below its start, {GREEDY}',
      rise(arms[name], GREEDY),
      -1,
    )
    for name in unheld
  }
  seen = risen(arms, SAMPLED, 'rise', f', {SAMPLED}, last less first')
  record, text = told(
    arms,
    claims,
    seen,
    {m: m for m in (GREEDY, SAMPLED, 'ood/accuracy_greedy')},
  )
  below = {name: fallen(arm) for name, arm in arms.items()}
  lines = [[name, *found] for name, found in below.items()]
  table = rows(['arm', 'seeds that end below their start', 'of'], lines)
  courses = {name: course(arm, GREEDY) for name, arm in arms.items()}
  lines = [[n, *(f'{x:.3f}' for x in found)] for n, found in courses.items()]
  steps = max(map(len, courses.values()))
  head = ['arm', *(f'{GREEDY}, evaluation {i}' for i in range(steps))]
  more = {'fallen': below, 'course': courses}
  return record | more, f'{text}\n{table}\n{rows(head, lines)}'


def course(arm, metric):
  """The mean over seeds at every evaluation."""
  runs = [read_metrics(arm['folder'] / str(seed)) for seed in arm['seeds']]
  name = logged(metric)
  return np.mean(
    [[x[name] for x in run if name in x] for run in runs], 0
  ).tolist()


def fallen(arm):
  """How many seeds end below where they began, and how many there are."""
  begun, ended = (by_seed(arm, GREEDY, kind) for kind in ('first', 'last'))
  return [sum(ended[s] < begun[s] for s in begun), len(begun)]


def sqlm(arms):
  """C9: self-play by votes teaches without data, and its reward does it."""
  claims = {
    'rises': ('C9: sqlm, sampled, last less first', rise(arms['sqlm'], SAMPLED))
  }
  controls = 'random_reward', 'format_only', 'frozen_proposer', 'fixed_bank'
  claims |= less(arms, SAMPLED, *(('sqlm', a) for a in controls))
  claims = {name: (*found, 1) for name, found in claims.items()}
  seen = less(arms, SAMPLED, ('sqlm', 'known_answers'))
  return told(arms, claims, seen, {GREEDY: 'greedy', SAMPLED: 'sampled'})


def factorial(arms, effects):
  """C13: effects on sampled accuracy, as `factorial.py` has left them."""
  (seeds,) = {len(arm['seeds']) for arm in arms.values()}
  claims = {
    name: (f'C13: {name}, {SAMPLED}', effect | {'seeds': seeds}, 1)
    for name, effect in effects[SAMPLED].items()
  }
  return judged(at_holm(claims))[0]


CONTRASTS = {
  'verifiers': verifiers,
  'score': score,
  'seal': seal,
  'sequential_edits': sequential_edits,
  'reflection': reflection,
  'serl': serl,
  'temporal': temporal,
  'cot': cot,
  'anchors': anchors,
  'anchors_gentle': anchors,
}
