"""How well a student fits a teacher: in what that one says, and where it goes.

The teacher may read more than the student: a solution, say, or feedback.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxdistill.dist.hosts import together
from jaxdistill.rollout.apart import apart
from jaxdistill.rollout.player import Player
from jaxdistill.rollout.samplers import Sampling
from jaxdistill.types import Problem, Prompt, Rollout

TOP = 16  # likeliest tokens whose overlap is measured


def perplexity(
  student: Player,
  teacher: Player,
  problems: Sequence[Problem],
  sampling: Sampling,
  key: jax.Array,
  asked: Callable[[Problem], Prompt] = Prompt.solve,
) -> dict[str, np.ndarray]:
  """A student's perplexity of a teacher's responses.

  The student reads the problem as the solver does. Where the two have different
  tokenizers it is its own tokens of the same text.

  Args:
    student: Who finds them likely or not, at temperature 1.
    teacher: Who responds.
    problems: This host's; all hosts call it together.
    sampling: How the teacher does.
    key: The same key gives the same draws.
    asked: What the teacher reads for a problem: more than the student, maybe.

  Returns:
    `nll`, nats, per token of the teacher's responses, the end mark included
    (the perplexity per token is exp of its mean), and `perplexity`, per
    problem: exp of the mean over the tokens of all responses to it.
  """
  said_PG = teacher.generate([asked(p) for p in problems], sampling, key)
  shown = together(
    lambda: [
      _shown(student, Prompt.solve(p), said)
      for p, said_G in zip(problems, said_PG, strict=True)
      for said in said_G
    ]
  )
  scored = student.logprobs([rollout for rollout, _ in shown])
  nll = [-x[:own] for x, (_, own) in zip(scored, shown, strict=True)]
  by_problem = [
    _joined(nll[i : i + sampling.samples])
    for i in range(0, len(nll), sampling.samples)
  ]
  return {
    'nll': _joined(nll),
    'perplexity': np.array([np.exp(x.mean()) for x in by_problem if len(x)]),
  }


def divergence(
  student: Player,
  teacher: Player,
  problems: Sequence[Problem],
  sampling: Sampling,
  key: jax.Array,
  asked: Callable[[Problem], Prompt] = Prompt.solve,
  top: int = TOP,
) -> dict[str, np.ndarray]:
  """How far a student is from a teacher where the student itself goes.

  What on-policy distillation lowers (GKD, arXiv 2306.13649; MiniLLM,
  2306.08543): KL(student || teacher) after the tokens that the student has
  drawn, summed over the whole vocabulary, at temperature 1 whatever they were
  drawn at.

  Args:
    student: Who responds, as the solver.
    teacher: Who reads the same responses; of the same vocabulary.
    problems: This host's; all hosts call it together.
    sampling: How the student responds.
    key: The same key gives the same draws.
    asked: What the teacher reads for a problem: more than the student, maybe.
    top: Of how many likeliest tokens of each those in both are counted.

  Returns:
    Per token of the student's responses `kl`, nats, and `overlap`, the share
    of the `top` likeliest tokens that both have.
  """
  said_PG = student.generate([Prompt.solve(p) for p in problems], sampling, key)
  said = [r for said_G in said_PG for r in said_G]
  prompts = [asked(p) for p in problems for _ in range(sampling.samples)]
  kl, overlap = apart(student, teacher, said, prompts, top)
  return {'kl': _joined(kl), 'overlap': _joined(overlap)}


def _shown(
  student: Player, prompt: Prompt, said: Rollout
) -> tuple[Rollout, int]:
  """A teacher's response as the student reads it, and how many tokens count."""
  if said.vocabulary == student.tokenizer.vocabulary:
    ids = student.encode(prompt)
    read = dataclasses.replace(said, prompt=prompt, prompt_T=ids)
    return read, len(said.tokens_T)
  read = student.written(prompt, said.text)
  # The end mark of a response that was cut is not the teacher's.
  return read, len(read.tokens_T) - (said.finish == 'length')


def _joined(values: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.zeros(0), *values])
