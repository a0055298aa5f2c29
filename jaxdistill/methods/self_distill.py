"""Self-distillation: a model learns from itself where it has read more.

Each step the student answers problems; the teacher, the same model with frozen
or slower weights, reads something beside each problem (`context`, a rung of the
ladder in `rollout/contexts.py`) and says of the student's own tokens what it
would have said; the student is drawn there, token by token. There is no reward,
but to say what is right and so may be told. Responses whose teacher has nothing
to read are left out.

SDPO, OPSD, SDFT and what has been made of them differ in nothing but these
settings, so they are one method; `SYSTEMS` has them by name:

| | context | whose | who is taught | teacher | divergence |
|---|---|---|---|---|---|
| SDPO (2601.20802) | a right sibling | own | all | EMA | JSD, top 100, tail |
| OPSD (2601.18734) | the solution | given | all | frozen | forward, clipped |
| SDFT (2601.19897) | a demonstration | given | all | EMA | forward |
| SRPO (2604.02288) | as SDPO | own | wrong; others: GRPO | EMA | as SDPO |
| U-OPSD (2608.06296) | the answer | vote's | who disagrees | frozen | forward |

`judge=vote` needs no label: what the majority answers is told and learned from
in one step. A sibling is another sample, if perhaps with the same text. What
differs from the published code: its thinking is shown (`context=conclusion`
strips it); equal responses are trained once, with their number as weight. The
divergence of SDFT is the forward KL, by which its authors say all its results
were made, though its first text has the reverse one (`alpha=1`); that its code
may leave out a response's first three tokens is not here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import sum_over_hosts, together
from jaxdistill.methods.distillation import (
  Distillation,
  by_share,
  drawn_set,
  taught_rows,
)
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_paid,
  check_unread,
  glimpse,
)
from jaxdistill.methods.policy_gradient import (
  REWARDS,
  UNPAID,
  UNREAD,
  PolicyGradient,
)
from jaxdistill.rollout import (
  Player,
  contexts,
  measure,
  scored_tokens,
  transcript,
)
from jaxdistill.rollout.contexts import Case
from jaxdistill.rollout.markers import begins
from jaxdistill.types import Anchor, Collected, Prompt, Rollout, Row

_FORWARD = {'method.alpha': 0.0, 'method.support': 'all'}
_WRONG = {'method.taught': 'wrong'}
_GIVEN = {'method.solution': 'reference'}
_NAME = {'method.name': 'self_distill'} | UNREAD
# The keys of a config that make it one of these.
SYSTEMS: dict[str, dict[str, Any]] = {
  'sdpo': _NAME,
  'opsd': {
    **(_NAME | _GIVEN | _FORWARD),
    'method.teacher': 'frozen',
    'method.entry_clip': 0.05,
  },
  'sdft': {**(_NAME | _GIVEN | _FORWARD), 'method.teacher': 'ema:0.99'},
  'srpo': {
    **(_NAME | _WRONG),
    'method.others': True,
    'method.entropy': 1.0,
    'method.objective': 'dapo',
  },
  'u_opsd': {
    **(_NAME | _WRONG | _FORWARD),
    'method.context': 'answer',
    'method.judge': 'vote',
    'method.teacher': 'frozen',
  },
}
SPARED = ('', 'markers', 'random')
TAUGHT = {
  'all': lambda case: True,
  'right': lambda case: case.right is True,
  'wrong': lambda case: case.right is False,
}


@dataclasses.dataclass(frozen=True)
class SelfDistill(Method):
  """Hyper-parameters of self-distillation.

  Attributes:
    problems: Problems per step, over all hosts.
    samples: Answers per problem.
    max_tokens: Longest answer, and longest text that a teacher writes.
    context: What the teacher is told, see `rollout/contexts.py`.
    judge: Who says what is right: `known` or, without a label, `vote`.
    solution: Whose solutions are told: a right `sibling`'s or, for judges that
      know, the `reference` that comes with a problem.
    taught: Who learns from the teacher: `all`, `right` or `wrong`, those that
      the judge takes for it.
    others: Whether those who are not taught take a policy gradient on what the
      judge pays; the mean of each counts by its share of the tokens (SRPO,
      whose `objective` is `dapo`; equal groups stay in).
    teacher: When the teacher follows, see `anchors/rules.py`; it moves with
      steps of the optimizer.
    spare: Which tokens are left out: words of doubt (`markers`: those that were
      drawn, and those that the student found likeliest), or as many at `random`
      (a control); empty: none.
    rewarded: Weight of a policy gradient, for all answers, on their being
      right, by the judge. 0: none.
    calibration: What is taken from that reward for being sure and wrong, or
      right and unsure: so many times the squared difference between an answer's
      confidence (the share of its siblings that agree) and its being right
      (RLCR, arXiv 2507.16806, where the confidence is spoken). At most 1: a
      right answer then never earns less than a wrong one.
    trust: How far the teacher's logits are pulled to those of the student with
      the same context: 0 is the teacher itself, 1 the student (SDPO's trust
      region, with `teacher=frozen`).
    distillation: How the student is drawn to it.
    policy: How answers are drawn, and `others` learn.
  """

  problems: int = 32
  samples: int = 8
  max_tokens: int = 64
  context: str = 'full'
  judge: str = 'known'
  solution: str = 'sibling'
  taught: str = 'all'
  others: bool = False
  teacher: str = 'ema:0.95'
  spare: str = ''
  rewarded: float = 0.0
  calibration: float = 0.0
  trust: float = 0.0
  distillation: Distillation = Distillation()
  policy: PolicyGradient = PolicyGradient(kl=0.0)

  def __post_init__(self):
    for name, allowed in (
      ('context', contexts.NAMES),
      ('judge', contexts.JUDGES),
      ('solution', contexts.SOLUTIONS),
      ('taught', TAUGHT),
      ('spare', SPARED),
    ):
      check_choice(self, name, allowed)
    if not 0 <= self.trust < 1:
      raise ValueError(f'method.trust is {self.trust}; it must be in [0, 1)')
    check_unread(self.policy, UNPAID, 'no length is paid for', 'overlong')
    if not (self.others or self.rewarded):
      why = 'there is a policy gradient with method.others or rewarded only'
      check_unread(self.policy, UNPAID, why, 'kl', 'reference', *REWARDS)
    if not 0 <= self.calibration <= 1:
      raise ValueError(
        f'method.calibration is {self.calibration}; it must be in [0, 1]'
      )
    if self.calibration and not self.rewarded:
      raise ValueError(
        f'method.calibration is {self.calibration}, of a reward that is not '
        'paid: method.rewarded must be above 0'
      )
    if self.calibration and self.judge == 'vote':
      raise ValueError(
        f'method.calibration is {self.calibration}; a vote agrees with itself: '
        "method.judge must be 'known'"
      )
    if self.distillation.support == 'sampled':
      self.policy.check_whole()
    if self.others and self.taught == 'all':
      raise ValueError(
        "method.taught is 'all': with method.others it must leave some over, "
        "as 'wrong' does"
      )
    if self.judge == 'vote' and self.solution == 'reference':
      raise ValueError(
        "method.judge is 'vote', which knows no reference: method.solution "
        "must be 'sibling'"
      )
    needs_two = self.judge == 'vote' or self.others or self.rewarded
    if self.samples < 1 + (needs_two or self.solution == 'sibling'):
      raise ValueError(
        f'method.samples is {self.samples}; siblings and votes need at least 2'
      )
    check_minibatches(self.policy.minibatches, self.problems * self.samples)

  @property
  def anchors(self):
    teacher = Anchor(self.teacher, in_loss=True, clock='optimizer')
    return {**self.policy.anchors, 'teacher': teacher}

  def check(self, task):
    seen = glimpse(task)
    of_solutions = self.context in contexts.OF_SOLUTIONS
    if (
      of_solutions
      and self.solution == 'reference'
      and any(p.demonstration is None for p in seen)
    ):
      raise ValueError(
        f"method.solution is 'reference'; task {task.name} has none (a "
        '"response" in each line of a file); siblings have their own'
      )
    if self.judge == 'known':
      check_paid(task, "method.judge='known'")
      if self.context == 'answer' and all(p.answer is None for p in seen):
        raise ValueError(
          f"method.context is 'answer'; task {task.name} pays for answers and "
          'knows none'
        )

  def collect(self, players, problems, state, step, key):
    del step
    policy = players['policy']
    rollouts_PG = policy.generate(
      [Prompt.solve(p) for p in problems],
      self.policy.sampling(self.samples, self.max_tokens),
      key,
    )
    spared = self._spared(policy, rollouts_PG, key)
    yield  # what follows asks the policy for nothing
    teacher = players['teacher']
    cases_PG = contexts.cases(problems, rollouts_PG, self.judge, self.solution)
    # What is written is drawn by numbers of its own.
    prompts_PG, written = contexts.prompts(
      *(self.context, cases_PG, teacher, self.max_tokens),
      jax.random.fold_in(key, 1),
    )
    cases = [c for cases_G in cases_PG for c in cases_G]
    prompts = [p for prompts_G in prompts_PG for p in prompts_G]
    taught = np.array(
      [
        prompt is not None and TAUGHT[self.taught](case)
        for case, prompt in zip(cases, prompts, strict=True)
      ],
      bool,
    )
    rows, scored = self._taught_rows(cases, prompts, taught, spared, teacher)
    sets = [rows]
    lengths = np.array([len(c.rollout.tokens_T) for c in cases], int)
    if self.others:
      rest = self._other_rows(cases, ~taught, players.get('base'))
      scored += scored_tokens(rest) if self.policy.kl else 0
      tokens = [int(lengths[x].sum()) for x in (taught, ~taught)]
      sets = by_share((rows, rest), tokens)
    made = [drawn_set(sets[0], self.policy.importance_cap, taught=True)]
    made += [self.policy.row_set(rest, kind='other') for rest in sets[1:]]
    if self.rewarded:
      paid = self._rewarded_rows(cases, players.get('base'))
      scored += scored_tokens(paid) if self.policy.kl else 0
      made.append(self.policy.row_set(paid, kind='rewarded'))
    metrics = {
      'train/taught': taught.astype(float),
      'train/right': [float(bool(c.right)) for c in cases],
      'train/spared': np.concatenate([np.zeros(0, bool), *spared]),
    } | measure([c.rollout for c in cases])
    told = [
      _transcribed(*found)
      for found in zip(problems, cases_PG, prompts_PG, strict=True)
    ]
    return Collected(
      [self.policy.update(*made)],
      state,
      metrics,
      told,
      tokens=int(lengths.sum()) + written,
      scored=scored + self.policy.epochs * scored_tokens(rows),
    )

  def loss(self, model, anchors, batch):
    if batch.kind in ('other', 'rewarded'):
      return self.policy.loss(model, batch)
    teachers = [anchors['teacher'], *[model] * (self.trust > 0)]

    def mix(teacher, own=0.0):
      return (1 - self.trust) * teacher + self.trust * own

    temperature = self.policy.temperature
    return self.distillation.loss(model, batch, teachers, temperature, mix)

  def _taught_rows(
    self,
    cases: Sequence[Case],
    prompts: Sequence[Prompt | None],
    taught: np.ndarray,
    spared: Sequence[np.ndarray],
    teacher: Any,
  ) -> tuple[list[Row], int]:
    """Rows of those who are taught, and how many tokens were scored for it."""
    chosen = np.flatnonzero(taught).tolist()
    pairs = [(cases[i].rollout, prompts[i]) for i in chosen]
    told = together(lambda: [teacher.asked(r, prompt) for r, prompt in pairs])
    weights = [self.distillation.weights(len(r.tokens_T)) for r in told]
    scored = 0
    if self.distillation.entropy:
      names = [(r.prompt_T.tobytes(), r.tokens_T.tobytes()) for r in told]
      different = dict(zip(names, told, strict=True))
      scored = sum(len(r.tokens_T) for r in different.values())
      found = teacher.entropies([*different.values()], self.policy.temperature)
      entropies = dict(zip(different, found, strict=True))
      weights = self._by_entropy(weights, [entropies[name] for name in names])
    weights = [
      np.where(spared[i], np.float32(0), w)
      for i, w in zip(chosen, weights, strict=True)
    ]
    read = [r.prompt_T for r in told]
    return taught_rows([r for r, _ in pairs], weights, read), scored

  def _spared(
    self, policy: Player, rollouts_PG: Sequence[Sequence[Rollout]], key: Any
  ) -> list[np.ndarray]:
    """Of each response the tokens that are left out, bool[T]."""
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    if not self.spare:
      return [np.zeros(len(r.tokens_T), bool) for r in rollouts]
    likeliest, _ = policy.top(rollouts, 1, self.policy.temperature)
    ids = begins(policy.tokenizer, policy.markers)
    out = []
    for i, (r, top_T1) in enumerate(zip(rollouts, likeliest, strict=True)):
      doubt_T = np.isin(r.tokens_T, ids) | np.isin(top_T1[:, 0], ids)
      if self.spare == 'random':
        seed = jax.random.key_data(key).tolist()
        place = r.prompt.address, i % self.samples
        doubt_T = np.random.default_rng([*seed, *place]).permuted(doubt_T)
      out.append(doubt_T)
    return out

  def _rewarded_rows(
    self, cases: Sequence[Case], base: Player | None
  ) -> list[Row]:
    """Rows of a policy gradient on being right, less a Brier score."""
    paid = []
    for g in range(0, len(cases), self.samples):
      group = cases[g : g + self.samples]
      answers_G = rewards.answers(
        group[0].problem.task, [c.rollout for c in group]
      )
      sure_G = rewards.confidences(answers_G)
      right_G = [float(bool(c.right)) for c in group]
      paid += [
        right - self.calibration * (sure - right) ** 2
        for sure, right in zip(sure_G, right_G, strict=True)
      ]
    paid_PG = np.array(paid, float).reshape(-1, self.samples)
    rows = self.policy.rows(
      [c.rollout for c in cases],
      self.policy.advantages(paid_PG).ravel(),
      np.ones(len(cases)),
      base,
      self.max_tokens,
    )
    weight = np.float32(self.rewarded)
    return [
      dataclasses.replace(row, weight_R=weight * row.weight_R) for row in rows
    ]

  def _by_entropy(
    self, weights: Sequence[np.ndarray], entropies: Sequence[np.ndarray]
  ) -> list[np.ndarray]:
    """Weights that are less where the teacher is unsure; 1 on average."""
    power = self.distillation.entropy
    found = [
      w * np.exp(-power * h) for w, h in zip(weights, entropies, strict=True)
    ]
    sums = [sum(float(w.sum()) for w in found), sum(map(len, found))]
    total, count = sum_over_hosts(np.array(sums))
    return [np.asarray(w * count / max(total, 1e-9), np.float32) for w in found]

  def _other_rows(self, cases, chosen: np.ndarray, base) -> list[Row]:
    """Rows of a policy gradient on what the judge pays."""
    paid_PG = np.array([float(bool(c.right)) for c in cases])
    advantages = self.policy.advantages(paid_PG.reshape(-1, self.samples))
    return self.policy.rows(
      [c.rollout for c in cases],
      advantages.ravel(),
      chosen.astype(float),
      base,
      self.max_tokens,
    )


def _transcribed(problem, cases_G: Sequence[Case], prompts_G) -> dict[str, Any]:
  """What was said to one problem, and what its teacher read."""
  return transcript(
    problem,
    [c.rollout for c in cases_G],
    by_text={
      'right': [c.right for c in cases_G],
      'teacher': [p and p.text for p in prompts_G],
    },
    taken=cases_G[0].answer,
  )
