"""Pairs of question and answer: refined by a model, scored by another.

What Selective Reflection-Tuning (arXiv 2402.10110) needs of its players.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill import rewards
from jaxdistill.dist.hosts import together
from jaxdistill.rewards.reflection import Rule, Scores, scores_of
from jaxdistill.rollout import contexts
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.rollout.transcript import transcript
from jaxdistill.types import Hint, Problem, Prompt, Rollout


@dataclasses.dataclass(frozen=True)
class Pair:
  """A question and an answer to it.

  Attributes:
    problem: Asks.
    response: The answer.
    scores: To the student; missing until `scored`.
  """

  problem: Problem
  response: str
  scores: Scores = Scores()  # noqa: RUF009


class Ask(NamedTuple):
  """How a writer is asked for a better pair.

  Attributes:
    prompt: The text that asks; None where the task has nothing to say.
    read: What it writes to another pair; None if it is none.
  """

  prompt: Callable[[Pair], str | None]
  read: Callable[[Pair, str], Pair | None]


def _worded(what: str, read: Callable[..., Pair | None]) -> Ask:
  def prompt(pair):
    return pair.problem.task.asking(what, pair.problem, pair.response)

  def parts(pair, text):
    found = pair.problem.task.worded(what).parts(text)
    return found and read(pair, *found)

  return Ask(prompt, parts)


def _answered(pair: Pair, text: str) -> Pair | None:
  return Pair(pair.problem, text) if text else None


def _asked_anew(pair: Pair, question: str, text: str) -> Pair | None:
  """Another question and its answer, if the task may ask it."""
  task = pair.problem.task
  found = task.parse_problem(question)
  if found is None or task.held_out(found):
    return None
  place = {'address': pair.problem.address}
  return Pair(dataclasses.replace(found, **place), text)


def _corrected(pair: Pair) -> str | None:
  said = pair.problem.task.critique(pair.problem, pair.response)
  if not said:
    return None
  hint = Hint(contexts.RUNGS['critique'].lead, said)
  return pair.problem.task.hinted_prompt(pair.problem, hint)


ASKS = {
  'reflect': _worded('reflect', _answered),
  'repair': _worded('repair', _answered),
  'critique': Ask(_corrected, _answered),
  'reflect_question': _worded('reflect_question', _asked_anew),
}


def refinements(
  writer: Player,
  pairs: Sequence[Pair],
  ask: str,
  sampling: Sampling,
  key: jax.Array,
) -> tuple[list[Pair | None], list[Rollout]]:
  """What a writer makes of pairs; every host calls it together.

  Args:
    writer: Who refines.
    pairs: This host's.
    ask: One of `ASKS`.
    sampling: How it draws, one each.
    key: Of its draws.

  Returns:
    By pair another one, None where the writer was cut or wrote none; and all
    that it wrote.
  """
  asked = together(lambda: [ASKS[ask].prompt(pair) for pair in pairs])
  prompts = [
    Prompt('solver', text, pair.problem.address)
    for pair, text in zip(pairs, asked, strict=True)
    if text
  ]
  said = [r for (r,) in writer.generate(prompts, sampling, key)]
  rest = iter(said)

  def read(pair, text):
    rollout = next(rest) if text else None
    if rollout is None or rollout.finish != 'stop':
      return None
    return ASKS[ask].read(pair, rollout.text)

  both = [*zip(pairs, asked, strict=True)]
  return together(lambda: [read(*pair) for pair in both]), said


def scored(
  student: Player, pairs: Sequence[Pair]
) -> tuple[list[Pair], list[Rollout]]:
  """Pairs with their scores; every host calls it together.

  A text's end mark is not scored, as in the authors' code. Nor is a text's
  first token where it stands alone and the tokenizer sets no begin mark: then
  nothing predicts it.

  Args:
    student: By whose log-probs: who is to learn, as it was before.
    pairs: This host's.

  Returns:
    The pairs, and what was scored.
  """
  texts = together(lambda: [_texts(student, pair) for pair in pairs])
  there = [r for four in texts for r in four if len(r.tokens_T)]
  logps = iter(student.logprobs(there))
  found = [
    [next(logps) if len(r.tokens_T) else np.zeros(0) for r in four]
    for four in texts
  ]
  return [
    dataclasses.replace(pair, scores=scores_of(*four))
    for pair, four in zip(pairs, found, strict=True)
  ], there


def _texts(student: Player, pair: Pair) -> list[Rollout]:
  """Answer and question, each after the other and alone."""
  problem = pair.problem
  guess = problem.task.asking('guess', problem, pair.response)
  return [
    _after(student, Prompt.solve(problem), pair.response),
    _alone(student, pair.response),
    _after(student, Prompt('solver', guess), problem.text),
    _alone(student, problem.text),
  ]


def _after(player: Player, prompt: Prompt, text: str) -> Rollout:
  written = player.written(prompt, text)
  return _of(written, written.prompt_T, written.tokens_T[:-1])


def _alone(player: Player, text: str) -> Rollout:
  written = player.written(Prompt('solver', ''), text)
  ids = np.array(player.tokenizer.alone(text), np.int32)
  return _of(written, ids[:1], ids[1:])


def _of(rollout: Rollout, prompt_T: np.ndarray, tokens_T: np.ndarray):
  zeros = np.zeros(len(tokens_T), np.float32)
  return dataclasses.replace(
    rollout,
    prompt_T=prompt_T,
    tokens_T=tokens_T,
    logp_T=zeros,
    kept_T=zeros,
    turn_T=np.zeros(len(tokens_T), np.int32),
  )


class Made(NamedTuple):
  """What the pairs of some problems went through.

  Attributes:
    tries: By phase, the originals first, a pair or None by problem.
    kept: The pair that was chosen, or None.
    drawn: What was written.
    read: What the student scored.
    metrics: `reflection/NAME_PHASE`: whether there is another pair (`refined`),
      whether it was `taken`, whether a score was `missing`.
  """

  tries: tuple[list[Pair | None], ...]
  kept: list[Pair | None]
  drawn: list[Rollout]
  read: list[Rollout]
  metrics: dict[str, list[float]]

  def scored(self, student: Player) -> 'Made':
    """With scores of the last try; every host calls it together."""
    *before, last = self.tries
    found, texts = scored(student, [pair for pair in last if pair])
    rest = iter(found)
    new = [pair and next(rest) for pair in last]
    kept = self.kept if before else new
    return self._replace(
      tries=(*before, new), kept=kept, read=self.read + texts
    )

  def refined(
    self,
    writer: Player,
    ask: str,
    sampling: Sampling,
    key: jax.Array,
  ) -> 'Made':
    """With another try of what is kept; every host calls it together."""
    there = [pair for pair in self.kept if pair]
    found, said = refinements(writer, there, ask, sampling, key)
    rest = iter(found)
    new = [pair and next(rest) for pair in self.kept]
    return self._replace(tries=(*self.tries, new), drawn=self.drawn + said)

  def chosen(self, rule: Rule | None, phase: int, key: jax.Array) -> 'Made':
    """With the last try in place of what was kept, where the rule says so."""
    assert rule is not None, 'a phase has one'
    seed = jax.random.key_data(key).tolist()

    def takes(old, new):
      if not (old and new):
        return False
      address = old.problem.address
      coin = np.random.default_rng([*seed, address]).random() < 0.5
      return rule(old.scores, new.scores, bool(coin))

    both = [*zip(self.kept, self.tries[-1], strict=True)]
    taken = [takes(*pair) for pair in both]
    found = {
      'refined': [float(new is not None) for _, new in both],
      'taken': [float(take is True) for take in taken],
      'missing': [float(take is None) for take in taken],
    }
    named = {f'reflection/{k}_{phase}': v for k, v in found.items()}
    pairs = zip(both, taken, strict=True)
    return self._replace(
      kept=[new if take else old for (old, new), take in pairs],
      metrics=self.metrics | named,
    )

  def observed(self) -> dict[str, list[float]]:
    """What is observed of the originals and of the last refinements."""
    first, *others = self.tries
    return observed(first, 'original') | (
      observed(others[-1], 'refined') if others else {}
    )


def begun(
  problems: Sequence[Problem],
  author: Player | None,
  sampling: Sampling,
  key: jax.Array,
) -> Made:
  """What is to be refined; every host calls it together.

  Args:
    problems: This host's.
    author: Who answers them; None: the answers that they come with. One that
      is cut is none.
    sampling: How an author draws, one each.
    key: Of its draws.
  """
  drawn: list[Rollout] = []
  shown = [p.demonstration and p.demonstration[1] for p in problems]
  if author is not None:
    asked = [Prompt.solve(p) for p in problems]
    drawn = [r for (r,) in author.generate(asked, sampling, key)]
    shown = [r.text if r.finish == 'stop' else None for r in drawn]
  pairs = [
    Pair(p, text) if text else None
    for p, text in zip(problems, shown, strict=True)
  ]
  return Made((pairs,), pairs, drawn, [], {})


def observed(pairs: Sequence[Pair | None], kind: str) -> dict[str, list[float]]:
  """Whether pairs are right, and the scores that there are: `NAME_KIND`."""
  there = [pair for pair in pairs if pair]
  out = {
    f'right_{kind}': [
      float(rewards.is_right(p.task.parse_answer(response), p.answer))
      for p, response in ((pair.problem, pair.response) for pair in there)
      if p.answer is not None
    ]
  }
  for name in Scores._fields:
    found = [getattr(pair.scores, name) for pair in there]
    out[f'{name}_{kind}'] = [x for x in found if np.isfinite(x)]
  return out


def told(
  student: Player,
  problem: Problem,
  tries: Sequence[Pair | None],
  learned: Pair | None,
  cut: Sequence[Rollout] = (),
) -> dict[str, Any]:
  """What was written of a problem, and which of it is learned.

  Where there is no pair, it is what the author said, `cut`.
  """
  there = [pair for pair in tries if pair]
  written = [written_by(student, pair) for pair in there] or cut
  return transcript(
    *(problem, written),
    by_text={
      'questions': [pair.problem.text for pair in there],
      'scores': [_rounded(pair.scores) for pair in there],
      'learned': [pair is learned for pair in there],
    },
  )


def written_by(player: Player, pair: Pair) -> Rollout:
  """A pair as a player would have said it."""
  return player.written(Prompt.solve(pair.problem), pair.response)


def _rounded(scores: Scores) -> dict[str, float | None]:
  return {
    name: round(x, 3) if np.isfinite(x) else None
    for name, x in scores._asdict().items()
  }
