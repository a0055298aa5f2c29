"""Turns, likeliest tokens and given ones, against the model's own logits."""

import dataclasses

import numpy as np
import pytest
from players import (
  BASE,
  KEY,
  PROMPTS,
  TOKENIZER,
  flat,
  make_player,
  softmax,
  teacher_forced,
)

from jaxdistill.data.text.symbols import SymbolTokenizer
from jaxdistill.rollout import Sampling
from jaxdistill.types import Message, Prompt, response_row


@pytest.fixture
def player(one_device):
  return make_player(one_device)


@pytest.fixture
def first(player):
  """Responses of which some ended and some were cut."""
  rollouts = flat(player.generate(PROMPTS[:3], BASE, KEY))
  assert {r.finish for r in rollouts} == {'stop', 'length'}
  return rollouts


ONCE = Sampling(samples=2, max_tokens=6)


def test_a_second_turn_reads_the_tokens_of_the_first(player, first):
  both_PG = player.follow_up(first, ['+1'] * len(first), ONCE, KEY)
  assert [len(both_G) for both_G in both_PG] == [2] * len(first)
  for before, both_G in zip(first, both_PG, strict=True):
    for both in both_G:
      if before.finish == 'length':
        assert both is before
        continue
      n = len(before.tokens_T)
      said = TOKENIZER.encode('+1')
      assert both.prompt is before.prompt
      np.testing.assert_array_equal(both.tokens_T[:n], before.tokens_T)
      assert both.tokens_T[n : n + 2].tolist() == said
      turns = [0] * n + [-1, -1] + [1] * (len(both.tokens_T) - n - 2)
      assert both.turn_T.tolist() == turns
      assert both.earlier == (before.text,)
      assert both.text == TOKENIZER.decode(both.tokens_T[n + 2 :].tolist())
  # What was drawn in the second turn has the log-probs of that context.
  went_on = [b for bs in both_PG for b in bs if b.earlier]
  assert len(went_on) >= 4
  for both, logits in zip(
    went_on, teacher_forced(player, went_on), strict=True
  ):
    logp = np.log(softmax(logits))
    told = both.turn_T < 0
    own = logp[np.arange(len(both.tokens_T)), both.tokens_T]
    np.testing.assert_allclose(both.logp_T[~told], own[~told], atol=1e-4)
    assert not both.logp_T[told].any() and not both.kept_T[told].any()


def test_turns_draw_for_themselves_whatever_else_is_asked(player, first):
  whole = player.follow_up(first, ['+1'] * len(first), ONCE, KEY)
  some = [i for i, r in enumerate(first) if r.finish == 'stop']
  twins = [
    r for r in first if r.prompt.address == first[some[0]].prompt.address
  ]
  alone = player.follow_up(twins, ['+1'] * len(twins), ONCE, KEY)
  at = next(i for i, r in enumerate(first) if r is twins[0])
  for a, b in zip(alone, whole[at : at + len(twins)], strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x.tokens_T, y.tokens_T)
  # Equal responses of one prompt are gone on from differently.
  same = [player.written(PROMPTS[0], '7') for _ in range(8)]
  drawn = player.follow_up(same, ['+'] * 8, Sampling(1, 6), KEY)
  assert len({tuple(r.tokens_T) for (r,) in drawn}) > 1


def test_no_turns_are_asked_of_nobody(player):
  assert player.follow_up([], [], ONCE, KEY) == []
  cut = dataclasses.replace(player.written(PROMPTS[0], '7'), finish='length')
  assert player.follow_up([cut], ['+'], ONCE, KEY) == [[cut, cut]]


def test_a_third_turn(player):
  one = player.written(Prompt('proposer', '3+4='), '7')
  ((two,),) = player.follow_up([one], ['+'], Sampling(1, 1, top_k=1), KEY)
  two = dataclasses.replace(two, finish='stop')
  ((three,),) = player.follow_up([two], ['-'], Sampling(1, 1), KEY)
  assert three.turn_T.tolist() == [0, 0, -1, 1, -1, 2]
  assert three.earlier == ('7', two.text)


def test_observations_are_read_but_not_trained(player):
  one = player.written(PROMPTS[0], '7')
  ((both,),) = player.follow_up([one], ['+'], Sampling(1, 3), KEY)
  row = response_row(both, 0.5, total=1.0, advantage=2.0)
  np.testing.assert_array_equal(row.weight_R, 0.5 * (both.turn_T >= 0))
  np.testing.assert_array_equal(row.fields['advantage'], 2.0)


def test_a_dialogue_is_a_prompt():
  before = Message('user', '3+4='), Message('assistant', '7')
  prompt = Prompt('solver', '+1', before=before)
  assert prompt.messages == (*before, Message('user', '+1'))
  ids = TOKENIZER.prompt(prompt.messages)
  assert ids == [1, *TOKENIZER.encode('3+4=7'), 2, *TOKENIZER.encode('+1')]


@pytest.mark.parametrize('temperature', [1.0, 0.7])
def test_likeliest_and_given_tokens(player, first, temperature):
  ids, top = player.top(first, 3, temperature)
  asked = [
    np.stack([i[:, 2], r.tokens_T], 1) for i, r in zip(ids, first, strict=True)
  ]
  given = player.logprobs_of(first, asked, temperature)
  for r, logits, i, p, q in zip(
    first, teacher_forced(player, first), ids, top, given, strict=True
  ):
    logp = np.log(softmax(logits / temperature))
    places = np.arange(len(r.tokens_T))[:, None]
    np.testing.assert_array_equal(i, np.argsort(-logp, -1)[:, :3])
    np.testing.assert_allclose(p, logp[places, i], atol=1e-4)
    np.testing.assert_allclose(q[:, 0], p[:, 2], atol=1e-6)
    own = logp[places[:, 0], r.tokens_T]
    np.testing.assert_allclose(q[:, 1], own, atol=1e-4)


def test_another_tokenizer_s_responses_are_not_scored(player):
  other = SymbolTokenizer((*TOKENIZER.symbols[:-1], '#'))
  stranger = dataclasses.replace(player, tokenizer=other)
  told = stranger.written(PROMPTS[0], '7')
  with pytest.raises(ValueError, match='of one tokenizer cannot be read'):
    player.logprobs([told])
  again = player.written(told.prompt, told.text)
  assert len(player.logprobs([again])[0]) == 2
