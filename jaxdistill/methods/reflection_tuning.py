"""Selective Reflection-Tuning: a teacher refines, the student's scores choose.

(arXiv 2402.10110.) A pair of question and answer; the teacher criticises it and
writes a better one, in two phases, each of which keeps one of two pairs by what
the student, as it was before training, makes of them:

  1. question and answer anew: the pair of higher IFD, which is harder;
  2. the answer anew: the pair of lower r-IFD, whose answer tells more of its
     question.

What is kept is learned by heart. `choose` names the rules of both phases:

| | phase 1 | phase 2 |
|---|---|---|
| `original` | - | - |
| `first`, `second` | refined | -; and the reverse |
| `refined`, `random` | refined; by a coin | the same |
| `ifd`, `r_ifd`, `perplexity` | higher, lower, lower | the same |
| `both` (the paper) | higher IFD | lower r-IFD |

Of a tie the pair before stays, and of two pairs one of which has no score
(`reflection/missing_1`, `_2`): the authors' code takes 0 for that. It also
drops what has an IFD or r-IFD of 1 or more (`useful`) and all whose last
refinement was not kept (`only_refined`), and so does the default here.

Better data is not better for everybody (arXiv 2606.16152): a student learns
from answers in its own words. `ask='critique'`, `writer='base'` refines within
the student's own trace: the task says what is right of it and puts its first
mistake right (that reads the known answer), and the student goes on from what
it reads. With `writer='teacher'` the teacher reads the same. Of a task that has
no critique, the teacher is asked to `repair` an answer in its own style.

What differs from the paper: the set is made step by step, so `epochs` are
passes over a step's; questions stay as they are unless `questions` is set,
where the task reads new ones back; teacher and student are asked by the task's
words and the model's chat template; texts are not cut to 2,048 tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxdistill.dist.hosts import together
from jaxdistill.methods.method import (
  Method,
  check_choice,
  check_minibatches,
  check_unread,
  glimpse,
)
from jaxdistill.rewards.reflection import CHOICES, UNSCORED, useful
from jaxdistill.rollout import Player, Sampling, measure, merged
from jaxdistill.rollout.reflection import (
  Made,
  Pair,
  begun,
  observed,
  told,
  written_by,
)
from jaxdistill.types import Anchor, Collected, RowSet, Update, response_row

ALLOWED = {
  'choose': (*CHOICES,),
  'ask': ('reflect', 'repair', 'critique'),
  'writer': ('teacher', 'base'),
}
_PAPER = {
  'method.name': 'reflection_tuning',
  'method.temperature': 0.0,
  'method.epochs': 3,
}
SYSTEMS: dict[str, dict[str, Any]] = {
  'reflection': _PAPER,
  'style_aligned': {
    **_PAPER,
    'method.author': 'base',
    'method.choose': 'perplexity',
    'method.ask': 'critique',
    'method.writer': 'base',
    'method.useful': False,
    'method.only_refined': False,
  },
}


@dataclasses.dataclass(frozen=True)
class ReflectionTuning(Method):
  """Hyper-parameters of Selective Reflection-Tuning.

  Attributes:
    problems: Pairs per step, over all hosts.
    author: Whose answers are refined: those that are `given` with the problems,
      the student's own as it was (`base`), or another's (`model:NAME`).
    choose: By which rules, see above.
    ask: How for a better answer: to `reflect`, to `repair`, or after the task's
      `critique`.
    writer: Who writes it, the `teacher` or the student as it was (`base`).
    teacher: `model:NAME`, or the rule of a past self.
    questions: Whether phase 1 also writes the question anew.
    useful: Whether only pairs are learned whose IFD and r-IFD are below 1.
    only_refined: Whether only pairs are learned whose answer is that of the
      last phase.
    max_tokens: Longest answer, and longest text of the writer; one that is cut
      is none.
    temperature: Of the writer; an author's is 1.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  problems: int = 128
  author: str = 'given'
  choose: str = 'both'
  ask: str = 'reflect'
  writer: str = 'teacher'
  teacher: str = 'model:small-late'
  questions: bool = False
  useful: bool = True
  only_refined: bool = True
  max_tokens: int = 64
  temperature: float = 0.0
  epochs: int = 3
  minibatches: int = 1

  def __post_init__(self):
    for name, allowed in ALLOWED.items():
      check_choice(self, name, allowed)
    if self.author not in ('given', 'base') and 'model:' not in self.author:
      raise ValueError(
        f'method.author is {self.author!r}; it is given, base or model:NAME'
      )
    first, second = CHOICES[self.choose]
    if self.only_refined and second is None:
      raise ValueError(
        f'method.only_refined is True; of method.choose {self.choose!r} no '
        'last phase refines an answer'
      )
    unread = () if first else ('questions',)
    unread += ('ask', 'writer') if self.choose == 'original' else ()
    why = f'method.choose {self.choose!r} has no such phase'
    check_unread(self, type(self), why, *unread)  # class attributes: defaults
    check_minibatches(self.minibatches, self.problems)
    self.sampling()

  @property
  def anchors(self):
    found = {'base': Anchor('frozen')}
    if self.asks_for and self.writer == 'teacher':
      found['teacher'] = Anchor(self.teacher, measured=False)
    if self.author not in ('given', 'base'):
      found['author'] = Anchor(self.author, measured=False)
    return found

  @property
  def asks_for(self) -> dict[int, str]:
    """What the writer is asked, by phase, of those that there are."""
    words = 'reflect_question' if self.questions else self.ask, self.ask
    phases = enumerate(zip(CHOICES[self.choose], words, strict=True), 1)
    return {phase: ask for phase, (rule, ask) in phases if rule}

  @property
  def words(self):
    asked = {ask for ask in self.asks_for.values() if ask != 'critique'}
    guesses = {'base': ['guess']}
    return guesses | {self.writer: [*guesses.get(self.writer, []), *asked]}

  def check(self, task):
    seen = glimpse(task)
    if self.author == 'given' and any(p.demonstration is None for p in seen):
      raise ValueError(
        f"method.author is 'given', and task {task.name} gives no responses"
      )
    asked = 'critique' in self.asks_for.values()
    if asked and not task.critique(seen[0], str(seen[0].answer)):
      raise ValueError(
        f"method.ask is 'critique', and task {task.name} has none to give"
      )

  def sampling(self) -> Sampling:
    """How the writer draws."""
    return Sampling(1, self.max_tokens, temperature=self.temperature)

  def collect(self, players, problems, state, step, key):
    del step
    yield  # the policy is asked for nothing
    scored = self.useful or not UNSCORED.issuperset(CHOICES[self.choose])
    made, base = self.made(players, problems, key, scored), players['base']
    learned = [
      pair if self.learns(pair, last) else None
      for pair, last in zip(made.kept, made.tries[-1], strict=True)
    ]
    written = together(
      lambda: [written_by(base, pair) for pair in learned if pair]
    )
    rows = merged([response_row(r, 1.0, len(r.tokens_T)) for r in written])
    seen = together(lambda: made.observed() | observed(learned, 'learned'))
    metrics = {f'reflection/{name}': found for name, found in seen.items()}
    stories = zip(problems, zip(*made.tries, strict=True), learned, strict=True)
    return Collected(
      [Update((RowSet('solver', rows),), self.epochs, self.minibatches)],
      state,
      {
        **metrics,
        **made.metrics,
        **measure(made.drawn),
        'reflection/learned': [float(p is not None) for p in learned],
      },
      together(
        lambda: [
          told(base, *story, made.drawn[i : i + 1])
          for i, story in enumerate(stories)
        ]
      ),
      tokens=sum(len(r.tokens_T) for r in made.drawn),
      scored=sum(len(r.tokens_T) for r in made.read),
    )

  def made(
    self, players: Mapping[str, Player], problems, key, scored: bool
  ) -> Made:
    """Pairs, refined and chosen; `base` scores them, or nobody does."""
    author = {'given': None, 'base': 'base'}.get(self.author, 'author')
    drawing = Sampling(1, self.max_tokens), jax.random.fold_in(key, 0)
    made = begun(problems, author and players[author], *drawing)
    made = made.scored(players['base']) if scored else made
    for phase, ask in self.asks_for.items():
      now = jax.random.fold_in(key, phase)
      made = made.refined(players[self.writer], ask, self.sampling(), now)
      made = made.scored(players['base']) if scored else made
      made = made.chosen(CHOICES[self.choose][phase - 1], phase, now)
    return made

  def learns(self, pair: Pair | None, refinement: Pair | None) -> bool:
    """Whether what was kept is learned, beside what was written last."""
    if pair is None or (self.only_refined and pair is not refinement):
      return False
    return useful(pair.scores) or not self.useful

  def loss(self, model, anchors, batch):
    del anchors
    return -batch.logprobs(model), {}

  def against(self, players, problems, key):
    """What the data are worth, held out: the same at every evaluation."""
    made = self.made(players, problems, key, scored=True)
    return together(lambda: made.observed() | observed(made.kept, 'kept'))
