"""Curves show every logged value once, and which run it is of."""

import json

import pytest
from matplotlib.figure import Figure

from jaxdistill.plots import (
  comparison,
  curves,
  draw,
  draw_comparison,
  draw_curves,
  pass_at,
)

COSTS = 'calibration_error', 'markers_per_1k'
SAMPLED, GREEDY = 'eval/test/accuracy_sampled', 'eval/test/accuracy_greedy'


def figures_of(module, monkeypatch):
  """The figures that a module makes, as they are made."""
  kept = []

  def make(**settings):
    kept.append(Figure(**settings))
    return kept[-1]

  monkeypatch.setattr(module, 'Figure', make)
  return kept


@pytest.fixture
def drawn(tmp_path, monkeypatch):
  """Draws runs given as lists of lines; returns the panels by title."""
  kept = figures_of(curves, monkeypatch)

  def draw(configs=None, alarms=(), **runs):
    for name, lines in runs.items():
      (tmp_path / name).mkdir()
      for file, found in (('metrics', lines), ('alarms', alarms)):
        text = ''.join(json.dumps(line) + '\n' for line in found)
        (tmp_path / name / f'{file}.jsonl').write_text(text)
      if configs:
        text = json.dumps(configs[name])
        (tmp_path / name / 'config.json').write_text(text)
    draw_curves([tmp_path / name for name in runs], tmp_path / 'out.png')
    assert (tmp_path / 'out.png').read_bytes().startswith(b'\x89PNG')
    (figure,) = kept
    return figure, {axis.get_title(): axis for axis in figure.axes}

  return draw


def points(line):
  return list(zip(*line.get_data(), strict=True))


def test_one_run(drawn):
  lines = [
    {'step': 0, SAMPLED: 0.5, 'train/loss': 2.0},
    {'step': 1, 'train/loss': None},  # was not finite
    {'step': 2, SAMPLED: 0.75, 'train/loss': 1.0, 'time/step_s': 3.0},
  ]
  figure, panels = drawn(run=lines)
  titles = {title for title, axis in panels.items() if title}
  assert titles == {'Held-out accuracy', 'Training loss'}
  (sampled,) = panels['Held-out accuracy'].lines
  assert points(sampled) == [(0, 0.5), (2, 0.75)]
  (loss,) = panels['Training loss'].lines
  assert points(loss) == [(0, 2.0), (2, 1.0)]
  assert not figure.legends


def test_what_learning_costs(drawn):
  test, ood = ({n: f'eval/{s}/{n}' for n in COSTS} for s in ('test', 'ood'))
  line = dict.fromkeys(('rollout/markers', 'rollout/markers_per_1k'), 2.0)
  line |= {test[n]: 0.1 for n in COSTS} | {ood[n]: 0.3 for n in COSTS}
  _, panels = drawn(run=[{'step': 0} | line, {'step': 5} | line])
  shown = {
    title: {points(x)[0][1] for x in axis.lines}
    for title, axis in panels.items()
    if title
  }
  assert shown == {
    'Calibration error of the vote': {0.1, 0.3},
    'Doubt words per response': {2.0},
    'Doubt words per 1,000 tokens': {2.0, 0.1, 0.3},
  }


def test_colours_tell_runs_and_styles_tell_series(drawn):
  figure, panels = drawn(
    first=[{'step': 0, SAMPLED: 0.1, GREEDY: 0.2}],
    second=[{'step': 0, SAMPLED: 0.3, GREEDY: 0.4}],
  )
  lines = panels['Held-out accuracy'].lines
  shown = {points(x)[0][1]: (x.get_color(), x.get_linestyle()) for x in lines}
  assert shown[0.1][0] == shown[0.2][0] != shown[0.3][0] == shown[0.4][0]
  assert shown[0.1][1] == shown[0.3][1] != shown[0.2][1] == shown[0.4][1]
  (legend,) = figure.legends
  named = {
    text.get_text(): handle.get_color()
    for text, handle in zip(
      legend.get_texts(), legend.legend_handles, strict=True
    )
  }
  assert named == {'first': shown[0.1][0], 'second': shown[0.3][0]}


def seeds(*names, **more):
  return {name: {'seed': i} | more for i, name in enumerate(names)}


