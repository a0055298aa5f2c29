"""SEAL: edits are worth what somebody answers who learned them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from players import PROMPTS, make_player
from scripted import CUT, KEY, collected_by, ids, said, watched, words

from jaxdistill import rewards
from jaxdistill.config.keys import filled
from jaxdistill.data.tasks import load_task
from jaxdistill.data.tasks.passages import Passages, QuestionTask, SmallPassages
from jaxdistill.methods.inner_training import matched
from jaxdistill.methods.method import check_task
from jaxdistill.methods.seal import Seal
from jaxdistill.methods.sequential_edits import SequentialEdits
from jaxdistill.optimizer import OptimizerConfig
from jaxdistill.rewards.edits import ORDERS
from jaxdistill.rollout import Player
from jaxdistill.types import (
  Problem,
  Prompt,
  Rollout,
  RowSet,
  response_row,
)

ASK = QuestionTask()
FACTS = {'Ada': ('red', 'two'), 'Ben': ('blue', 'ten')}


class Texts(Passages):
  """Two passages, two questions each; the documents follow the topic."""

  @property
  def name(self):
    return 'texts'

  def problems(self, split):
    return PROBLEMS

  def questions(self, problem):
    kinds = zip(('colour', 'number'), FACTS[problem.topic], strict=True)
    return [
      Problem(f'{problem.topic} {kind}', ASK, value) for kind, value in kinds
    ]


TASK = Texts()
PROBLEMS = [
  Problem(f'{name} is {a} {b}', TASK, topic=name, address=i)
  for i, (name, (a, b)) in enumerate(FACTS.items())
]


class Learner(Player):
  """Answers with the words that it has read, and notes what it learned.

  Candidates whose place in the order of the keys is in `deaf` learn nothing.
  """

  def __init__(self, script, known='', deaf=()):
    given = {'script': script, 'known': known, 'deaf': deaf, 'notes': []}
    for name, value in given.items():
      object.__setattr__(self, name, value)

  def generate(self, prompts_P, sampling, key):
    self.notes.append(('asked', prompts_P, sampling))
    return [
      [said(p, t) for t in self.script.get(p.text) or [self.answer(p.text)]][
        : sampling.samples
      ]
      for p in prompts_P
    ]

  def answer(self, text):
    asked = text.split('\n')[1] if '\n' in text else text
    for name, values in FACTS.items():
      for kind, value in zip(('colour', 'number'), values, strict=True):
        if asked == f'{name} {kind}':
          return value if value in self.known else 'unknown'
    raise AssertionError(f'nobody was to be asked {text!r}')

  def written(self, prompt, text):
    tokens = ids(text)
    zeros = np.zeros(len(tokens), np.float32)
    return Rollout(
      *(prompt, ids(prompt.text), tokens, zeros, zeros, 'stop', text)
    )

  def adapted(self, sets_E, loss, optimizer, steps, **how):
    self.notes.append(('learned', sets_E, optimizer, list(steps), how))
    given = jax.random.key_data(how['key']).reshape(-1, 2)
    keys = np.broadcast_to(given, (len(sets_E), 2)).tolist()
    order = sorted({tuple(k) for k in keys})
    out = []
    for e, (row_set, n) in enumerate(zip(sets_E, steps, strict=True)):
      text = ' '.join(words(r) for r in row_set.rows) if n else ''
      text = '' if order.index(tuple(keys[e])) in self.deaf else text
      out.append(Learner(self.script, text, self.deaf))
    return out


def request(i):
  return TASK.asking('edit', PROBLEMS[i])


SCRIPT = {
  # One fact of two; both; nothing; another's.
  request(0): ['red', 'red\ntwo', '', 'blue'],
  # Cut; a wrong one; one fact; the same.
  request(1): [f'blue ten{CUT}', 'red', 'ten', 'ten'],
}


def collected(given=PROBLEMS, script=SCRIPT, deaf=(), **keys):
  usual = {'problems': 2, 'samples': 4, 'with_passage': False, 'seeds': 1}
  usual |= {'minibatches': 1, 'answer_tokens': 8}
  method = filled(Seal, usual | keys)
  policy = Learner(script, deaf=deaf)
  return collected_by(method, {'policy': policy}, given, {}), policy


def learned(policy):
  return [note for note in policy.notes if note[0] == 'learned']


def kept(found):
  return [words(r) for r in found.updates[0].sets[0].rows]


def test_the_best_edit_of_each_passage_is_learned():
  found, _policy = collected()
  assert kept(found) == [f'{request(0)}|red\ntwo', f'{request(1)}|ten']
  metrics = found.metrics
  assert watched('seal') <= metrics.keys()
  np.testing.assert_allclose(
    metrics['seal/score'], [0.5, 1, 0, 0, 0, 0, 0.5, 0.5]
  )
  np.testing.assert_allclose(metrics['seal/no_edit'], [0, 0])
  np.testing.assert_allclose(metrics['seal/passage'], [1, 1])
  np.testing.assert_allclose(metrics['seal/best'], [1, 0.5])
  assert metrics['seal/kept'] == [1, 1]
  assert metrics['seal/void'] == [0, 0, 1, 0, 1, 0, 0, 0]
  np.testing.assert_allclose(
    metrics['seal/between_edits'],
    [np.std([0.5, 1, 0, 0], ddof=1), np.std([0, 0, 0.5, 0.5], ddof=1)],
    atol=1e-6,
  )
  assert len(metrics['seal/within_edit']) == 0  # one seed has no spread
  assert metrics['seal/kept_length'] == [7, 3]
  for row in found.updates[0].sets[0].rows:
    assert row.weight_R.all() and row.total == len(row.response_R)
  update = found.updates[0]
  assert (update.epochs, update.minibatches) == (2, 1)
  assert update.fresh_optimizer
  told = found.transcripts[0]
  assert told['texts'][1] == 'red\ntwo'
  assert told['kept'] == [False, True, False, False]
  assert told['scores'] == [0.5, 1, 0, 0] and told['passage'] == 1
  assert told['kept_above'] == told['no_edit'] == 0
  json.dumps(found.transcripts)


def test_what_is_read_costs_what_was_generated():
  found, _policy = collected()
  edits = sum(len(t) for texts in SCRIPT.values() for t in texts)
  answers = [('red', 'two'), ('blue', 'ten')]
  scores = np.array(
    [
      [[1, 0], [1, 1], [0, 0], [0, 0], [1, 1]],
      [[0, 0], [0, 0], [0, 1], [0, 1], [1, 1]],
    ]
  )
  said_ = sum(
    len(answers[p][q]) if scores[p, e, q] else len('unknown')
    for p, e, q in np.ndindex(scores.shape)
  )
  assert found.tokens == edits + said_ + 4 * len('unknown')
  docs = 'red', 'red', 'two', 'blue', 'red', 'ten', 'ten'
  raw = sum(len(p.text) for p in PROBLEMS)
  read = 10 * (sum(map(len, docs)) + raw)
  np.testing.assert_allclose(found.metrics['seal/inner_tokens'], read / 2)


def test_all_candidates_are_one_call_without_the_passage_in_questions():
  _found, policy = collected(seeds=3)
  ((_, sets_E, optimizer, steps, how),) = learned(policy)
  assert len(sets_E) == 2 * 5 * 3
  # By passage, by edit (the passage alone is last), by seed.
  docs = [[words(r).partition('|')[2] for r in s.rows] for s in sets_E]
  assert docs[3:6] == [['red', 'two']] * 3
  assert docs[6:9] == [[]] * 3 and steps[6:9] == [0] * 3  # it says nothing
  assert docs[12:15] == [['Ada is red two']] * 3
  assert docs[15:18] == [[]] * 3  # it was cut
  asked = {words(r).partition('|')[0] for s in sets_E for r in s.rows}
  assert asked == {TASK.asking('tell', p) for p in PROBLEMS}
  assert steps[:6] == [10] * 6 and set(how['scales']) == {1.0}
  assert (how['rank'], how['alpha'], optimizer.lr) == (32, 64, 1e-3)
  # Edits of a passage begin from the same adapters, seed by seed.
  keys = jax.random.key_data(how['key']).reshape(2, 5, 3, -1)
  for p in range(2):
    assert (keys[p] == keys[p, :1]).all()
    assert len(np.unique(keys[p, 0], axis=0)) == 3
  assert not (keys[0] == keys[1]).all(-1).any()
  # Each document counts the same.
  (one, _two) = sets_E[3].rows
  assert one.weight_R.sum() == pytest.approx(1) and one.total == 1
  for _, prompts, sampling in (n for n in policy.notes if n[0] == 'asked'):
    for prompt in prompts:
      if sampling.max_tokens == 8:
        assert sampling.temperature == 0
        assert not any(p.text in prompt.text for p in PROBLEMS)


def test_spread_within_an_edit_is_over_seeds():
  method = filled(
    Seal,
    {'problems': 1, 'samples': 4, 'seeds': 2, 'minibatches': 1}
    | {'with_passage': False, 'answer_tokens': 8},
  )
  players = {'policy': Learner(SCRIPT, deaf=(0,))}
  found = collected_by(method, players, PROBLEMS[:1], {})
  metrics = found.metrics  # one of two seeds learned nothing
  np.testing.assert_allclose(metrics['seal/best'], [0.5])
  np.testing.assert_allclose(
    metrics['seal/within_edit'], [np.sqrt((0.125 + 0.5) / 4)], atol=1e-6
  )
  np.testing.assert_allclose(
    metrics['seal/between_edits'],
    [np.std([0.25, 0.5, 0, 0], ddof=1)],
    atol=1e-6,
  )


def test_chunks_change_nothing():
  whole, policy = collected(seeds=3)
  assert len(learned(policy)) == 1
  chunked, policy = collected(seeds=3, at_once=7)
  parts = learned(policy)
  assert [len(sets_E) for _, sets_E, *_ in parts] == [7] * 5  # of 30
  assert kept(chunked) == kept(whole) and chunked.tokens == whole.tokens
  for name, values in whole.metrics.items():
    np.testing.assert_array_equal(values, chunked.metrics[name], name)


def test_an_edit_no_better_than_no_edit_is_not_kept():
  # Beside the passage no edit teaches anything more.
  found, policy = collected(with_passage=True)
  assert kept(found) == [] and found.metrics['seal/kept'] == [0, 0]
  assert [x['kept_above'] for x in found.transcripts] == [1, 1]
  np.testing.assert_allclose(found.metrics['seal/score'][:2], [1, 1])
  ((_, sets_E, *_),) = learned(policy)
  docs = [[words(r).partition('|')[2] for r in s.rows] for s in sets_E]
  assert docs[1] == ['red', 'two', 'Ada is red two']
  assert docs[2] == []  # an empty edit does not get the passage's worth
  # The published code keeps the first of equals; what is void it never learns.
  found, _ = collected(with_passage=True, gain=False)
  assert kept(found) == [f'{request(0)}|red', f'{request(1)}|red']
  assert 'kept_above' not in found.transcripts[0]
  nothing = {request(0): ['', '', '', ''], request(1): [CUT] * 4}
  found, _ = collected(script=nothing, gain=False)
  assert kept(found) == []
  np.testing.assert_allclose(found.metrics['seal/score'], 0)


def test_random_ones_are_as_many_of_the_same_passages():
  seen = set()
  for seed in range(40):
    rng = np.random.default_rng(seed)
    (one,) = rewards.chosen(
      np.array([0.5, 1, 0.9, 0]),
      np.array([1, 1, 0, 1], bool),
      0.0,
      1,
      ORDERS['random'],
      rng,
    )
    seen.add(one)
  assert seen == {0, 1, 3}  # the worst too, but not the void one
  found, _ = collected(choice='random')
  assert len(kept(found)) == 2
  none = rewards.chosen(
    np.array([0.5, 0.2]),
    np.ones(2, bool),
    0.5,
    1,
    ORDERS['random'],
    np.random.default_rng(0),
  )
  assert none == []


def test_matched_edits_have_one_length():
  policy = Learner({})

  def documents(*texts):
    return [policy.written(Prompt('solver', 'x'), t) for t in texts]

  def shown(*texts, length):
    out = matched(documents(*texts), length)
    assert sum(len(r.tokens_T) for r, _ in out) == (length or 5)
    assert {n for _, n in out} <= {len(t) for t in texts}
    return [''.join(map(chr, r.tokens_T)) for r, _ in out]

  assert shown('abc', 'de', length=0) == ['abc', 'de']
  assert shown('abc', 'de', length=4) == ['abc', 'd']
  assert shown('abc', 'de', length=3) == ['abc']
  assert shown('abc', 'de', length=9) == ['abc', 'de', 'abc', 'd']
  assert matched([], 4) == []
  (a, b, *_), (c, d) = (
    [(len(r.tokens_T), n) for r, n in matched(documents('abc', 'de'), length)]
    for length in (9, 4)
  )
  assert a == (3, 3) and b == (2, 2) and c == (3, 3) and d == (1, 2)
  _, policy = collected(matched=6)
  ((_, sets_E, *_),) = learned(policy)
  tokens = [sum(len(r.response_R) for r in s.rows) for s in sets_E]
  assert tokens == [6, 6, 0, 6, 14, 0, 6, 6, 6, 15]


def test_an_edit_may_say_how_it_is_learned():
  asked = [
    f'{request(i)}\n\n{TASK.asking("settings", p)}'
    for i, p in enumerate(PROBLEMS)
  ]
  assert '{"lr_scale": 1, "epochs": 10}' in asked[0]
  script = {
    asked[0]: [
      '{"lr_scale": 2, "epochs": 5}\nred two',
      'red',
      '{"epochs": 400}\nred two',
      '{"epochs": 3}',
    ],
    asked[1]: ['ten'] * 4,
  }
  found, policy = collected(script=script, settings=True)
  ((_, sets_E, _, steps, how),) = learned(policy)
  assert steps[:5] == [5, 10, 0, 0, 10]
  np.testing.assert_allclose(how['scales'][:2], [2, 1])
  assert found.metrics['seal/void'][:4] == [0, 0, 1, 1]
  docs = [words(r).partition('|')[2] for r in sets_E[0].rows]
  assert docs == ['red two']
  # What is learned by heart names them still.
  assert kept(found)[0].endswith('"epochs": 5}\nred two')
  # Not asked for, they are words as any.
  _, policy = collected(
    script={request(0): ['{"epochs": 3}\nred'] * 4, request(1): ['ten'] * 4}
  )
  assert learned(policy)[0][3][0] == 10


def test_a_host_without_passages_makes_the_same_calls():
  usual, policy = collected()
  empty, other = collected([])
  assert empty.metrics.keys() == usual.metrics.keys()
  assert [note[0] for note in other.notes] == [note[0] for note in policy.notes]
  assert len(learned(other)[0][1]) == len(learned(policy)[0][1])
  assert not empty.updates[0].sets[0].rows and empty.tokens == 0


def test_edits_that_are_given_or_anothers():
  with_edits = [
    dataclasses.replace(p, demonstration=('', text))
    for p, text in zip(PROBLEMS, ('red two', 'ten'), strict=True)
  ]
  found, _ = collected(with_edits, samples=1, writer='given')
  np.testing.assert_allclose(found.metrics['seal/score'], [1, 0.5])
  assert kept(found)[0] == f'{request(0)}|red two'
  method = filled(
    Seal,
    {'writer': 'model:small-late', 'problems': 2, 'minibatches': 1}
    | {'samples': 4},
  )
  assert method.anchors['writer'].rule == 'model:small-late'
  policy, writer = Learner({}), Learner(SCRIPT)
  players = {'policy': policy, 'writer': writer}
  found = collected_by(method, players, PROBLEMS, {})
  # What was cut of another's stays cut.
  assert found.metrics['seal/void'] == [0, 0, 1, 0, 1, 0, 0, 0]
  assert filled(Seal, {'writer': 'given', 'samples': 1}).anchors == {}


def test_evaluation_is_of_one_edit_of_each():
  method = filled(Seal, {'seeds': 1, 'answer_tokens': 8})
  script = {request(0): ['red'], request(1): ['ten blue']}
  found = method.evaluate(Learner(script), PROBLEMS, KEY)
  np.testing.assert_allclose(found['accuracy_passage'], [1, 1])
  np.testing.assert_allclose(found['accuracy_edited'], [1, 1])
  method = filled(Seal, {'seeds': 1, 'with_passage': False})
  found = method.evaluate(Learner(script), PROBLEMS, KEY)
  np.testing.assert_allclose(found['accuracy_edited'], [0.5, 1])
  np.testing.assert_allclose(found['edit_length'], [3, 8])
  # Of another's training, what the policy has learned to write is measured.
  by_another = {'writer': 'model:small-late', 'with_passage': False}
  method = filled(Seal, {'seeds': 1} | by_another)
  found = method.evaluate(Learner(script), PROBLEMS, KEY)
  np.testing.assert_allclose(found['accuracy_edited'], [0.5, 1])


@pytest.mark.parametrize(
  ('keys', 'said_'),
  [
    ({'choice': 'bets'}, "choice is 'bets'.*nearest is 'best'"),
    ({'keep': 6}, 'keep is 6; it must be from 1 to method.samples, 5'),
    ({'keep': 0}, 'keep is 0'),
    ({'writer': 'given'}, 'method.samples=1'),
    ({'most_scale': 0.5}, 'most_scale is 0.5'),
    ({'seeds': 0}, 'seeds is 0'),
    ({'inner_rank': 0}, 'inner_rank is 0'),
    ({'inner_lr': 0.0}, 'inner_lr is 0.0'),
    ({'at_once': -1}, 'at_once is -1'),
    ({'matched': -1}, 'matched is -1'),
    ({'problems': 2}, 'minibatches is 5; a step has 2 rows'),
    ({'top_p': 0.0}, 'top_p 0.0'),
  ],
)
def test_bad_settings_end_in_one_line(keys, said_):
  with pytest.raises(ValueError, match=said_) as error:
    filled(Seal, keys)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('task', 'keys', 'said_'),
  [
    ('small', {}, 'needs passages.*task small has none'),
    ('passages', {'writer': 'given', 'samples': 1}, 'gives no edits'),
    ('small:passages', {'settings': True}, "no words for 'settings'"),
  ],
)
def test_a_task_that_does_not_fit(task, keys, said_):
  with pytest.raises(ValueError, match=said_):
    check_task(filled(Seal, keys), load_task(task))
  filled(Seal, {'writer': 'given', 'samples': 1}).check(
    load_task('small:passages')
  )


def test_all_that_is_asked_of_a_task_is_looked_for():
  class Untold(SmallPassages):
    @property
    def wordings(self):
      return {k: v for k, v in super().wordings.items() if k != 'tell'}

  for method in (Seal(), filled(SequentialEdits, {'learn': 'passage'})):
    with pytest.raises(ValueError, match=r"no words for 'tell'.* the policy"):
      check_task(method, Untold())
  passage = filled(SequentialEdits, {'learn': 'passage', 'settings': True})
  check_task(passage, SmallPassages())  # nobody is asked for settings


def test_one_program_comes_to_what_one_after_another_does(one_device):
  """With a real player, passages x edits x seeds; scores too."""
  player = make_player(one_device)
  sets = [
    RowSet('solver', [response_row(r, 1 / len(r.tokens_T), 1.0)])
    for r in (player.written(PROMPTS[0], t) for t in ('7', '12+', '9*9=', '5'))
    for _ in range(3)
  ]
  keys = jax.random.split(KEY, len(sets))

  def adapted(first, last):
    found = player.adapted(
      sets[first:last],
      Seal().loss,
      OptimizerConfig(lr=1e-2),
      4,
      key=keys[first:last],
      rank=2,
      alpha=4.0,
    )
    return [p.params[0] for p in found]

  together = adapted(0, len(sets))
  for e in range(0, len(sets), 4):
    (alone,) = adapted(e, e + 1)
    for a, b in zip(*map(jax.tree.leaves, (together[e], alone)), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5)
