"""What methods make of a step, with players whose every word is scripted."""

import dataclasses

import numpy as np
import pytest
from scripted import (
  CUT,
  SCRIPT,
  TASK,
  TOPICS,
  Anchor,
  Scripted,
  Sums,
  by_text,
  collect,
  collected_by,
  normalised,
  proposer_rewards,
  solver_rows,
  words,
)

from jaxdistill import rewards
from jaxdistill.config.keys import filled
from jaxdistill.methods.grpo import Grpo
from jaxdistill.methods.policy_gradient import PolicyGradient
from jaxdistill.methods.sqlm import Sqlm
from jaxdistill.rollout import Sampling
from jaxdistill.types import Records


def test_sqlm_asks_what_was_proposed_well():
  collected, policy, anchor = collect(temperature=0.7)
  (topics, first), (problems, second) = policy.asked
  assert [(p.role, p.text) for p in topics] == [
    ('proposer', 'propose small'),
    ('proposer', 'propose large'),
  ]
  assert [(p.role, p.text, p.address) for p in problems] == [
    ('solver', 'solve 1+6', 12),  # third row of five, three proposals each
    ('solver', 'solve 2+3', 13),
    ('solver', 'solve 50+51', 15),
    ('solver', 'solve 3+4', 17),
  ]
  assert (first.samples, second.samples) == (3, 4)
  temperatures = {first.temperature, second.temperature, *anchor.temperatures}
  assert temperatures == {0.7}
  words = [*SCRIPT['propose small'], *SCRIPT['propose large']]
  for p in problems:
    words += SCRIPT[p.text]
  assert collected.tokens == sum(map(len, words))


def test_settings_of_sampling_reach_it():
  shared = {f.name for f in dataclasses.fields(Sampling)} & {
    f.name for f in dataclasses.fields(PolicyGradient)
  }
  assert shared == {'temperature', 'top_k', 'top_p'}
  drawn = PolicyGradient(temperature=0.5, top_k=3, top_p=0.25).sampling(2, 7)
  assert drawn == Sampling(2, 7, temperature=0.5, top_k=3, top_p=0.25)


def test_sqlm_pays_the_solver_for_agreeing():
  collected, _, _ = collect()
  ((solver,), _) = [u.sets for u in collected.updates]
  assert solver.role == 'solver'
  rows = by_text(solver.rows)
  paid = normalised(1, 1, 1, 0)
  half = normalised(1, 1, 0, 0)
  wanted = {
    'solve 1+6|a=7': (paid[0], 2),  # said twice, trained once
    'solve 1+6|b=07': (paid[0], 1),  # the same number
    'solve 1+6|a=8': (paid[3], 1),
    'solve 2+3|a=6': (0, 4),  # all agree, on a wrong answer
    'solve 50+51|a=101': (0, 2),  # a tie pays nobody
    'solve 50+51|a=102': (0, 2),
    'solve 3+4|a=7': (half[0], 1),
    'solve 3+4|b=7': (half[0], 1),
    f'solve 3+4|a=8{CUT}': (half[2], 1),  # no vote, and no pay
    'solve 3+4|a': (half[2], 1),
  }
  assert rows.keys() == wanted.keys()
  for text, (advantage, said_n_times) in wanted.items():
    row, n = rows[text], len(text.partition('|')[2])
    for values, wanted_R in (
      (row.fields['advantage'], np.full(n, advantage)),
      (row.weight_R, np.full(n, said_n_times / n)),
      (row.fields['old_logp'], np.full(n, -0.5)),
      (row.fields['anchor_logp'], -0.1 * np.arange(n)),
    ):
      assert values.shape == (n,)
      np.testing.assert_allclose(values, wanted_R, 1e-6)
    assert row.total == said_n_times


def test_sqlm_pays_the_proposer_for_what_is_worth_asking():
  collected, _, _ = collect()
  _, (proposer,) = [u.sets for u in collected.updates]
  assert proposer.role == 'proposer'
  small, large = normalised(1, 0, 0), normalised(0, 0, 1)
  found = {
    text: row.fields['advantage'][-1]
    for text, row in by_text(proposer.rows).items()
  }
  # Malformed ones are in their group's mean, and have no row.
  assert found == pytest.approx(
    {
      'propose small|1+6': small[0],
      'propose small|2+3': small[1],
      'propose large|50+51': large[0],
      'propose large|3+4': large[2],
    }
  )