def test_three_seeds_are_a_mean_and_student_s_interval(drawn):
  runs = {
    name: [{'step': 0, 'train/loss': first}, {'step': 4, 'train/loss': last}]
    for name, first, last in (('a', 1, 4), ('b', 2, 4), ('c', 3, 4))
  }
  figure, panels = drawn(configs=seeds(*runs), **runs)
  axis = panels['Training loss']
  (mean,) = axis.lines
  assert points(mean) == [(0, 2.0), (4, 4.0)]
  (band,) = axis.collections
  # Mean 2, standard error 1 / sqrt(3), Student's t of 2 degrees 4.302653.
  found = {tuple(p) for p in band.get_paths()[0].vertices.round(5).tolist()}
  half = 4.302653 / 3**0.5
  assert {(0, round(2 - half, 5)), (0, round(2 + half, 5)), (4, 4)} <= found
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == ['a, b, c (3 seeds)']


def test_two_seeds_are_a_mean_and_thin_lines(drawn):
  _, panels = drawn(
    configs=seeds('a', 'b'),
    a=[{'step': 0, SAMPLED: 0.2}, {'step': 4, SAMPLED: 0.6}],
    b=[{'step': 0, SAMPLED: 0.4}, {'step': 2, SAMPLED: 0.8}],
  )
  axis = panels['Held-out accuracy']
  mean, *thin = axis.lines
  # As far as both reach; at step 2 the first is half-way between its own.
  assert points(mean) == [(0, pytest.approx(0.3)), (2, pytest.approx(0.6))]
  assert [points(line) for line in thin] == [
    [(0, 0.2), (2, pytest.approx(0.4))],
    [(0, 0.4), (2, 0.8)],
  ]
  assert all(line.get_linewidth() < mean.get_linewidth() for line in thin)
  assert {line.get_color() for line in axis.lines} == {'C0'}
  assert not axis.collections


def test_groups_are_named_by_what_differs(drawn):
  lines = [{'step': 0, SAMPLED: 0.2}]
  configs = seeds('a', 'b', 'c', method={'samples': 8, 'kl': 0.1})
  configs |= seeds('d', 'e', method={'samples': 4, 'kl': 0.1})
  configs |= {'f': {'seed': 0, 'method': {'samples': 2, 'kl': 0.1}}}
  figure, panels = drawn(configs=configs, **{name: lines for name in configs})
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == [
    'method.samples=8 (3 seeds)',
    'method.samples=4 (2 seeds)',
    'method.samples=2 (1 seed)',
  ]
  colours = [h.get_color() for h in legend.legend_handles]
  lines = panels['Held-out accuracy'].lines
  assert [x.get_color() for x in lines] == [colours[i] for i in (0, 1, 1, 1, 2)]


def test_groups_that_differ_in_much_are_named_by_their_folder(tmp_path):
  for arm, config in (('x', {'a': 1, 'b': 1, 'c': 1}), ('y', {})):
    for seed in range(2):
      folder = tmp_path / arm / str(seed)
      folder.mkdir(parents=True)
      (folder / 'metrics.jsonl').write_text('{"step": 0}\n')
      text = json.dumps({'seed': seed, 'd': 1} | config)
      (folder / 'config.json').write_text(text)
  folders = [tmp_path / arm / str(seed) for arm in 'xy' for seed in range(2)]
  names = [group.name for group in curves.group_runs(folders)]
  assert names == ['x (2 seeds)', 'y (2 seeds)']
  twice = curves.group_runs([folders[0], folders[0]])
  assert [len(group.runs) for group in twice] == [1, 1]


def test_runs_that_differ_in_more_than_the_seed_are_apart(drawn):
  configs = {'a': {'seed': 0, 'lr': 1}, 'b': {'seed': 1, 'lr': 2}}
  lines = [{'step': 0, SAMPLED: 0.2}]
  figure, panels = drawn(configs=configs, a=lines, b=lines)
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == ['a', 'b']
  assert len(panels['Held-out accuracy'].lines) == 2


def test_alarms_are_marked_on_a_single_run(drawn):
  alarm = {'step': 1, 'alarm': 'greedy', 'metric': GREEDY, 'action': 'rollback'}
  odd = {'step': 2, 'alarm': 'odd', 'metric': 'no/such', 'action': 'warn'}
  lines = [{'step': i, GREEDY: 0.5, 'train/loss': 1.0} for i in range(4)]
  _, panels = drawn(alarms=[odd, alarm], run=lines)
  held_out, loss = panels['Held-out accuracy'], panels['Training loss']
  assert [t.get_text() for t in held_out.texts] == ['greedy', 'odd']
  assert [t.xy[0] for t in held_out.texts] == [1, 2]
  assert not loss.texts
  assert [x.get_xdata()[0] for x in held_out.lines[1:]] == [1, 2]
  assert [x.get_xdata()[0] for x in loss.lines[1:]] == [1]  # it changed the run


