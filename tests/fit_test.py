"""How well a student fits a teacher, against float64 of both's own logits."""

import dataclasses

import jax
import numpy as np
import pytest
from players import TOKENIZER, flat, logits_of, make_player, softmax
from scripted import Sums

from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.eval import divergence, perplexity
from jaxdistill.rollout import Sampling
from jaxdistill.types import Problem, Prompt

KEY = jax.random.key(3)
SAMPLING = Sampling(samples=2, max_tokens=7, temperature=1.3)


class Bare(Sums):
  def solver_prompt(self, problem):
    return f'{problem.text}='


TASK = Bare()
PROBLEMS = [
  Problem(text, TASK, address=i)
  for i, text in enumerate(('3+4', '12345*6', '9', '8/2'))
]


@pytest.fixture
def student(one_device):
  return make_player(one_device)


@pytest.fixture
def teacher(one_device):
  return make_player(one_device, seed=1)


def more(problem):
  """What a teacher reads that is shown more."""
  return Prompt('solver', f'!{problem.text}?7*7={problem.text}=')


def said_by(player, asked=Prompt.solve):
  """By problem, and all of them in turn."""
  said_PG = player.generate([asked(p) for p in PROBLEMS], SAMPLING, KEY)
  return said_PG, flat(said_PG)


def logp_of(player, prompts, tokens):
  """log-probs before each token, of role `solver`, float64[T, V] each."""
  ids = [player.encode(p) for p in prompts]
  both = [np.concatenate(pair) for pair in zip(ids, tokens, strict=True)]
  return [
    np.log(softmax(x[len(i) - 1 : -1]))
    for i, x in zip(ids, logits_of(player, both, role=0), strict=True)
  ]


@pytest.mark.parametrize('asked', [Prompt.solve, more])
def test_kl_and_overlap_where_the_student_goes(student, teacher, asked):
  found = divergence(*(student, teacher, PROBLEMS, SAMPLING, KEY, asked), top=4)
  _, rollouts = said_by(student)
  tokens = [r.tokens_T for r in rollouts]
  prompts = [asked(p) for p in PROBLEMS for _ in range(2)]
  pairs = zip(
    logp_of(student, [r.prompt for r in rollouts], tokens),
    logp_of(teacher, prompts, tokens),
    strict=True,
  )
  kl, overlap = [], []
  for p, q in pairs:
    kl += np.sum(np.exp(p) * (p - q), -1).tolist()
    for a, b in zip(np.argsort(-p), np.argsort(-q), strict=True):
      overlap.append(len({*a[:4].tolist()} & {*b[:4].tolist()}) / 4)
  np.testing.assert_allclose(found['kl'], kl, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found['overlap'], overlap)
  assert min(kl) > 0 and 0 < np.mean(overlap) < 1


def test_nobody_is_apart_from_itself(mesh):
  student = make_player(mesh)
  found = divergence(student, student, PROBLEMS, SAMPLING, KEY)
  np.testing.assert_allclose(found['kl'], 0, atol=1e-6)
  np.testing.assert_array_equal(found['overlap'], 1)
  told = divergence(student, student, PROBLEMS, SAMPLING, KEY, more)
  assert len(told['kl']) == len(found['kl']) and told['kl'].mean() > 0.1


@pytest.mark.parametrize('asked', [Prompt.solve, more])
def test_perplexity_of_what_a_teacher_says(student, teacher, asked):
  found = perplexity(student, teacher, PROBLEMS, SAMPLING, KEY, asked)
  _, rollouts = said_by(teacher, asked)
  tokens = [r.tokens_T for r in rollouts]
  prompts = [Prompt.solve(p) for p in PROBLEMS for _ in range(2)]
  nll = [
    -logp[np.arange(len(ids)), ids]
    for logp, ids in zip(logp_of(student, prompts, tokens), tokens, strict=True)
  ]
  wanted = np.concatenate(nll)
  np.testing.assert_allclose(found['nll'], wanted, rtol=1e-4, atol=1e-5)
  by_problem = [
    np.exp(np.concatenate(nll[i : i + 2]).mean()) for i in range(0, 8, 2)
  ]
  np.testing.assert_allclose(found['perplexity'], by_problem, rtol=1e-4)
  assert np.exp(wanted.mean()) != pytest.approx(np.mean(by_problem))


def test_a_teacher_of_another_tokenizer_is_read_as_text(student, teacher):
  """The same symbols by other ids: what it says is other text."""
  symbols = (*TOKENIZER.symbols[:3], *TOKENIZER.symbols[:2:-1])
  other = dataclasses.replace(teacher, tokenizer=SymbolTokenizer(symbols))
  found = perplexity(student, other, PROBLEMS, SAMPLING, KEY)
  said_PG, rollouts = said_by(other)
  assert {r.finish for r in rollouts} == {'stop', 'length'}
  # Nothing is said of an end where the length limit cut a response.
  ids_PG = [
    [
      TOKENIZER.encode(r.text) + [TOKENIZER.eos_id] * (r.finish == 'stop')
      for r in said_G
    ]
    for said_G in said_PG
  ]
  assert len(found['nll']) == sum(map(len, flat(ids_PG)))
  for i, ids_G in enumerate(ids_PG):
    prompts = [Prompt.solve(PROBLEMS[i])] * 2
    logps = logp_of(student, prompts, [np.array(x, int) for x in ids_G])
    logp = np.concatenate(
      [x[np.arange(len(own)), own] for x, own in zip(logps, ids_G, strict=True)]
    )
    wanted = np.exp(-logp.mean())
    assert found['perplexity'][i] == pytest.approx(wanted, rel=1e-4)
  with pytest.raises(ValueError, match='different tokenizers'):
    divergence(student, other, PROBLEMS, SAMPLING, KEY)


def test_what_cannot_be_compared_is_refused(student, teacher):
  other = dataclasses.replace(teacher, roles=('judge', 'solver'))
  with pytest.raises(ValueError, match='the same place in both'):
    divergence(student, other, PROBLEMS, SAMPLING, KEY)


def test_a_host_without_problems_takes_part(student, teacher):
  for found in (
    divergence(student, teacher, [], SAMPLING, KEY),
    perplexity(student, teacher, [], SAMPLING, KEY),
  ):
    assert [len(x) for x in found.values()] == [0, 0]
