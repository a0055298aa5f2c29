"""Arms over seeds: what they come to, and what a cut leaves to do."""

import json

import pytest

from jaxdistill import config as configs
from jaxdistill.checkpoint import RefusedError
from jaxdistill.cli.main import main
from jaxdistill.plots import comparison as comparison_plot
from jaxdistill.run import compare, loop

GREEDY, SAMPLED = 'eval/test/accuracy_greedy', 'eval/test/accuracy_sampled'
ARMS = """
from jaxdistill.config import Comparison, base_config

def get_config():
  base = base_config('grpo')
  base.steps, base.tokens = 50, 600
  base.eval_every, base.checkpoint_every = 2, 1
  base.method.problems, base.method.samples = 2, 2
  base.eval.splits = ('dev', 'test')
  base.eval.problems, base.eval.samples = 4, 2
  base.guard.problems, base.batch.sequences = 4, 4
  arms = {'plain': {}, 'dapo': {'method.objective': 'dapo'}}
  return Comparison(base, arms, {'plain': (0, 1), 'dapo': (1,)})
"""


def fake(root, arm, seed, lines):
  """Leaves what a finished run leaves; `lines` are metrics by step."""
  folder = root / arm / str(seed)
  folder.mkdir(parents=True)
  records = [
    {'step': i, 'rollout/tokens': 100 * min(i + 1, len(lines) - 1)} | line
    for i, line in enumerate(lines)
  ]
  text = ''.join(json.dumps(record) + '\n' for record in records)
  (folder / 'metrics.jsonl').write_text(text)
  facts = {
    'tokens': records[-1]['rollout/tokens'],
    'wall_s': 10.0 * (seed + 1),
    'optimizer_steps': 20 + seed,
    'device': 'cpu',
    'versions': {'jax': '1'},
  }
  (folder / 'summary.json').write_text(json.dumps(facts))


def evaluated(test, dev):
  return {GREEDY: test, 'eval/dev/accuracy_greedy': dev}


@pytest.fixture
def comparison():
  arms = {'base': {}, 'other': {'method.kl': 0.0}}
  return configs.Comparison(configs.base_config('sqlm'), arms, (0, 1, 2))


def test_what_arms_come_to_by_hand(comparison, tmp_path):
  for seed, last in enumerate((0.7, 0.8, 0.9)):
    lines = [
      evaluated(0.5, 0.5),
      {},
      evaluated(0.95, 0.6),
      evaluated(last, 0.6),
    ]
    fake(tmp_path, 'base', seed, lines)
  for seed, last in ((0, 0.8), (1, 0.8)):
    fake(tmp_path, 'other', seed, [evaluated(0.5, 0.5), evaluated(last, 0.6)])
  found = compare.summarise(comparison, tmp_path)
  assert (found['finished'], found['planned']) == (5, 6)
  base, other = found['arms']['base'], found['arms']['other']
  assert base['seeds'] == [0, 1, 2] and other['seeds'] == [0, 1]
  assert base['tokens'] == 300 and base['wall_s'] == 20
  assert base['optimizer_steps'] == 21
  assert found['device'] == 'cpu' and found['versions'] == {'jax': '1'}
  greedy = base[GREEDY]
  assert greedy['first'] == 0.5 and greedy['best'] == pytest.approx(0.95)
  # On dev steps 2 and 3 are equally good: the earlier is chosen.
  assert greedy['dev_selected'] == pytest.approx(0.95)
  assert greedy['last'] == greedy['mean'] == pytest.approx(0.8)
  # Standard deviation .1, three seeds, t(.975, 2) = 4.3027.
  half = 4.302653 * 0.1 / 3**0.5
  assert greedy['interval'] == pytest.approx([0.8 - half, 0.8 + half])
  assert greedy['by_seed']['last'] == {0: 0.7, 1: 0.8, 2: 0.9}
  assert greedy['rise']['mean'] == pytest.approx(0.3)
  assert greedy['rise']['interval'] == pytest.approx([0.3 - half, 0.3 + half])
  # Over the seeds that both have: .1 and 0, t(.975, 1) = 12.7062.
  apart = other[GREEDY]['difference']
  half = 12.706205 * 0.1 / 2**0.5 / 2**0.5
  assert apart['mean'] == pytest.approx(0.05)
  assert apart['interval'] == pytest.approx([0.05 - half, 0.05 + half])
  assert base[GREEDY]['difference']['interval'] == pytest.approx([0, 0])


