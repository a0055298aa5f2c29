"""Curves show every logged value once, and which run it is of."""

import json

import pytest

from jaxdistill.plots import curves, draw_curves

SAMPLED, GREEDY = 'eval/test/accuracy_sampled', 'eval/test/accuracy_greedy'


@pytest.fixture
def drawn(tmp_path, monkeypatch):
  """Draws runs given as lists of lines; returns the panels by title."""
  kept = []
  monkeypatch.setattr(curves.plt, 'close', kept.append)

  def draw(**runs):
    for name, lines in runs.items():
      (tmp_path / name).mkdir()
      text = ''.join(json.dumps(line) + '\n' for line in lines)
      (tmp_path / name / 'metrics.jsonl').write_text(text)
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


def test_nothing_to_draw_is_said(drawn):
  with pytest.raises(ValueError, match='nothing to draw yet'):
    drawn(run=[{'step': 0, 'unknown': 1.0}])


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no run'):
    draw_curves([tmp_path], tmp_path / 'out.png')