def test_nothing_to_draw_is_said(drawn):
  with pytest.raises(ValueError, match='nothing to draw yet'):
    drawn(run=[{'step': 0, 'unknown': 1.0}])


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no run'):
    draw_curves([tmp_path], tmp_path / 'out.png')


def record(split, **pass_at):
  return {f'eval/{split}/pass_at/{k[1:]}': v for k, v in pass_at.items()}


def test_pass_at_has_a_panel_per_split_and_a_colour_per_name(
  tmp_path, monkeypatch
):
  kept = figures_of(pass_at, monkeypatch)
  found = {
    'base-test.json': record('test', k1=0.5, k8=0.9, k64=1.0),
    'tuned-test0.json': record('test', k8=0.8, k1=0.7),
    'tuned-test1.json': record('test', k1=0.6, k8=0.7),
    'base-ood.json': record('ood', k1=0.1, k8=0.2),
  }
  for name, values in found.items():
    (tmp_path / name).write_text(json.dumps({'of': 'x'} | values))
  draw([tmp_path / name for name in found], tmp_path / 'out.png')
  (figure,) = kept
  test, ood = figure.axes
  assert [line.get_ydata().tolist() for line in test.lines] == [
    [0.5, 0.9, 1.0],
    [0.7, 0.8],  # by k, whatever the order in the file
    [0.6, 0.7],
  ]
  colours = [line.get_color() for line in test.lines]
  assert colours[0] != colours[1] == colours[2]
  (line,) = ood.lines
  assert line.get_color() == colours[0]
  names = [t.get_text() for t in test.get_legend().get_texts()]
  assert names == ['base', 'tuned']


def test_files_that_cannot_be_drawn_are_named(tmp_path):
  (tmp_path / 'a.json').write_text('{"of": "x"}')
  with pytest.raises(ValueError, match=r'a\.json has no pass@k'):
    draw([tmp_path / 'a.json'], tmp_path / 'out.png')
  (tmp_path / 'b.json').write_text('{')
  with pytest.raises(ValueError, match='not JSON'):
    draw([tmp_path / 'b.json'], tmp_path / 'out.png')
  with pytest.raises(FileNotFoundError):
    draw([tmp_path / 'c.json'], tmp_path / 'out.png')


def metric(last, interval, by_seed, first=0.5):
  return {
    'first': first,
    'best': last,
    'last': last,
    'mean': last,
    'interval': interval,
    'by_seed': {'last': by_seed},
  }


def test_a_comparison_shows_every_arm_s_end_and_interval(tmp_path, monkeypatch):
  kept = figures_of(comparison, monkeypatch)
  summary = {
    'arms': {
      'sqlm': {GREEDY: metric(0.8, [0.75, 0.85], {0: 0.78, 1: 0.82})},
      'other': {GREEDY: metric(0.4, None, {0: 0.4})},
    },
    'curves': {
      'sqlm': {
        GREEDY: {
          'tokens': [0, 100],
          'mean': [0.5, 0.8],
          'interval': [[0.4, 0.6], [0.75, 0.85]],
        }
      },
      'other': {
        GREEDY: {'tokens': [0, 90], 'mean': [0.5, 0.4], 'interval': [None] * 2}
      },
    },
  }
  draw_comparison(summary, tmp_path / 'out.png')
  (figure,) = kept
  above, below = figure.axes
  assert [points(line) for line in above.lines] == [
    [(0, 0.5), (100, 0.8)],
    [(0, 0.5), (90, 0.4)],
  ]
  assert len(above.collections) == 1  # no band for a single seed
  drawn = [points(line) for line in below.lines]
  assert [(0.75, 0), (0.85, 0)] in drawn  # the interval
  assert [(0.8, 0)] in drawn and [(0.4, 1)] in drawn  # where the arms ended
  assert [(0.78, 0), (0.82, 0)] in drawn  # the seeds
  low, high = below.get_xlim()
  assert low < 0.4 and high > 0.82
  # Of two seeds a thin line each, in the place of the band.
  summary['curves']['sqlm'][GREEDY]['by_seed'] = {
    '0': [0.5, 0.78],
    '1': [0.5, 0.82],
  }
  draw_comparison(summary, tmp_path / 'out.png')
  above = kept[1].axes[0]
  assert [(0, 0.5), (100, 0.78)] in [points(line) for line in above.lines]
  assert [(0, 0.5), (100, 0.82)] in [points(line) for line in above.lines]
  assert not above.collections
  with pytest.raises(ValueError, match='nothing to draw: no run'):
    draw_comparison({'arms': {}, 'curves': {}}, tmp_path / 'out.png')


def test_panels_of_shares_are_panels():
  assert curves.PANELS.keys() >= curves.SHARES
