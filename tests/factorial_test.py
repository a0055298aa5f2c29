"""Effects of a factorial, of cells that are made of known ones."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from jaxdistill.plots.claims import holm

SCRIPTS = pathlib.Path(__file__).parents[1] / 'launch' / 'reproduce'


def script(name):
  spec = importlib.util.spec_from_file_location(name, SCRIPTS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_effects_that_were_put_in_come_out(tmp_path, monkeypatch, capsys):
  factorial = script('factorial')
  draw = np.random.default_rng(0)
  arms = {}
  for w, wording in enumerate(('foreign', 'own')):
    for c, coverage in enumerate(('narrow', 'broad')):
      for v, verifier in enumerate(('none', 'vote', 'known')):
        value = 0.1 + 0.5 * w + 0.2 * c + [0, 0.03, 0.05][v]
        value += 0.08 * w * c + 0.01 * w * c * (v == 2)
        noise = 1e-4 * draw.standard_normal(5)
        last = {str(i): value + x for i, x in enumerate(noise)}
        arms[f'{wording}_{coverage}_{verifier}'] = {
          f'eval/{m}': {'by_seed': {'last': last}} for m in factorial.METRICS
        }
  (tmp_path / 'summary.json').write_text(json.dumps({'arms': arms}))
  argv = ['factorial.py', str(tmp_path), str(tmp_path / 'out')]
  monkeypatch.setattr('sys.argv', argv)
  factorial.main()
  effects = json.loads((tmp_path / 'out' / 'effects.json').read_text())
  found = effects['effects']['ood/accuracy_sampled']
  third = 0.01 / 3  # of the cells that are known
  wanted = {
    'wording_own': 0.5 + 0.04 + third / 2,
    'coverage_broad': 0.2 + 0.04 + third / 2,
    'verifier_vote': 0.03,
    'verifier_known': 0.05 + 0.01 / 4,
    'wording_own*coverage_broad': 0.08 + third,
    'wording_own*verifier_vote': 0.0,
    'wording_own*verifier_known': 0.005,
    'coverage_broad*verifier_known': 0.005,
    'wording_own*coverage_broad*verifier_known': 0.01,
    'wording_own*coverage_broad*verifier_vote': 0.0,
  }
  for name, value in wanted.items():
    assert found[name]['mean'] == pytest.approx(value, abs=5e-4), name
    low, high = found[name]['interval']
    assert low < found[name]['mean'] < high < low + 2e-3
  own = effects['within_own']['ood/accuracy_sampled']
  assert not any('wording' in name for name in own)
  for name, value in {
    'coverage_broad': 0.2 + 0.08 + third,
    'verifier_known': 0.05 + 0.005,
    'coverage_broad*verifier_known': 0.01,
  }.items():
    assert own[name]['mean'] == pytest.approx(value, abs=5e-4), name
  assert '**+0.5' in capsys.readouterr().out


def test_what_predicts_the_gain_is_told_from_what_does_not():
  study = script('self_or_teacher')
  draw = np.random.default_rng(1)
  measured, arms = {}, {}
  for i in range(12):
    misfit, right, covered = draw.random(3)
    gain = 0.3 - 0.2 * misfit + 0.05 * right
    name = 'eval/ood/accuracy_sampled'
    arm = f'{i % 3}_{i // 3}'
    arms[arm] = {name: {'rise': {'mean': gain}}}
    measured[arm] = {
      'misfit': misfit,
      'right': right,
      'covered': {'ood': covered},
    }
  found = study.regressed(arms, measured, name)
  deviation = np.std([m['misfit'] for m in measured.values()])
  assert found['by_deviation']['misfit'] == pytest.approx(-0.2 * deviation)
  assert found['by_deviation']['covered'] == pytest.approx(0, abs=1e-9)
  assert found['error_left_out'] == pytest.approx(0, abs=1e-9)
  alone = found['error_of_one']
  assert alone['misfit'] < found['error_of_mean'] < alone['covered']


def test_arms_that_differ_in_one_thing():
  study = script('self_or_teacher')

  def of(*values):
    return {gain: of_seeds(*values) for gain in study.GAINS}

  arms = {'matched_kept': of(0.5, 0.7, 0.6), 'matched_voted': of(0.4, 0.5, 0.5)}
  found = study.differences(arms | {'narrow_kept': of(0.1, 0.1)})
  assert list(found) == ['matched_kept-voted']
  one = found['matched_kept-voted']['eval/ood/accuracy_greedy']
  assert one['mean'] == pytest.approx(0.4 / 3)
  half = 4.302653 * np.std([0.1, 0.2, 0.1], ddof=1) / np.sqrt(3)
  assert one['interval'][1] == pytest.approx(0.4 / 3 + half)


def test_coverage_is_the_mass_in_common():
  study = script('self_or_teacher')
  assert study.covered('small:narrow', 'test') == pytest.approx(0.24)
  assert study.covered('small:narrow', 'ood') == 0
  assert study.covered('small:broad', 'ood') > 0.4


def of_seeds(*values, first=0.4):
  last = {str(i): x for i, x in enumerate(values)}
  begun = dict.fromkeys(last, first)
  return {'by_seed': {'last': last, 'first': begun}, 'first': first}


def test_verdicts_and_differences_by_hand():
  claims = script('claims')
  one = {'eval/ood/x': of_seeds(0.5, 0.7, 0.6)}
  two = {'eval/ood/x': of_seeds(0.4, 0.5, 0.5, 0.9)}  # a seed of its own
  found = claims.apart(one, two, 'ood/x')
  assert found['seeds'] == 3 and found['mean'] == pytest.approx(0.4 / 3)
  half = 4.302653 * np.std([0.1, 0.2, 0.1], ddof=1) / np.sqrt(3)
  low, high = found['interval']
  assert high - low == pytest.approx(2 * half, rel=1e-5)
  assert claims.verdict(found, 1) == 'inconclusive'
  rise = claims.rise(one, 'ood/x')
  assert rise['mean'] == pytest.approx(0.2)
  for bounds, sign, said in (
    ((0.1, 0.3), 1, 'holds'),
    ((0.1, 0.3), -1, 'does not hold'),
    ((-0.3, -0.1), -1, 'holds'),
    ((-0.1, 0.1), 1, 'inconclusive'),
  ):
    assert claims.verdict({'interval': [*bounds]}, sign) == said
  beyond = {'interval': [-0.2, -0.04]}
  assert claims.verdict(beyond, -1, 0.03) == 'holds'
  assert claims.verdict(beyond, -1, 0.1) == 'inconclusive'
  assert claims.verdict(beyond, -1, 0.3) == 'does not hold'
  assert claims.verdict(beyond, 0) == ''


def test_the_richer_the_worse_is_a_rank_correlation():
  claims = script('claims')
  order = [3, 0, 6, 1, 5, 2, 4]  # not that of the names
  scores = dict(zip(claims.RUNGS, order, strict=True))
  arms = {
    name: {'eval/ood/x': of_seeds(1 - 0.1 * score, 1 - 0.2 * score)}
    for name, score in scores.items()
  }
  found = claims.ranked(arms, scores, 'ood/x')
  assert found['mean'] == pytest.approx(-1) and found['seeds'] == 2
  turned = {name: -score for name, score in scores.items()}
  assert claims.ranked(arms, turned, 'ood/x')['mean'] == pytest.approx(1)


def an_arm(claims, **values):
  """Three seeds near some values, all else at .5 and begun at .4."""
  arm = {'seeds': [0, 1, 2]}
  for column in (*claims.COLUMNS, 'ood/brier_sampled'):
    value = values.get(column.replace('/', '_'), 0.5)
    spread = 0.001 * (1 + value)  # so differences vary as well
    arm[f'eval/{column}'] = of_seeds(value, value + spread, value - spread)
    arm[f'eval/{column}']['last'] = value
  return arm


def test_contexts_are_judged_on_the_side_of_the_claim(monkeypatch):
  claims = script('claims')
  ladder = {name: i / 10 for i, name in enumerate(claims.RUNGS)}
  monkeypatch.setattr(claims, 'told_scores', lambda: ladder)
  ends = {'full': 0.2, 'grpo': 0.5, 'none': 0.1, 'kept': 0.4}
  ends |= {'kept_short': 0.3, 'kept_undoubting': 0.45, 'full_ema': 0.2}
  ends |= {'other': 0.1, 'wrong': 0.1}
  ends |= {n: 0.6 - x for n, x in ladder.items() if n not in ends}
  ends['none'] = 0.7
  arms = {
    name: an_arm(
      claims,
      ood_accuracy_greedy=value,
      ood_accuracy_sampled=0.5 + ladder.get(name, 0),
    )
    for name, value in ends.items()
  }
  tests = claims.contexts(arms)[0]['tests']
  assert {k: v['verdict'] for k, v in tests.items() if v['verdict']} == {
    **{'doubts': 'does not hold', 'greedy': 'holds', 'below_grpo': 'holds'},
    # The same order in all seeds: how much it varies is not known.
    **{'richer_greedy': 'inconclusive', 'richer_sampled': 'inconclusive'},
  }
  assert tests['richer_greedy']['mean'] < -0.8
  assert tests['richer_sampled']['mean'] == pytest.approx(1)
  # Looked at: one less the other, as they are named.
  for name, wanted in (
    *(('below_none', -0.5), ('below_kept', -0.2), ('below_full_ema', 0)),
    *(('kept_short', -0.1), ('kept_undoubting', 0.05), ('other', -0.1)),
  ):
    assert tests[name]['mean'] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize('met', [True, False])
def test_calibration_is_tested_where_its_condition_holds(met):
  claims = script('claims')
  names = 'grpo', 'entropy', 'calibrated', 'markers', 'random_mask', 'short'
  arms = {
    'plain': an_arm(
      claims,
      ood_accuracy_greedy=0.4 if met else 0.49,
      ood_markers_per_1k=0.1,
      ood_brier_sampled=0.3,
    )
  } | {name: an_arm(claims) for name in (*names, 'rewarded')}
  arms['calibrated'] = an_arm(claims, ood_brier_sampled=0.2)
  arms['random_mask'] = an_arm(claims, ood_accuracy_greedy=0.6)
  record, text = claims.calibration(arms)
  found = {k: v['verdict'] for k, v in record['tests'].items()}
  assert found['B0_grpo'] == ('holds' if met else 'does not hold')
  assert found['B0_doubts'] == 'holds'  # .1 is below half of .4
  assert found['short'] == found['plain_first'] == found['rewarded'] == ''
  primary = {k: v for k, v in found.items() if k[:2] in ('B1', 'B2', 'B3')}
  assert primary == {
    'B1_entropy': 'holds' if met else '',
    'B1_calibrated': 'holds' if met else '',
    'B1_markers': 'holds' if met else '',
    'B2': 'holds' if met else '',
    'B3': 'refuted' if met else '',
  }
  assert ('nothing that follows is tested' in text) == (not met)
  assert ('Holm' in text) == met


def difference(low, high, seeds=5):
  return {'mean': (low + high) / 2, 'interval': [low, high], 'seeds': seeds}


def test_words_of_a_protocol():
  claims = script('claims')
  for bounds, said in (
    ((0.01, 0.09), 'holds'),
    ((0.005, 0.02), 'too small to matter'),
    ((-0.01, 0.02), 'refuted'),
    ((-0.05, -0.01), 'refuted'),
    ((-0.01, 0.05), 'inconclusive'),
  ):
    found = difference(*bounds)
    record, _ = claims.registered({'a': ('it is better', found, 1, 0.03)})
    assert record['a']['verdict'] == said
    turned = difference(*(-x for x in reversed(bounds)))
    record, _ = claims.registered({'a': ('it is less', turned, -1, 0.03)})
    assert record['a']['verdict'] == said
  # At 95% the second would hold: at Holm's first step it is too wide.
  two = {
    'a': ('a', difference(-0.1, 0.1), 1, 0.03),
    'b': ('b', difference(0.001, 0.2), 1, 0.03),
  }
  record, text = claims.registered(two)
  assert record['b']['verdict'] == 'inconclusive'
  low, high = record['b']['interval']
  # Student's t with 4 degrees of freedom: 2.776 at 95%, 3.495 at 97.5%.
  assert high - low == pytest.approx(0.199 * 3.4954 / 2.7764, rel=1e-4)
  assert '| inconclusive |' in text


def test_what_changes_with_what():
  claims = script('claims')
  arms = [
    {
      'eval/ood/x': of_seeds(0.1, 0.2, first=0),
      'eval/ood/y': of_seeds(0.9, 0.8),
    },
    {'eval/ood/x': of_seeds(0.9, first=0.6), 'eval/ood/y': of_seeds(0.4)},
  ]
  # Changes .1, .2, .3 and .5, .4, 0: in reverse order.
  assert claims.changes_together(arms, 'ood/x', 'ood/y') == {
    'rho': -1,
    'runs': 3,
  }


def test_rungs_are_scored_on_the_same_answers():
  claims = script('claims')
  found = {
    'none': {'told': np.ones(4), 'right': np.array([0.0, 1, 0, 1])},
    'full': {'told': np.array([0.0, 1, 1, 1]), 'right': np.array([1.0, 0, 1])},
    'answer': {
      'told': np.array([1.0, 1, 0, 1]),
      'right': np.array([1.0, 0, 0]),
    },
  }
  # The second and the fourth.
  assert claims.of_all_rungs(found) == {'none': 1, 'full': 1, 'answer': 0}


def test_holm_stops_at_the_first_that_is_not_clear():
  tests = {
    name: difference(mean - 0.1, mean + 0.1)
    for name, mean in (('a', 0.3), ('b', 0.118), ('c', 0.108))
  }
  found = holm(tests)
  p = [found[name]['p'] for name in 'abc']
  assert p[0] < 0.05 / 3 and 0.05 / 2 < p[1] < p[2] < 0.05
  levels = [found[name]['level'] for name in 'abc']
  assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2])
  nothing = holm({'d': difference(0.0, 0.0)})['d']
  assert nothing == {'p': 1, 'level': 0.05}
  with pytest.raises(ValueError, match='e has one seed'):
    holm({'e': {'mean': 0.1, 'interval': None, 'seeds': 1}})


def test_a_student_passes_whom_it_ends_above():
  claims = script('claims')
  metrics = 'test/order_accuracy', 'ood/order_accuracy'
  arm = {f'eval/{m}': of_seeds(0.9, 0.91, 0.92) for m in metrics}
  arm['seeds'] = [0, 1, 2]
  for split, worth in (('test', 0.8), ('ood', 0.95)):
    arm[f'eval/{split}/teacher_order_accuracy'] = {'first': worth}
  names = 'matched_64_soft', 'matched_512_soft', 'broad_512_soft'
  record, text = claims.cross_encoder(dict.fromkeys(names, arm))
  found = record['arms']['broad_512_soft']
  assert found[metrics[0]]['mean'] == pytest.approx(0.11)
  assert found[metrics[1]]['mean'] == pytest.approx(-0.04)
  (claim,) = record['tests'].values()
  assert claim['verdict'] == 'holds' and 'matched_512_soft' in claim['claim']
  assert '0.800 **+0.110**' in text and '0.950 **-0.040**' in text


def test_who_ends_where_known_answers_end():
  claims = script('claims')

  def arm(**values):
    kinds = ('first', 'best', 'last')
    return {'seeds': [0, 1]} | {
      f'eval/test/accuracy_{how}': {
        'by_seed': {
          kind: dict(zip('01', (first, second), strict=True))
          for kind, first, second in zip(kinds, *of_both, strict=True)
        }
      }
      for how, of_both in values.items()
    }

  vote = arm(
    greedy=([0.7, 0.9, 0.88], [0.7, 0.9, 0.9]),
    sampled=([0.5, 0.9, 0.85], [0.5, 0.85, 0.84]),
  )
  found, text = claims.real({'vote': vote})
  reached = {seed: x['reached'] for seed, x in found['arms']['vote'].items()}
  assert reached == {'0': True, '1': False}
  assert '| vote | 0 | 0.700 | 0.900 | 0.880 |' in text


def test_votes_that_teach_and_votes_that_are_lost():
  votes = script('votes')
  said = {
    'unanimous, wrong': (['7', '7', '7', '7'], '8'),
    'unanimous, right': (['8', '8', '08', '8'], '8'),
    'in the band, right': (['8', '8', '8', '1'], '8'),
    'below the band': (['8', '8', '1', '2'], '8'),
    'a tie': (['8', '8', '1', '1'], '8'),
    'none': ([None, None, None, None], '8'),
  }
  records = [
    {'step': step, 'answers': answers, 'known': known}
    for step, (answers, known) in zip(
      (0, 4, 0, 1, 1, 4), said.values(), strict=True
    )
  ]
  later = {'step': 5, 'answers': ['1', '1', '1', '2'], 'known': '2'}
  refused = {'step': 5, 'problem': '1+'}
  first, second = votes.by_steps([*records, later, refused], 0.6, 0.99)
  assert first == {
    'steps': 0,
    'problems': 6,
    'all': {'votes': 4, 'right': 3 / 4},  # a tie and silence are none
    'in_band': {'votes': 1, 'right': 1.0},
    'unanimous': {'votes': 2, 'right': 1 / 2},
  }
  assert votes.by_steps(records, 0.4, 0.6)[0]['in_band']['votes'] == 1
  assert second['problems'] == 1
  assert second['in_band'] == {'votes': 1, 'right': 0.0}
  assert second['unanimous'] == {'votes': 0, 'right': None}


def test_the_readme_shows_the_table_that_is_drawn():
  study = script('self_or_teacher')
  root = pathlib.Path(__file__).parents[1]
  summary = root / 'results' / 'self_or_teacher' / 'summary.json'
  drawn = study.answer(json.loads(summary.read_text())['arms'])
  assert len(drawn.splitlines()) == 3 + len(study.TEACHERS)
  assert drawn in (root / 'README.md').read_text()