def test_sqlm_moves_the_proposer_at_every_kth_step():
  def roles(step, k):
    updates = collect(step, propose_every=k)[0].updates
    return [u.sets[0].role for u in updates]

  both = ['solver', 'proposer']
  assert [roles(s, 3) == both for s in range(6)] == [False, False, True] * 2
  assert roles(0, 1) == both
  assert all(roles(s, 0) == ['solver'] for s in range(3))


def test_sqlm_reports_what_happened():
  collected, _, _ = collect()
  assert {k: list(v) for k, v in collected.metrics.items()} == {
    'selfplay/valid': [1, 1, 0, 1, 0, 1],
    'selfplay/distinct': [1, 1, 1, 1],
    'selfplay/agreement': [0.75, 1, 0.5, 0.5],
    'selfplay/majority': [1, 1, 0, 1],
    'selfplay/vote_accuracy': [1, 0, 0, 1],
    'selfplay/proposer_reward': [1, 0, 0, 0, 0, 1],
    'selfplay/solver_reward': [1, 1, 1, 0] + [1] * 4 + [0] * 4 + [1, 1, 0, 0],
    'selfplay/trained': [1, 1, 1, 1],
    'selfplay/suited': [],  # nobody was asked
    'rollout/length': [3, 3, 4, 3] + [3] * 4 + [5] * 4 + [3, 3, 8, 1],
    'rollout/cut': [0] * 14 + [1, 0],
    'rollout/entropy': [0.5] * (3 * 8 + 1 + 20 + 15),
    'rollout/markers': [0] * 16,
    'rollout/markers_words': [0] * 16,
    'rollout/markers_per_1k': [0] * (3 * 8 + 1 + 20 + 15),
    'rollout/markers_words_per_1k': [0] * (3 * 8 + 1 + 20 + 15),
  }
  first, _, third, tie, *_ = collected.transcripts
  assert first == {
    'topic': 'propose small',
    'proposal': '1+6',
    'problem': '1+6',
    'known': '7',
    'vote': '7',
    'answers': ['7', '7', '07', '8'],
    'rewards': [1, 1, 1, 0],
    'texts': ['a=7', 'a=7', 'b=07', 'a=8'],
    'proposer_reward': 1,
  }
  assert third == {
    'topic': 'propose small',
    'proposal': 'what?',
    'rejected': 'malformed',
    'proposer_reward': 0,
  }
  assert tie['vote'] is None and tie['rewards'] == [0, 0, 0, 0]


def test_sqlm_without_any_valid_proposal_asks_nothing():
  script = {'propose small': ['?'] * 3, 'propose large': ['?', '9+1', '9+2']}
  policy = Scripted(script)
  method = Sqlm(problems=2, proposals=3, samples=4, propose_every=1)
  players = {'policy': policy, 'base': Anchor()}
  collected = collected_by(method, players, TOPICS, method.init())
  assert [len(u.sets[0].rows) for u in collected.updates] == [0, 0]
  assert [prompts for prompts, _ in policy.asked][1] == []
  assert [t['rejected'] for t in collected.transcripts] == (
    ['malformed'] * 4 + ['held out'] * 2
  )
  # The same names as ever: other hosts may have observations.
  assert collected.metrics.keys() == collect()[0].metrics.keys()


def test_other_shapes_pay_the_proposer():
  # Shares that agree: 3/4, 1, 0 (a tie), 1/2; two proposals are malformed.
  assert proposer_rewards(proposer_reward='uncertain') == [0.5, 0, 0, 0, 0, 1]
  assert proposer_rewards(proposer_reward='hard') == [0.25, 0, 0, 0, 0, 0.5]
  assert proposer_rewards(proposer_reward='valid') == [1, 1, 0, 1, 0, 1]
  assert proposer_rewards(malformed_penalty=0.5) == [1, 0, -0.5, 0, -0.5, 1]


def test_a_repeated_proposal_pays_less():
  script = SCRIPT | {'propose small': ['1+6', '1+6', '2+3']}
  past = {'bank': [], 'archive': ['3+4', '3+4', '8+8']}
  told = dict(script=script, repeat_penalty=0.4, proposer_reward='valid')
  found = proposer_rewards(**told, state=past)
  # Said twice here; new; new; malformed; said once here and twice before.
  assert found == pytest.approx([0.8, 0.8, 1, 1, 0, 1 - 0.4 * 2 / 3])


def test_what_other_hosts_asked_counts_as_said(monkeypatch):
  def gathered(texts):
    return ['3+4', '8+8', *texts]

  monkeypatch.setattr('jaxdistill.methods.sqlm.gather_texts', gathered)
  told = dict(repeat_penalty=0.4, proposer_reward='valid', archive=20)
  # `3+4` has been asked by the other host as well.
  assert proposer_rewards(**told) == pytest.approx([1, 1, 0, 1, 0, 0.8])
  state = collect(**told)[0].state
  assert state['archive'] == ['3+4', '8+8', '1+6', '2+3', '50+51', '3+4']


