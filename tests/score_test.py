"""SCoRe: two turns, two stages, what each pays and what stays as it was."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from players import PROMPTS, flat, make_player
from revising import (
  FIRST,
  PROBLEMS,
  SECOND,
  Reviser,
  asked_for,
  by_words,
  collect,
)
from scripted import CUT, KEY, TASK, watched, words
from whole_runs import cut, moved, promised, trained_by

from jaxdistill import config as configs
from jaxdistill import losses, rewards
from jaxdistill.methods.score import Score
from jaxdistill.rollout import Sampling, turns
from jaxdistill.types import Problem, Prompt

EARNED = np.array([[1, 11, 0, -10], [1, 0, 11, 0]])
RIGHT = np.array([[[1, 0, 0, 1], [1, 0, 0, 0]], [[1, 1, 0, 0], [1, 0, 1, 0]]])


def advantages(row_set):
  """By `prompt|response`, of rows whose tokens all have the same one."""
  found = {k: row.fields['advantage'] for k, row in by_words(row_set).items()}
  assert all(np.ptp(x) == 0 for x in found.values())
  return {k: float(x[0]) for k, x in found.items()}


def second_rows(earned):
  """Wanted: the rows of second attempts with what they are paid."""
  centred = earned - earned.mean(1, keepdims=True)
  wanted = {}
  for p, paid_G in zip(PROBLEMS, centred, strict=True):
    for first, paid in zip(FIRST[f'solve {p.text}'], paid_G, strict=True):
      if not first.endswith(CUT):
        wanted[f'{asked_for(p.text, first)}|{SECOND[first]}'] = paid
  return wanted


def first_rows(earned):
  centred = earned - earned.mean(1, keepdims=True)
  return {
    f'solve {p.text}|{first}': paid
    for p, paid_G in zip(PROBLEMS, centred, strict=True)
    for first, paid in zip(FIRST[f'solve {p.text}'], paid_G, strict=True)
  }


def sets_of(collected):
  (update,) = collected.updates
  return {row_set.kind: row_set for row_set in update.sets}


def test_progress_by_hand():
  first, second = np.array([0.0, 1, 0, 1]), np.array([1.0, 1, 0, 0])
  assert rewards.improved(first, second, 10).tolist() == [11, 1, 0, -10]
  assert rewards.improved(first, second, 0).tolist() == second.tolist()
  method = Score(stage1_steps=2)
  worth = [first[None], second[None]]
  for step in 0, 1:  # the second alone, for being right
    one, two = method.earned(worth, step)
    assert not one.any() and two.tolist() == [[1, 1, 0, 0]]
  for step in 2, 3:
    one, two = method.earned(worth, step)
    assert one.tolist() == [[0, 1, 0, 1]] and two.tolist() == [[11, 1, 0, -10]]


def test_stage_1_pays_the_second_and_holds_the_first():
  collected, policy, base = collect(step=2)
  first, second = sets_of(collected).values()
  assert advantages(first) == dict.fromkeys(first_rows(RIGHT[0]), 0)
  assert advantages(second) == pytest.approx(second_rows(RIGHT[1]), abs=1e-6)
  assert first.coefficients['kl'] == pytest.approx(0.11)  # beta_1 + beta_2
  assert second.coefficients['kl'] == pytest.approx(0.01)
  # Nothing is told between attempts that is trained.
  for row_set in first, second:
    assert all((row.weight_R > 0).all() for row in row_set.rows)
  assert collected.metrics['score/stage'] == [1.0]
  assert len(policy.asked) == 1 and not base.asked
  assert {s.samples for _, s in policy.revised} == {1}


def test_stage_2_pays_both_and_the_second_for_progress():
  collected, _, _ = collect(step=3)
  first, second = sets_of(collected).values()
  assert advantages(first) == pytest.approx(first_rows(RIGHT[0]), abs=1e-6)
  assert advantages(second) == pytest.approx(second_rows(EARNED), abs=1e-6)
  for row_set in first, second:
    assert row_set.coefficients['kl'] == pytest.approx(0.01)
  metrics = collected.metrics
  assert watched('score') <= metrics.keys()
  assert metrics['score/worth_turn_1'].tolist() == RIGHT[0].ravel().tolist()
  assert metrics['score/worth_turn_2'].tolist() == RIGHT[1].ravel().tolist()
  assert metrics['score/improved'].sum() == 2 and metrics['score/stage'] == [2]
  assert metrics['score/worsened'].sum() == 1


def test_a_row_has_the_log_probs_of_its_own_turn():
  first, second = sets_of(collect()[0]).values()
  row = by_words(first)['solve 1+6|a=8']
  np.testing.assert_array_equal(row.fields['old_logp'], [-0.5] * 3)
  row = by_words(second)[f'{asked_for("1+6", "a=8")}|b=7']
  np.testing.assert_array_equal(row.fields['old_logp'], [-1.0] * 3)
  np.testing.assert_allclose(row.fields['anchor_logp'], [0, -0.1, -0.2])


def test_in_stage_1_a_first_attempt_moves_by_its_divergence_alone():
  first, second = sets_of(collect()[0]).values()

  def gradient(row_set, key):
    row = by_words(row_set)[key]
    fields = {k: jnp.asarray(v[None]) for k, v in row.fields.items()}
    trained = jnp.ones((1, len(row.response_R)), bool)

    def total(logp):
      values, _ = losses.policy_gradient(
        *(logp, trained, trained.astype(int), fields, row_set.coefficients)
      )
      return values.sum()

    return jax.grad(total)(fields['old_logp'])[0]

  d = np.array([0, -0.1, -0.2])
  found = gradient(first, 'solve 1+6|a=8')
  np.testing.assert_allclose(found, 0.11 * (1 - np.exp(d + 0.5)), rtol=1e-5)
  found = gradient(second, f'{asked_for("1+6", "a=8")}|b=7')
  wanted = 0.01 * (1 - np.exp(d + 1)) - 0.5
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_stages_differ_in_numbers_alone():
  def form(row_set):
    numbers = {k: 0 for k in row_set.coefficients}
    form = row_set.kind, row_set.fields, row_set.start_temperature
    return form, numbers, [words(row) for row in row_set.rows]

  for changes in {}, {'kl': 0.0}:
    one, two = (
      collect(step=step, **changes)[0].updates[0].sets for step in (2, 3)
    )
    assert [*map(form, one)] == [*map(form, two)]
  # Where nothing holds the second turn, nothing is scored of it.
  assert 'anchor_logp' in one[0].fields and 'anchor_logp' not in one[1].fields
  assert two[0].coefficients['kl'] == 0


def test_moments_begin_anew_with_the_second_stage_alone():
  def begins(step, **changes):
    return collect(step=step, **changes)[0].updates[0].fresh_optimizer

  assert [begins(step) for step in range(5)] == [0, 0, 0, 1, 0]
  assert not begins(0, stage1_steps=0)


def test_what_is_cut_has_no_second_attempt():
  collected, _, _ = collect(step=3)
  first, second = sets_of(collected).values()
  cut = f'solve 2+3|a=5{CUT}'
  assert advantages(first)[cut] == pytest.approx(-0.25)
  assert not any(cut[:-1].replace('|', '') in key for key in by_words(second))
  # It is a wrong one to its siblings: the mean is (1 + 0 + 11 + 0) / 4.
  key = f'{asked_for("2+3", "a=5")}|b=5'
  assert advantages(second)[key] == pytest.approx(1 - 3)
  told = collected.transcripts[1]
  assert told['answers'] == ['5', None, '5', None]
  assert told['first_answers'] == ['5', None, '6', None]
  assert told['first_texts'] == FIRST['solve 2+3']
  assert told['first_rewards'] == [1, 0, 0, 0]
  assert told['rewards'] == [1, 0, 11, 0]
  # In the first stage nothing is paid for them.
  assert 'first_rewards' not in collect(step=2)[0].transcripts[1]
  attempts = [*FIRST['solve 1+6'], *FIRST['solve 2+3'], *SECOND.values()]
  assert collected.tokens == sum(map(len, attempts))
  assert collected.metrics['rollout/cut'] == [
    *(0, 0, 0, 0, 0, 1, 0, 0),
    *(0, 0, 0, 0, 0, 0, 1),
  ]


def test_where_the_base_makes_the_first_attempts():
  collected, policy, base = collect(step=3, base_attempts=0.5)
  ((mine, _),), ((others, _),) = policy.asked, base.asked
  assert [p.address for p in mine] == [4] and [p.address for p in others] == [5]
  first, second = sets_of(collected).values()
  own = {k: v for k, v in first_rows(RIGHT[0]).items() if '1+6' in k}
  assert advantages(first) == pytest.approx(own, abs=1e-6)  # others' are read
  assert advantages(second) == pytest.approx(second_rows(EARNED), abs=1e-6)
  assert not base.revised and len(policy.revised) == 8
  metrics = collected.metrics
  assert metrics['score/worth_turn_1'].tolist() == [1, 0, 0, 1]
  assert metrics['score/base_worth_turn_1'].tolist() == [1, 0, 0, 0]
  assert metrics['score/base_worth_turn_2'].tolist() == [1, 0, 1, 0]
  assert [t['first_by'] for t in collected.transcripts] == ['policy', 'base']


@pytest.mark.parametrize(('share', 'count'), [(0.25, 8), (1.0, 32), (0.3, 9)])
def test_how_many_the_base_makes(share, count):
  method = Score(base_attempts=share)
  given = [method.given(Problem('', TASK, address=i)) for i in range(32)]
  assert sum(given) == count


def test_one_turn_is_plain_reinforcement_of_it():
  collected, policy, _ = collect(turns=1, stage1_steps=20)
  assert 'first_texts' not in collected.transcripts[0]
  sets = sets_of(collected)
  assert [*sets] == ['first'] and not policy.revised
  assert advantages(sets['first']) == pytest.approx(first_rows(RIGHT[0]))
  assert sets['first'].coefficients['kl'] == 0.01
  assert not collected.metrics['score/improved'].any()
  assert 'score/worth_turn_2' not in collected.metrics


def test_what_is_held_is_not_left_out_for_being_unpaid():
  first, second = sets_of(collect(step=0, objective='dapo')[0]).values()
  assert len(first.rows) == 8 and len(second.rows) == 7
  alike = {k: ['a=7'] * 4 if '1+6' in k else v for k, v in FIRST.items()}
  first, second = sets_of(
    collect(step=3, objective='dapo', first=alike)[0]
  ).values()
  # All of one problem's are alike: they teach nothing, in either turn.
  assert {words(row)[:9] for row in first.rows} == {'solve 2+3'}
  assert {words(row)[:9] for row in second.rows} == {'solve 2+3'}


def test_a_host_without_problems_has_the_same_names():
  none, some = collect(problems=[])[0], collect()[0]
  assert none.metrics.keys() == some.metrics.keys()
  assert none.tokens == none.scored == 0
  names = [
    [(s.kind, s.fields) for s in sets_of(x).values()] for x in (none, some)
  ]
  assert names[0] == names[1]


def test_what_becomes_of_answers_by_hand():
  found = rewards.transitions([(True, True), (False, True), (True, False)])
  assert found['accuracy_turn_1'] == [1, 0, 1]
  assert found['accuracy_turn_2'] == [1, 1, 0]
  assert found['delta'] == [0, 1, -1]
  assert found['wrong_to_right'] == [0, 1, 0]
  assert found['right_to_wrong'] == [0, 0, 1]
  assert found['accuracy_corrected'] == [1]
  draws = np.random.default_rng(0).random((1000, 2)) < (0.4, 0.7)
  found = rewards.transitions([(bool(a), bool(b)) for a, b in draws])
  mean = {name: sum(values) / len(values) for name, values in found.items()}
  rise = mean['accuracy_turn_2'] - mean['accuracy_turn_1']
  both = mean['wrong_to_right'] - mean['right_to_wrong']
  assert mean['delta'] == pytest.approx(both, abs=1e-12)
  assert mean['delta'] == pytest.approx(rise, abs=1e-12)
  assert rewards.transitions([])['accuracy_corrected'] == []


@pytest.mark.parametrize(
  ('first', 'second', 'different'),
  [
    *(('7', '07', False), ('7', '8', True), (None, '7', True)),
    *((None, None, False), ('7', None, True), ('x', 'y', True)),
  ],
)
def test_a_changed_answer(first, second, different):
  assert rewards.changed(first, second) is different


FIVE = {'solve 1+6': ['a=7', 'a=8', 'c=8', 'd=7', f'a=7{CUT}']}
THEIRS = {'solve 1+6': ['a=8', 'a=8', 'a=8', 'd=7', 'c=8']}


def test_both_turns_are_observed_greedily_and_sampled():
  policy, unknown = Reviser(FIVE), Problem('?', TASK, address=6)
  asked = [PROBLEMS[0], unknown]  # nobody knows: it is not asked
  found = Score().evaluate(policy, asked, KEY)
  assert found['accuracy_turn_1'] == found['accuracy_turn_2'] == [1]
  assert found['accuracy_turn_1_sampled'] == [0, 0, 1, 0]
  assert found['accuracy_turn_2_sampled'] == [1, 0, 0, 0]
  assert found['changed_sampled'] == [1, 1, 1, 0]
  assert found['accuracy_corrected_sampled'] == [1, 0, 0]  # cut: none
  ((_, sampling),) = policy.asked
  assert (sampling.samples, sampling.greedy) == (5, 1)
  assert [s.greedy for _, s in policy.revised] == [1, 0, 0, 0, 0]


def test_the_base_s_attempts_are_corrected_as_well():
  players = {'policy': Reviser(FIVE), 'base': Reviser(THEIRS, {})}
  found = Score().against(players, PROBLEMS[:1], KEY)
  assert found['fixed_accuracy_turn_1_sampled'] == [0, 0, 1, 0]
  assert found['fixed_accuracy_turn_2_sampled'] == [1, 1, 0, 0]
  assert found['fixed_accuracy_corrected_sampled'] == [1, 1, 0]
  assert not players['policy'].asked and not players['base'].revised


def test_a_second_attempt_is_a_response_to_all_before_it(one_device):
  player = make_player(one_device)
  first = flat(player.generate(PROMPTS[:3], Sampling(4, 10), KEY))
  assert {r.finish for r in first} == {'stop', 'length'}
  both = player.follow_up(first, ['+1'] * len(first), Sampling(1, 8), KEY)
  seconds = [turns.second_of(r) for (r,) in both]
  for one, (two,), second in zip(first, both, seconds, strict=True):
    assert (second is None) == (one.finish == 'length')
    if second:
      whole = [np.concatenate([r.prompt_T, r.tokens_T]) for r in (two, second)]
      np.testing.assert_array_equal(*whole)
      assert not second.turn_T.any() and second.text == two.text
      start = len(second.prompt_T) - len(one.prompt_T) - len(one.tokens_T)
      assert start == 2  # what was said between
  there = [r for r in seconds if r]
  for r, logp_T in zip(there, player.logprobs(there), strict=True):
    np.testing.assert_allclose(r.logp_T, logp_T, atol=1e-4)


def test_a_spliced_attempt_reads_as_a_dialogue_would(one_device):
  player = make_player(one_device)
  task = dataclasses.replace(TASK)
  object.__setattr__(task, 'asking', lambda what, problem: '+1')
  first, second = (
    player.written(Prompt('solver', '3+4='), text) for text in ('8', '7')
  )
  spliced = turns.followed(player, Problem('', task), first, second)
  tokens = player.tokenizer.encode
  eos = player.tokenizer.eos_ids[0]
  wanted = [*first.prompt_T, *tokens('8'), eos, *tokens('+1')]
  assert spliced.prompt_T.tolist() == wanted
  assert spliced.tokens_T.tolist() == [*tokens('7'), eos]


FEW = {
  'model': 'small-wide',
  'steps': 2,
  'eval_every': 2,
  'checkpoint_every': 1,
  'eval.splits': ('test',),
  'eval.problems': 8,
  'eval.samples': 2,
  'eval.max_tokens': 24,
  'guard.every': 0,
  'batch.length': 96,
  'batch.sequences': 8,
  'optimizer.warmup': 1,
  'method.problems': 6,
  'method.samples': 4,
  'method.max_tokens': 24,
}


@pytest.fixture
def trained(mesh, tmp_path):
  def train(name, workdir='run', **keys):
    config = configs.base_config(name)
    config.anchors = {}
    configs.override(config, (FEW | keys).items())
    return trained_by(config, tmp_path / workdir)

  return train


@pytest.mark.parametrize(
  ('name', 'keys'),
  [
    ('score', {'method.stage1_steps': 1, 'method.base_attempts': 0.5}),
    ('pair_sft', {'method.keep': 'star', 'method.kept_right': True}),
  ],
)
def test_what_is_cut_goes_on_as_if_it_had_not_been(
  trained, tmp_path, name, keys
):
  whole, lines, before = trained(name, **keys)
  cut(tmp_path / 'run', tmp_path / 'cut')
  again, more, _ = trained(name, 'cut', **keys)
  assert again.first_step == 1
  assert [*map(promised, more)] == [*map(promised, lines)]
  assert not moved(whole.state.params, again.state.params)
  assert moved(before, whole.state.params)
  first, _, last = lines
  for line in first, last:
    for kind in '', '_sampled':
      delta, up, down = (
        line[f'eval/test/{what}{kind}']
        for what in ('delta', 'wrong_to_right', 'right_to_wrong')
      )
      assert delta == pytest.approx(up - down, abs=1e-9)
    # What the base says does not change.
    name = 'eval/test/fixed_accuracy_turn_1_sampled'
    assert line[name] == first['eval/test/accuracy_turn_1_sampled']
  # As long as the policy is the base, it corrects itself as it does the base.
  for name, value in first.items():
    if name.startswith('eval/test/fixed_'):
      assert value == first[name.replace('fixed_', '')]


def test_moments_are_those_of_the_second_stage(trained):
  loop, lines, _ = trained('score', **{'method.stage1_steps': 1})
  assert [line['score/stage'] for line in lines[:2]] == [1, 2]
  counts = optax.tree.get_all_with_path(loop.state.shared_opt, 'count')
  assert {int(count) for _, count in counts} == {1}
  assert int(loop.state.step) == 2


@pytest.mark.parametrize(
  ('name', 'changes', 'line'),
  [
    (
      'score',
      {'samples': 1},
      'method.samples is 1; a group needs 2',
    ),
    ('score', {'turns': 3}, 'method.turns is 3; it must be 1 or 2'),
    (
      'score',
      {'stage1_steps': -1},
      'stage1_steps is -1; it must not be negative',
    ),
    ('score', {'alpha': -1.0}, 'method.alpha is -1.0; it must not be'),
    ('score', {'hold': -0.1}, 'method.hold is -0.1; it must not be'),
    ('score', {'base_attempts': 1.5}, r'base_attempts is 1.5; .*0 to 1'),
    ('score', {'base_attempts': 0.01}, r'at least one of 32 problems'),
    ('score', {'turns': 1, 'alpha': 0.0}, r'alpha is 0.0.*no second attempt'),
    ('score', {'reference': 'trust:0.1'}, "reference is 'trust:0.1'.*by turn"),
    ('score', {'minibatches': 999}, 'minibatches is 999; a step has 256 rows'),
    ('pair_sft', {'keep': 'stars'}, "'stars'.*star, pairs.*nearest is 'star'"),
    ('pair_sft', {'keep': 'pairs', 'samples': 1}, 'a pair needs 2'),
    ('pair_sft', {'samples': 0}, 'samples is 0; it must be positive'),
  ],
)
def test_what_cannot_be_is_said_in_one_line(name, changes, line):
  config = configs.base_config(name)
  configs.override(
    config, {f'method.{k}': v for k, v in changes.items()}.items()
  )
  with pytest.raises(configs.ConfigError, match=line) as error:
    configs.check(config)
  assert '\n' not in str(error.value)


def test_every_arm_of_the_comparison_can_be():
  path = pathlib.Path(__file__).parents[1] / 'configs' / 'compare_score.py'
  comparison = configs.read_comparison(str(path), ())
  for arm in comparison.arms:
    configs.check(comparison.config(arm, 0))


@pytest.mark.parametrize('name', ['score', 'pair_sft'])
def test_a_task_that_cannot_ask_for_another_attempt(name):
  config = configs.base_config(name)
  config.model, config.task = 'small-wide', 'small:facts'
  configs.check(config)
  with pytest.raises(configs.ConfigError, match="has no words for 'revise'"):
    configs.prepare(config)
