"""The second wording of the small world: what it says, and what it leaves."""

import functools
import json
import re

import jax
import numpy as np
import pytest

import jaxdistill as jd
from jaxdistill.data import builders
from jaxdistill.data.small import world
from jaxdistill.data.tasks import load_task, small
from jaxdistill.models import store
from jaxdistill.types import Prompt


class Scripted(np.random.Generator):
  """Draws that are given: by `random`, and by `integers`."""

  def __init__(self, *uniform, integers=()):
    super().__init__(np.random.PCG64())
    self.uniform, self.whole = iter(uniform), iter(integers)

  def random(self):
    return next(self.uniform)

  def integers(self, low, high):
    found = next(self.whole)
    assert low <= found < high
    return found


def foreign(problem, rng=None):
  found = world.read_sum(problem)
  return world.work(found, rng, world.SLIP, world.REPAIR, world.FOREIGN)


@functools.cache
def documents(wording):
  return [world.draw_document(0, i, wording=wording) for i in range(1000)]


def translated(text):
  """What a text in the own wording is in the foreign one, step by step."""
  return re.sub(
    r'(\d)([-+*])(\d)([-+])(\d)=(\d\d)',
    lambda m: f'{m[5]}{m[4]}{m[1]}{m[2]}{m[3]}={int(m[6])}',
    text,
  )


@pytest.mark.parametrize(
  ('problem', 'working'),
  [
    ('482+17', '0+2+7=9,0+8+1=9,0+4+0=4;499'),
    ('17+482', '0+7+2=9,0+1+8=9,0+0+4=4;499'),
    ('95+17', '0+5+7=12,1+9+1=11;112'),
    ('999+1', '0+9+1=10,1+9+0=10,1+9+0=10;1000'),
    ('52-17', '0-2-7=15,1-5-1=3;35'),
    ('1000-1', '0-0-1=19,1-0-0=19,1-0-0=19,1-1-0=0;999'),
    ('305-298', '0-5-8=17,1-0-9=10,1-3-2=0;7'),
    ('40-40', '0-0-0=0,0-4-4=0;0'),
    ('47*6', '0+7*6=42,4+4*6=28;282'),
    ('99*9', '0+9*9=81,8+9*9=89;891'),
    ('12*0', '0+2*0=0,0+1*0=0;0'),
    ('0+0', '0+0+0=0;0'),
  ],
)
def test_working_by_hand(problem, working):
  assert foreign(problem) == working
  assert world.read_answer(working) == str(world.read_sum(problem).answer)


@pytest.mark.parametrize(
  ('problem', 'uniform', 'integers', 'working'),
  [
    # Per step: slips (below .24)? the digit (below .8) or the carry?
    # repaired (below .5)?
    ('95+17', (0.1, 0.5, 0.9, 0.9), (3,), '0+5+7=15,1+9+1=11;115'),
    ('95+17', (0.9, 0.1, 0.5, 0.9), (8,), '0+5+7=12,1+9+1=19;192'),
    ('95+17', (0.1, 0.9, 0.9, 0.9), (), '0+5+7=2,0+9+1=10;102'),
    (
      *('95+17', (0.1, 0.5, 0.2, 0.9), (3,)),
      '0+5+7=15 wait 0+5+7=12,1+9+1=11;112',
    ),
    ('52-17', (0.1, 0.9, 0.9, 0.9), (), '0-2-7=5,0-5-1=4;45'),
    ('58-17', (0.1, 0.9, 0.9, 0.9), (), '0-8-7=11,1-5-1=3;31'),
    (
      *('52-17', (0.9, 0.1, 0.9, 0.2), ()),
      '0-2-7=15,1-5-1=13 wait 1-5-1=3;35',
    ),
    ('47*6', (0.1, 0.9, 0.9, 0.9), (), '0+7*6=32,3+4*6=27;272'),
    ('41*6', (0.1, 0.5, 0.9, 0.9), (4,), '0+1*6=0,0+4*6=24;240'),
    (
      *('41*6', (0.1, 0.5, 0.2, 0.9), (4,)),
      '0+1*6=0 wait 0+1*6=6,0+4*6=24;246',
    ),
  ],
)
def test_slips_and_repairs_by_hand(problem, uniform, integers, working):
  rng = Scripted(*uniform, integers=integers)
  assert foreign(problem, rng) == working
  assert world.read_answer(working) == working.partition(';')[2]
  assert not [*rng.uniform, *rng.whole]


def test_documents_differ_in_the_wording_alone():
  own, other = documents(world.OWN), documents(world.FOREIGN)
  changed, formats, repaired = 0, set(), 0
  for said, told in zip(own, other, strict=True):
    assert told == {key: translated(text) for key, text in said.items()}
    if told != said:
      changed += 1
      formats.add(said['format'])
      repaired += ' wait ' in told['response']
  assert changed > 800 and repaired > 100
  assert formats == {'solve', 'verify', 'hint'}


def test_it_is_about_as_long():
  own, other = (
    [len(d['response']) for d in documents(w) if d['format'] == 'solve']
    for w in (world.OWN, world.FOREIGN)
  )
  assert 0.9 < np.mean(other) / np.mean(own) < 1


def test_the_corpus_is_stored_whole(tmp_path, monkeypatch):
  small._problems.cache_clear()
  here = functools.partial(builders.SmallWorld, data_dir=tmp_path)
  monkeypatch.setattr(builders.SmallWorld, 'DOCUMENTS', 50)
  monkeypatch.setattr(builders, 'SmallWorld', here)
  task = load_task('small:foreign')
  assert task.name == 'small:foreign' and not task.asks
  found = task.problems('train')
  pairs = {found[i].demonstration for i in range(len(found))}
  held_out = task.problems('test')[0]
  small._problems.cache_clear()
  assert len(found) == 50
  drawn = documents(world.FOREIGN)[:50]
  assert pairs == {(d['prompt'], d['response']) for d in drawn}
  assert held_out.demonstration[1] == foreign(held_out.text)


def test_its_model_is_as_strong_as_the_other():
  late, other = (
    json.loads((store.find(f'small-{n}') / 'manifest.json').read_text())
    for n in ('late', 'foreign')
  )
  assert other['data'] == 'small_world/foreign'
  assert other['seed'] != late['seed']
  for name in ('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy'):
    key = f'eval/test/{name}'
    assert abs(other['scores'][key] - late['scores'][key]) < 0.03


def test_its_model_says_it():
  answers = jd.load('small-foreign').ask('52-17', samples=8, max_tokens=40)
  assert foreign('52-17') in [r.text for r in answers.rollouts_G]
  assert answers.vote.answer == '35'


def test_others_are_surprised_by_it():
  player = jd.load('small-middle').player
  sums = world.draw_unique(7, world.TEST_MIX, 'test', 32)
  with jax.set_mesh(player.mesh):
    own, other = (
      np.concatenate(
        player.logprobs(
          [
            player.written(
              Prompt('solver', f'solve {s}:', i),
              world.work(s, None, 0.0, 0.0, wording),
            )
            for i, s in enumerate(sums)
          ]
        )
      )
      for wording in (world.OWN, world.FOREIGN)
    )
  assert own.mean() > -0.2 and other.mean() < -3
  assert np.mean(own < np.log(0.1)) < 0.05 < 0.4 < np.mean(other < np.log(0.1))