def test_the_archive_holds_the_newest_problems():
  collected, _, _ = collect(
    archive=5, state={'bank': [], 'archive': ['a', 'b']}
  )
  assert collected.state['archive'] == ['b', '1+6', '2+3', '50+51', '3+4']
  assert collect()[0].state == {'bank': Records([]), 'archive': []}


def test_a_band_of_agreement_leaves_problems_out():
  collected, *_ = collect(band=(0.5, 0.9))
  assert list(collected.metrics['selfplay/trained']) == [1, 0, 0, 1]
  kept = {text.partition('|')[0] for text in solver_rows(band=(0.5, 0.9))}
  assert kept == {'solve 1+6', 'solve 3+4'}


def test_a_problem_weighs_its_agreement():
  plain, rows = solver_rows(), solver_rows(agreement_power=2.0)
  assert plain.keys() - rows.keys() == {
    'solve 50+51|a=101',
    'solve 50+51|a=102',
  }
  for text, share in (('1+6|a=7', 0.75), ('2+3|a=6', 1), ('3+4|b=7', 0.5)):
    one, other = plain[f'solve {text}'], rows[f'solve {text}']
    np.testing.assert_allclose(other.weight_R, share**2 * one.weight_R)
    assert other.total == pytest.approx(share**2 * one.total)


def test_problems_of_the_archive_are_asked_again():
  problems = [
    dataclasses.replace(TASK.parse_problem('2+3'), topic='small', address=0),
    dataclasses.replace(TASK.parse_problem('1+6'), topic='large', address=1),
  ]
  past = {'bank': [], 'archive': ['8+8']}
  script = SCRIPT | {'solve 8+8': ['a=16', 'a=15', 'a=15', 'a=15']}
  sets = dict(topics=problems, replay=1 / 6, archive=9, script=script)
  collected, policy, _ = collect(state=past, **sets)
  asked = policy.asked[1][0]
  assert asked[-1].text == 'solve 8+8' and asked[-1].address == 6 + 2 + 0
  assert len({p.address for p in asked}) == len(asked)
  # By the vote, not by the truth; and it is not archived again.
  rows = by_text(collected.updates[0].sets[0].rows)
  paid = normalised(0, 1, 1, 1)
  for text, advantage in (('a=16', paid[0]), ('a=15', paid[1])):
    row = rows[f'solve 8+8|{text}']
    assert row.fields['advantage'][-1] == pytest.approx(advantage)
  assert collected.state['archive'].count('8+8') == 1
  # At first there is nothing to ask again.
  _, policy, _ = collect(**sets)
  assert all('8+8' not in p.text for p in policy.asked[1][0])
  with pytest.raises(ValueError, match='it draws from'):
    Sqlm(replay=0.25)


def test_known_answers_are_mixed_in():
  problems = [
    dataclasses.replace(TASK.parse_problem('2+3'), topic='small', address=0),
    dataclasses.replace(TASK.parse_problem('1+6'), topic='large', address=1),
  ]
  # One sixth of two topics with three proposals: one problem.
  collected, policy, _ = collect(topics=problems, known=1 / 6)
  asked = policy.asked[1][0]
  assert [p.address for p in asked] == [0, 1, 3, 5, 6]
  assert asked[-1].text == 'solve 2+3'
  rows = by_row(collected.updates[0].sets[0].rows)
  advantages = [row.fields['advantage'][-1] for row in rows['solve 2+3|a=6']]
  assert advantages == [0, 0]  # its own problem agrees, the given one is wrong
  script = SCRIPT | {'solve 2+3': ['a=5', 'a=6', 'a=6', 'a=6']}
  collected, *_ = collect(topics=problems, known=1 / 6, script=script)
  rows = by_row(collected.updates[0].sets[0].rows)
  wrong, right_ = normalised(0, 1, 1, 1)[:2], normalised(1, 0, 0, 0)[:2]
  found = [
    rows[f'solve 2+3|a={a}'][i].fields['advantage'][-1]
    for i in range(2)
    for a in (5, 6)
  ]
  assert found == pytest.approx([*wrong, *right_])
  # The proposer is paid for its own alone.
  assert len(collected.metrics['selfplay/proposer_reward']) == 6
  assert len(collected.metrics['selfplay/vote_accuracy']) == 4
  with pytest.raises(ValueError, match='it is at most'):
    Sqlm(proposals=4, known=0.3)
  with pytest.raises(ValueError, match='less than one of 32 proposals'):
    Sqlm(known=0.01)