def test_metrics_of_any_name_are_summarised(comparison, tmp_path):
  lines = [
    {'train/gap': 0.25, 'rollout/entropy': 0.5, 'time/step_s': 1.0},
    {'tsr/own_gap': 0.75, 'rollout/entropy': 0.125},
  ]
  fake(tmp_path, 'base', 0, [evaluated(0.5, 0.5) | line for line in lines])
  arm = compare.summarise(comparison, tmp_path)['arms']['base']
  ends = {'first': 0.5, 'last': 0.125}
  assert {k: arm['rollout/entropy'][k] for k in ends} == ends
  assert arm['train/gap']['last'] == 0.25  # where it was there last
  assert arm['tsr/own_gap']['by_seed']['first'] == {0: 0.75}
  assert 'best' not in arm['rollout/entropy']
  assert not [name for name in arm if name.startswith('time/')]
  assert not {'rollout/tokens', 'rollout/scored', 'step'} & {*arm}


def test_curves_are_over_equal_tokens(comparison, tmp_path):
  fake(tmp_path, 'base', 0, [evaluated(0.0, 0), {}, evaluated(0.8, 0)])
  fake(tmp_path, 'base', 1, [evaluated(0.4, 0), evaluated(0.6, 0)])
  found = compare.summarise(comparison, tmp_path)
  curve = found['curves']['base'][GREEDY]
  by_tokens = dict(zip(curve['tokens'], curve['mean'], strict=True))
  # Before any token; the second run ends at 100, the first is halfway there.
  assert by_tokens[0] == pytest.approx(0.2)
  assert by_tokens[100] == pytest.approx((0.4 + 0.6) / 2)
  assert by_tokens[200] == pytest.approx((0.8 + 0.6) / 2)
  assert curve['interval'][0] is not None
  assert 'other' not in found['arms']


def test_one_seed_has_no_interval(comparison, tmp_path):
  fake(tmp_path, 'base', 0, [evaluated(0.5, 0.5), evaluated(0.6, 0.5)])
  found = compare.summarise(comparison, tmp_path)
  assert found['arms']['base'][GREEDY]['interval'] is None
  assert '| 0.600 |' in compare.table(found).replace('**', '')


def test_the_table_marks_what_is_beyond_its_interval(comparison, tmp_path):
  for seed, noise in enumerate((0, 0.01, 0.02)):
    fake(tmp_path, 'base', seed, [evaluated(0.5, 0), evaluated(0.6 + noise, 0)])
    worse = 0.4 + noise + 0.001 * seed
    fake(tmp_path, 'other', seed, [evaluated(0.5, 0), evaluated(worse, 0)])
  row, *_, cost = (
    line
    for line in compare.table(
      compare.summarise(comparison, tmp_path)
    ).splitlines()
    if line.startswith('| other')
  )
  assert cost == '| other | 100 | 0 | 21.0 | 0.3 |'
  cells = [cell.strip() for cell in row.split('|')[1:-1]]
  assert cells[:6] == ['other', '3', '0.500', '0.500', '0.500', '**0.411**']
  assert cells[7:9] == ['**-0.089**', '**-0.199**']
  low, high = map(float, cells[9].split(' to '))
  assert low < -0.199 < high < 0


def test_what_all_seeds_share_to_the_last_digit_is_not_bold(
  comparison, tmp_path
):
  for seed in (0, 1, 2):  # .1 three times is not .1 on average
    fake(tmp_path, 'base', seed, [evaluated(0.5, 0), evaluated(0.6, 0)])
  table = compare.table(compare.summarise(comparison, tmp_path))
  assert '| +0.100 |' in table and '**+0.100**' not in table


def test_a_teacher_is_in_the_table_and_in_the_figure(comparison, tmp_path):
  order, teacher = (f'eval/test/{x}order_accuracy' for x in ('', 'teacher_'))
  for seed in (0, 1):
    lines = [{order: 0.5, teacher: 0.9}, {order: 0.7 + seed, teacher: 0.9}]
    fake(tmp_path, 'base', seed, lines)
  found = compare.summarise(comparison, tmp_path)
  assert '| held out, order of pairs, the teacher |' in compare.table(found)
  assert comparison_plot._teachers(found['arms'], order) == [0.9]
  assert comparison_plot._teachers(found['arms'], GREEDY) == []
  comparison_plot.draw_comparison(found, tmp_path / 'x.png')
  assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


