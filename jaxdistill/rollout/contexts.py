"""What a teacher is told beside a problem: the ladder of contexts.

A teacher that has its student's own weights knows more only by what it reads.
One rung for each thing that it may be told, from nothing to a whole solution,
and two that should not help:

| rung          | the teacher also reads                                       |
|---------------|--------------------------------------------------------------|
| `none`        | nothing                                                      |
| `answer`      | the answer                                                   |
| `verdict`     | whether this response is right                               |
| `critique`    | what of it is right, and its first mistake put right         |
| `conclusion`  | a right solution without its thinking                        |
| `regenerated` | what the teacher itself writes after a right solution        |
| `full`        | a right solution                                             |
| `other`       | a right solution of another problem                          |
| `wrong`       | a wrong response to this problem                             |

(arXiv 2603.24472, sec. 3, has `none`, `conclusion`, `regenerated` and `full`;
step-wise critiques are those of 2606.11173, other problems' solutions those of
2608.09228.) What is right is what the task says, or what a vote takes for it;
solutions are a right sibling's (SDPO) or given ones (OPSD, SDFT).
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxdistill import rewards
from jaxdistill.dist.hosts import gather_texts
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Hint, Problem, Prompt, Rollout

CRITIQUE = (
  'A question:\n{asked}\n\nA correct solution:\n{solution}\n\nAn attempt:\n'
  '{attempt}\n\nRepeat what is right of the attempt word for word up to its '
  'first mistake, then correct that mistake. Do not go on from there.'
)
RIGHT = 1.0  # what a task pays for a right answer


class Known(NamedTuple):
  """What is known of a problem, by whoever judges.

  Attributes:
    answer: The right answer, or what is taken for it; None if nobody knows.
    right_G: Which of the responses are right, or taken for it; None where
      nobody knows.
    critiques_G: What the judge can say of each; None where it cannot.
  """

  answer: str | None
  right_G: Sequence[bool | None]
  critiques_G: Sequence[str | None]


def by_task(problem: Problem, rollouts_G: Sequence[Rollout]) -> Known:
  """What the task pays, and its known answer."""
  answers_G = rewards.answers(problem.task, rollouts_G)
  worth_G = problem.task.reward(problem, answers_G)
  said_G = [problem.task.critique(problem, r.text) for r in rollouts_G]
  return Known(problem.answer, [worth >= RIGHT for worth in worth_G], said_G)


def by_vote(problem: Problem, rollouts_G: Sequence[Rollout]) -> Known:
  """What the majority answers; no label is read."""
  vote = rewards.majority(rewards.answers(problem.task, rollouts_G))
  nothing_G = [None] * len(rollouts_G)
  if vote.answer is None:
    return Known(None, nothing_G, nothing_G)
  return Known(vote.answer, vote.agrees_G, nothing_G)


JUDGES = {'known': by_task, 'vote': by_vote}


@dataclasses.dataclass(frozen=True)
class Case:
  """A response, and what its teacher may be told.

  Attributes:
    problem: What was asked.
    rollout: The response.
    address: Of its own among all responses of a step.
    right: Whether it is right, or taken for it; None where nobody knows.
    answer: The right answer.
    solution: A right solution; None if there is none but perhaps its own.
    wrongs: Wrong responses of siblings.
    critique: What the judge says of it, or None.
    other: A solution of another problem, see `with_others`, or None.
  """

  problem: Problem
  rollout: Rollout
  address: int
  right: bool | None
  answer: str | None
  solution: str | None
  wrongs: tuple[str, ...]
  critique: str | None = None
  other: str | None = None


def siblings(
  problem: Problem, rollouts_G: Sequence[Rollout], known: Known
) -> list[str | None]:
  """For each response the first right one that is not itself."""
  del problem
  right_G = [right is True for right in known.right_G]
  found = [_texts(rollouts_G, right_G, g) for g, _ in enumerate(rollouts_G)]
  return [texts[0] if texts else None for texts in found]


def references(
  problem: Problem, rollouts_G: Sequence[Rollout], known: Known
) -> list[str | None]:
  """For all responses the solution that is given with the problem."""
  del known
  given = problem.demonstration[1] if problem.demonstration else None
  return [given] * len(rollouts_G)


SOLUTIONS = {'sibling': siblings, 'reference': references}


def _texts(rollouts_G, wanted_G, but: int) -> tuple[str, ...]:
  """The wanted texts of a group, without that of its member `but`."""
  pairs = enumerate(zip(rollouts_G, wanted_G, strict=True))
  return tuple(
    r.text for g, (r, wanted) in pairs if wanted and g != but and r.text
  )


def cases(
  problems: Sequence[Problem],
  rollouts_PG: Sequence[Sequence[Rollout]],
  judge: str,
  solution: str,
) -> list[list[Case]]:
  """What is known of each response.

  Args:
    problems: This host's.
    rollouts_PG: As many responses to each.
    judge: Who says what is right: `known` or `vote`.
    solution: Whose solutions are shown: `sibling` or `reference`.

  Returns:
    By problem and response, without another problem's solution.
  """
  out: list[list[Case]] = []
  for problem, rollouts_G in zip(problems, rollouts_PG, strict=True):
    known = JUDGES[judge](problem, rollouts_G)
    shown_G = SOLUTIONS[solution](problem, rollouts_G, known)
    wrong_G = [right is False for right in known.right_G]
    out.append(
      [
        Case(
          problem,
          rollout,
          problem.address * len(rollouts_G) + g,
          known.right_G[g],
          known.answer,
          shown_G[g],
          _texts(rollouts_G, wrong_G, g),
          known.critiques_G[g],
        )
        for g, rollout in enumerate(rollouts_G)
      ]
    )
  return out


def with_others(cases_PG: Sequence[Sequence[Case]]) -> list[list[Case]]:
  """Cases with another problem's solution; every host calls it together.

  It is that of the next problem of the step that has one, whichever host has
  it.
  """
  firsts = [next((c for c in g if c.solution), None) for g in cases_PG]
  solved = [json.dumps([c.problem.address, c.solution]) for c in firsts if c]
  everyones = sorted((*json.loads(text),) for text in gather_texts(solved))
  return [
    [
      dataclasses.replace(c, other=_next(everyones, c.problem.address))
      for c in cases_G
    ]
    for cases_G in cases_PG
  ]


def _next(solved: Sequence[tuple[int, str]], address: int) -> str | None:
  """The solution of the problem that follows, in a circle."""
  others = [pair for pair in solved if pair[0] != address]
  after = [pair for pair in others if pair[0] > address]
  return next((text for _, text in (*after, *others)), None)


class Rung(NamedTuple):
  """One thing that a teacher may be told.

  Attributes:
    lead: What it is, for a task that asks in words.
    text: It, or None where it is not known.
    written: What a model is asked that writes it where `text` is None; None
      where nobody is asked.
  """

  lead: str
  text: Callable[[Case], str | None]
  written: Callable[[Case], Prompt | None] | None = None


def _ask_for_critique(case: Case) -> Prompt | None:
  if case.solution is None:
    return None
  asked = case.problem.task.solver_prompt(case.problem)
  text = CRITIQUE.format(
    asked=asked, solution=case.solution, attempt=case.rollout.text
  )
  return Prompt('solver', text, case.address)


def _conclusion(case: Case) -> str | None:
  if case.solution is None:
    return None
  return case.problem.task.without_thinking(case.solution)


SOLVED = 'A correct solution:'
RUNGS = {
  'answer': Rung('The correct answer:', lambda case: case.answer),
  'verdict': Rung(
    'Was your earlier answer to this question correct?',
    lambda case: {True: 'yes', False: 'no', None: None}[case.right],
  ),
  'critique': Rung(
    'A correction of your earlier answer:',
    lambda case: case.critique,
    _ask_for_critique,
  ),
  'conclusion': Rung(SOLVED, _conclusion),
  'regenerated': Rung(
    SOLVED, lambda case: None, lambda case: hinted('full', case)
  ),
  'full': Rung(SOLVED, lambda case: case.solution),
  'other': Rung(
    'A correct solution of another question:', lambda case: case.other
  ),
  'wrong': Rung(
    'A wrong solution:', lambda case: case.wrongs[0] if case.wrongs else None
  ),
}
NAMES = ('none', *RUNGS)
# The rungs that tell, or ask for, something of a solution.
OF_SOLUTIONS = ('critique', 'conclusion', 'regenerated', 'full', 'other')


def hinted(rung: str, case: Case, text: str | None = None) -> Prompt | None:
  """The teacher's prompt on a rung; None where the case has nothing for it.

  Args:
    rung: One of `RUNGS`.
    case: Whose teacher it is.
    text: What is told in place of what the case knows.
  """
  if text is None:
    text = RUNGS[rung].text(case)
  if not text:
    return None
  hint = Hint(RUNGS[rung].lead, text)
  asked = case.problem.task.hinted_prompt(case.problem, hint)
  return Prompt('solver', asked, case.address)


def _plain(case: Case) -> Prompt | None:
  return dataclasses.replace(Prompt.solve(case.problem), address=case.address)


def prompts(
  rung: str,
  cases_PG: Sequence[Sequence[Case]],
  writer: Player,
  max_tokens: int,
  key: jax.Array,
) -> tuple[list[list[Prompt | None]], int]:
  """What the teacher of each response is asked; every host calls it together.

  Args:
    rung: One of `NAMES`.
    cases_PG: From `cases`.
    writer: Who writes what is not known: the teacher.
    max_tokens: Longest text that it writes; one that is cut is none.
    key: Of its draws.

  Returns:
    By problem and response, None where there is nothing to tell; and how many
    tokens were generated.
  """
  if rung == 'none':
    return [[_plain(c) for c in cases_G] for cases_G in cases_PG], 0
  if rung == 'other':
    cases_PG = with_others(cases_PG)
  found = {c.address: hinted(rung, c) for g in cases_PG for c in g}
  generated = 0
  if write := RUNGS[rung].written:
    every = [c for cases_G in cases_PG for c in cases_G]
    open_ = [c for c in every if found[c.address] is None]
    asked = {c.address: write(c) for c in open_}
    texts, generated = _written(
      [p for p in asked.values() if p], writer, max_tokens, key
    )
    for case in open_:
      prompt = asked[case.address]
      text = texts.get(prompt.text) if prompt else None
      found[case.address] = hinted(rung, case, text) if text else None
  return [
    [found[c.address] for c in cases_G] for cases_G in cases_PG
  ], generated


def _written(
  asked: Sequence[Prompt], writer: Player, max_tokens: int, key: jax.Array
) -> tuple[dict[str, str], int]:
  """What the writer says to each different prompt, by its text."""
  different: dict[str, Prompt] = {}
  for prompt in asked:  # the first of those that are alike
    different.setdefault(prompt.text, prompt)
  sampling: Any = Sampling(1, max_tokens)
  said = writer.generate([*different.values()], sampling, key)
  texts = {
    text: r.text
    for text, (r,) in zip(different, said, strict=True)
    if r.finish == 'stop'
  }
  return texts, sum(len(r.tokens_T) for (r,) in said)