def by_row(rows):
  """Lists of rows by `prompt|response`, in their order."""
  out = {}
  for row in rows:
    out.setdefault(words(row), []).append(row)
  return out


@pytest.mark.parametrize(
  ('reward', 'paid'),
  [
    ('known', [1, 1, 1, 0] + [0] * 4 + [1, 1, 0, 0] * 2),
    ('format', [1] * 12 + [1, 1, 0, 0]),
  ],
)
def test_controls_pay_the_solver_otherwise(reward, paid):
  collected, *_ = collect(solver_reward=reward)
  assert list(collected.metrics['selfplay/solver_reward']) == paid


def test_random_rewards_depend_on_the_row_alone():
  def paid(topics):
    collected, *_ = collect(topics=topics, solver_reward='random')
    return collected.metrics['selfplay/solver_reward'].tolist()

  both, second = paid(TOPICS), paid(TOPICS[1:])
  assert both[-8:] == second
  assert set(both) == {0, 1}


def test_a_fixed_bank_is_written_once_and_drawn_from():
  script = SCRIPT | {
    'propose small': ['1+6', '2+3', '?', '1+6'],
    'propose large': ['3+4', '50+51', '9+1', '3+4'],
  }
  told = dict(script=script, bank=7, propose_every=0)
  first, policy, _ = collect(step=0, **told)
  # Seven over two topics: four each.
  assert policy.asked[0][1].samples == 4
  bank = ['1+6', '2+3', '1+6', '3+4', '50+51', '3+4']
  assert first.state['bank'] == Records(bank)
  second, policy, _ = collect(step=1, state=first.state, **told)
  assert second.state == first.state
  ((prompts, _),) = policy.asked  # nothing was proposed
  assert [p.address for p in prompts] == [12, 13, 14, 15, 16, 17]
  assert {p.text.removeprefix('solve ') for p in prompts} <= set(bank)
  assert len(second.updates) == 1
  assert [t['problem'] for t in second.transcripts] == [
    p.text.removeprefix('solve ') for p in prompts
  ]
  # Another host draws for its rows what one host draws for them.
  _, policy, _ = collect(1, first.state, TOPICS[1:], **told)
  assert [p.text for p in policy.asked[0][0]] == [p.text for p in prompts[3:]]


def test_a_bank_keeps_what_was_written(monkeypatch):
  """A task may read a problem out of more than its text."""
  parse = Sums.parse_problem
  wrapped = {
    topic: [f'Q:{text}' for text in SCRIPT[topic]]
    for topic in ('propose small', 'propose large')
  }

  def unwrap(self, text):
    return parse(self, text[2:]) if text.startswith('Q:') else None

  monkeypatch.setattr(Sums, 'parse_problem', unwrap)
  script = SCRIPT | wrapped
  collected, policy, _ = collect(0, script=script, bank=6, propose_every=0)
  assert collected.state['bank'] == Records(
    ['Q:1+6', 'Q:2+3', 'Q:50+51', 'Q:3+4']
  )
  assert len(policy.asked[1][0]) == 6


def test_a_past_self_can_propose():
  method = Sqlm(problems=2, proposals=3, samples=4, propose_every=0)
  method = dataclasses.replace(method, proposer='league:5')
  assert method.anchors['base'] == 'frozen'
  assert method.anchors['proposer'].rule == 'league:5'
  policy, past = Scripted(SCRIPT), Scripted(SCRIPT)
  players = {'policy': policy, 'base': Anchor(), 'proposer': past}
  collected = collected_by(method, players, TOPICS, method.init())
  assert [p.role for p in past.asked[0][0]] == ['proposer'] * 2
  assert len(past.asked) == len(policy.asked) == 1
  assert len(collected.updates) == 1
  for other in ({'proposer': 'league:5'}, {'bank': 8}):
    with pytest.raises(ValueError, match='it must be 0 where another'):
      filled(Sqlm, dict(other))


def test_dapo_drops_groups_that_teach_nothing():
  kept = {text.partition('|')[0] for text in solver_rows(objective='dapo')}
  assert kept == {'solve 1+6', 'solve 3+4'}
  row = solver_rows(objective='dapo')['solve 1+6|a=7']
  assert set(row.weight_R) == {2} and row.total == 2 * len('a=7')