def test_a_last_step_far_beyond_the_budget_is_told(comparison, tmp_path):
  comparison.base.tokens = 100
  fake(tmp_path, 'base', 0, [evaluated(0.5, 0), evaluated(0.6, 0)])
  table = compare.table(compare.summarise(comparison, tmp_path))
  assert 'beyond the budget' not in table
  fake(tmp_path, 'other', 0, [evaluated(0.5, 0), {}, evaluated(0.6, 0)])
  table = compare.table(compare.summarise(comparison, tmp_path))
  assert 'took other more than 5% beyond the budget of 100 tokens' in table


def test_the_first_seed_of_every_arm_comes_first(comparison, tmp_path):
  order = [(arm, seed) for arm, seed, _ in compare.runs(comparison, tmp_path)]
  assert order[:3] == [('base', 0), ('other', 0), ('base', 1)]
  assert len(order) == 6


def test_it_does_not_begin_inside_of_a_run(comparison, tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(RefusedError, match='holds a single run'):
    compare.check_folders(comparison, tmp_path)
  assert [x.name for x in tmp_path.iterdir()] == ['config.json']


def test_cut_and_started_again_it_goes_on(mesh, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'arms.py').write_text(ARMS)
  argv = ['compare', '--config', 'arms.py', '--workdir', 'w']
  train_step, taken = loop.Loop._train_step, []

  def counted(self, step):
    taken.append((self.workdir.path.parent.name, self.run.seed, step))
    if taken.count(('dapo', 1, 2)) == 1 and taken[-1] == ('dapo', 1, 2):
      raise KeyboardInterrupt
    return train_step(self, step)

  monkeypatch.setattr(loop.Loop, '_train_step', counted)
  assert main(argv) == 130
  first = [step for arm, _, step in taken if arm == 'plain']
  assert first == list(range(len(first))) and len(first) > 1
  assert not (tmp_path / 'w' / 'summary.json').exists()
  finished = (tmp_path / 'w/plain/0/metrics.jsonl').read_text()
  capsys.readouterr()

  before = len(taken)
  assert main(argv) == 0
  said = capsys.readouterr().out
  assert '1 of 3: plain, seed 0, finished' in said
  assert (
    '3 of 3: plain, seed 1\n' in said and '3 of 3 runs are finished.' in said
  )
  again = taken[before:]
  assert ('plain', 0) not in {(arm, seed) for arm, seed, _ in again}
  # What was being saved when it was interrupted is whole.
  assert next(step for arm, _, step in again if arm == 'dapo') == 2
  assert (tmp_path / 'w/plain/0/metrics.jsonl').read_text() == finished

  summary = json.loads((tmp_path / 'w/summary.json').read_text())
  assert summary['arms'].keys() == {'plain', 'dapo'}
  assert summary['arms']['plain']['seeds'] == [0, 1]
  for arm, seed, folder in compare.runs(
    configs.read_comparison('arms.py', []), 'w'
  ):
    lines = [json.loads(x) for x in (folder / 'metrics.jsonl').open()]
    spent = [line['rollout/tokens'] + line['rollout/scored'] for line in lines]
    # The last step is the one that spent the budget; then it is evaluated.
    assert spent[-1] == spent[-2] >= 600 > spent[-3], (arm, seed)
    metric = summary['arms'][arm][SAMPLED]
    assert metric['by_seed']['last'][str(seed)] == lines[-1][SAMPLED]
    assert {'first', 'best', 'last', 'dev_selected', 'mean'} <= metric.keys()
  assert (tmp_path / 'w/compare.png').read_bytes().startswith(b'\x89PNG')
  before = len(taken)
  assert main(argv) == 0 and len(taken) == before

  (tmp_path / 'arms.py').write_text(ARMS.replace('600', '700'))
  capsys.readouterr()
  assert main(argv) == 2
  assert 'tokens was 600, now 700' in capsys.readouterr().err
