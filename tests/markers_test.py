"""Words of doubt: how they are counted, and how densely they stand."""

import dataclasses

import jax
import numpy as np
import pytest
from players import PROMPTS, make_player
from scripted import said

from jaxdistill import config as configs
from jaxdistill.config import ConfigError
from jaxdistill.config.parts import eval_of
from jaxdistill.data.small import world
from jaxdistill.rollout import MARKERS, Sampling, doubts, measure
from jaxdistill.rollout.markers import begins, count
from jaxdistill.run.ask import reduce_metrics
from jaxdistill.types import Prompt, Rollout

ASKED = Prompt('solver', '?')
TEXTS = [
  *('3+4=7', 'Wait, 3+4 ... wait', 'Hmm. Unlikely; I checked', ''),
  '1+0=01 wait 1+0=02',
]


@pytest.mark.parametrize(
  ('text', 'parts', 'whole'),
  [
    ('Wait, WAIT; wait!', 3, 3),
    ('unlikely', 1, 0),
    ('I checked; it seems likely, likelihood', 3, 2),
    ('hmmm', 1, 0),
    ('wait_', 1, 0),  # a name in code is one word
    ('waitwait', 2, 0),
    ('nothing', 0, 0),
  ],
)
def test_parts_of_words_and_whole_words(text, parts, whole):
  assert count(text) == (parts, whole)


def test_other_words():
  assert count('But, hold on! 3? No. WAIT', ('Hold on', '?', 'no')) == (3, 3)
  # Each by itself, also where one is within another.
  assert count('let me check', ('let me check', 'check')) == (2, 2)
  assert count('wait', ()) == (0, 0)


def test_observations_per_response():
  found = measure([said(ASKED, text) for text in TEXTS])
  assert list(found['rollout/markers']) == [0, 2, 3, 0, 1]
  assert list(found['rollout/markers_words']) == [0, 2, 1, 0, 1]
  none = measure([])
  assert none.keys() == found.keys() and not any(len(x) for x in none.values())


def test_density_is_of_all_tokens_not_a_mean_of_ratios():
  """A token is a letter here."""
  rollouts = [said(ASKED, 'wait'), said(ASKED, 'x' * 96)]
  found = reduce_metrics(doubts(rollouts))
  assert found['markers'] == found['markers_words'] == 0.5
  assert found['markers_per_1k'] == pytest.approx(1000 * 1 / 100)
  # The mean over hosts is that over all their tokens, too.
  rng = np.random.default_rng(0)
  texts = [' '.join(rng.choice([*MARKERS, 'so', 'is'], n)) for n in range(1, 9)]
  rollouts = [said(ASKED, text) for text in texts]
  parts = [doubts(rollouts[:3]), doubts(rollouts[3:]), doubts([])]
  for name, of in (('markers_per_1k', 0), ('markers_words_per_1k', 1)):
    total = sum(part[name].sum() for part in parts)
    tokens = sum(len(part[name]) for part in parts)
    marks = sum(count(text)[of] for text in texts)
    assert total / tokens == pytest.approx(1000 * marks / sum(map(len, texts)))


def test_all_turns_of_a_response_and_none_of_what_it_was_told():
  tokens, zeros = np.arange(9, dtype=np.int32), np.zeros(9, np.float32)
  turns = np.repeat(np.int32([0, -1, 1]), [3, 4, 2])
  last = 'perhaps 4'
  rollout = Rollout(
    *(ASKED, tokens, tokens, zeros, zeros, 'stop', last, turns, ('wait: 3',))
  )
  found = reduce_metrics(doubts([rollout]))
  assert found['markers'] == 2
  assert found['markers_per_1k'] == pytest.approx(1000 * 2 / 5)


def test_a_player_says_which_words_are_counted(mesh):
  player = dataclasses.replace(make_player(mesh), markers=tuple('0123456789'))
  prompts, sampling = PROMPTS[:2], Sampling(2, 6)
  first = player.generate(prompts, sampling, jax.random.key(0))
  rollouts = [r for rollouts_G in first for r in rollouts_G]
  wanted = [sum(c.isdigit() for c in r.text) for r in rollouts]
  assert list(doubts(rollouts)['markers']) == wanted and any(wanted)
  shown = player.written(prompts[0], '10+9')
  more = player.follow_up([shown], ['!'], sampling, jax.random.key(1))
  for rollout in more[0]:
    digits = sum(c.isdigit() for c in rollout.text)
    assert doubts([rollout])['markers'] == [3 + digits]


def test_the_words_are_a_setting_of_a_run():
  config = configs.base_config('sqlm')
  assert eval_of(config).markers == MARKERS
  configs.override(config, [('eval.markers', "('mais', 'attends')")])
  configs.check(config)
  assert eval_of(config).markers == ('mais', 'attends')
  for wrong, why in (
    (('a', ''), 'must be words'),
    ((1,), 'must be words'),
    (('Wait', 'wait'), 'one twice'),
  ):
    with config.unlocked():
      config.eval.markers = wrong
    with pytest.raises(ConfigError, match=f'eval.markers.*{why}'):
      configs.check(config)


def test_the_tokens_that_a_marker_begins_with():
  small = world.TOKENIZER
  assert begins(small).tolist() == small.encode('wait')
  assert begins(small, ('wai', 'hmm')).tolist() == []  # no symbols of its