def test_dapo_drops_by_what_is_right_not_by_length():
  kept = solver_rows(objective='dapo', max_tokens=8, overlong=8)
  # All four answers to `2+3` agree; `50+51` is a tie: fines change nothing.
  asked = {text.partition('|')[0] for text in kept}
  assert asked == {'solve 1+6', 'solve 3+4'}
  script = SCRIPT | {'solve 2+3': ['a=5', 'bcd=5', 'a=5', 'a=5']}
  rows = solver_rows(objective='dapo', max_tokens=8, overlong=8, script=script)
  assert rows.keys() == kept.keys()
  plain = solver_rows(max_tokens=8, overlong=8, script=script)
  assert plain['solve 2+3|bcd=5'].fields['advantage'][-1] < -1


def test_a_long_answer_is_fined():
  plain = solver_rows()['solve 3+4|a=7'].fields['advantage'][-1]
  fined = solver_rows(max_tokens=8, overlong=7)
  # `a=8<cut>` has eight tokens and loses 1; `a` has one and loses nothing.
  wanted = normalised(1 - 2 / 7, 1 - 2 / 7, -1, 0)
  assert fined['solve 3+4|a=7'].fields['advantage'][-1] == pytest.approx(
    wanted[0]
  )
  assert wanted[0] != pytest.approx(plain)


def test_settings_that_mean_nothing_are_refused():
  for name, allowed in (
    ('solver_reward', rewards.SOLVER_REWARDS),
    ('proposer_reward', rewards.PROPOSER_REWARDS),
  ):
    with pytest.raises(ValueError, match=', '.join(allowed)):
      Sqlm(**{name: 'votes'})
  for band in ((0.5, 0.2), (-0.1, 1.0), (0.0, 1.5)):
    with pytest.raises(ValueError, match='lowest, highest'):
      Sqlm(band=band)
  with pytest.raises(ValueError, match=r'importance_cap is 0\.5'):
    filled(Grpo, {'importance_cap': 0.5})
  with pytest.raises(ValueError, match="nearest is 'dapo'"):
    filled(Sqlm, {'objective': 'dappo'})


def test_grpo_pays_for_the_known_answer():
  problems = [TASK.parse_problem('1+6'), TASK.parse_problem('2+3')]
  method = Grpo(problems=2, samples=4)
  players = {'policy': Scripted(SCRIPT), 'base': Anchor()}
  collected = collected_by(method, players, problems, {})
  (update,) = collected.updates
  (row_set,) = update.sets
  found = {
    text: row.fields['advantage'][-1]
    for text, row in by_text(row_set.rows).items()
  }
  paid = normalised(1, 1, 1, 0)
  assert found == pytest.approx(
    {
      'solve 1+6|a=7': paid[0],
      'solve 1+6|b=07': paid[0],
      'solve 1+6|a=8': paid[3],
      'solve 2+3|a=6': 0,  # all wrong: nothing to learn
    }
  )
  assert list(collected.metrics['train/reward']) == [1, 1, 1, 0, 0, 0, 0, 0]
  assert list(collected.metrics['train/learnable']) == [1, 0]


@pytest.mark.parametrize('method', [Sqlm, Grpo])
def test_without_a_divergence_there_is_no_anchor(method):
  told = {'problems': 2, 'samples': 4}
  told |= {'proposals': 3} if method is Sqlm else {}
  plain, held = (filled(method, told | {'kl': kl}) for kl in (0.0, 0.1))
  assert plain.anchors == {} and held.anchors == {'base': 'frozen'}
  given = TOPICS
  if method is Grpo:
    given = [TASK.parse_problem('1+6'), TASK.parse_problem('2+3')]
  anchor = Anchor()
  sets = []
  for one, players in ((plain, {}), (held, {'base': anchor})):
    players |= {'policy': Scripted(SCRIPT)}
    collected = collected_by(one, players, given, one.init(), 4)
    sets.append([s for update in collected.updates for s in update.sets])
  assert anchor.temperatures
  for without, whole in zip(*sets, strict=True):
    assert without.fields == ('advantage', 'old_logp')
    assert whole.fields == ('advantage', 'old_logp', 'anchor_logp')
    for a, b in zip(without.rows, whole.rows, strict=True):
      assert words(a) == words(b) and a.total == b.total
      assert tuple(a.fields) == without.fields
      assert tuple(b.fields) == whole.fields


@pytest.mark.parametrize('method', [Sqlm, Grpo])
def test_what_cannot_be_sampled_is_refused(method):
  for wrong in ({'samples': 0}, {'temperature': -1.0}, {'top_p': 0.0}):
    with pytest.raises(ValueError):
      filled(method, dict(wrong))
