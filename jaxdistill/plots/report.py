"""A run in one page that needs nothing else: `report.html`."""

import functools
import html
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from importlib import resources
from typing import Any

import jinja2
import matplotlib
from etils import epath
from matplotlib.figure import Figure

from jaxdistill.plots.curves import (
  ALARMS,
  Group,
  draw_panel,
  make_room,
  marks_of,
  panels_of,
)
from jaxdistill.plots.files import (
  points_of,
  read_alarms,
  read_json,
  read_metrics,
  read_transcripts,
)
from jaxdistill.plots.verdict import verdict

MOST_TRANSCRIPTS = 2000
MOST_STRIPS = 100  # that tell a panel's values under the pointer
_INK = '#010203'
# Colours in the figures -> those of the page, which follow light and dark.
_COLOURS = {
  _INK: 'currentColor',
  '#4d4d4d': 'currentColor',
  **{
    f'#{c}': f'var(--c{i})'
    for i, c in enumerate(('1f77b4', 'ff7f0e', '2ca02c', 'd62728'))
  },
  ALARMS['warn']: 'var(--warn)',
  ALARMS['rollback']: 'var(--alarm)',
}
_STYLE: Any = {
  **{f'{k}.facecolor': 'none' for k in ('figure', 'axes', 'savefig')},
  **{f'{k}.color': _INK for k in ('text', 'xtick', 'ytick')},
  'axes.edgecolor': _INK,
  'axes.labelcolor': _INK,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'legend.edgecolor': 'none',
  'svg.fonttype': 'none',
  'svg.hashsalt': 'jaxdistill',
}
# What a transcript came to -> how it is called.
OUTCOMES = {
  'right': 'right',
  'wrong': 'wrong',
  'none': 'no majority',
  'rejected': 'rejected',
  'unknown': 'answer not known',
  'unread': 'not judged',
  'kept': 'something kept',
  'dropped': 'nothing kept',
}


def write_report(
  workdir: epath.PathLike, out: epath.PathLike | None = None
) -> epath.Path:
  """Writes a run, finished or not, as one page of HTML.

  Args:
    workdir: The run's folder.
    out: The file; `report.html` in the folder if None.

  Returns:
    The file.

  Raises:
    FileNotFoundError: The folder holds no run.
  """
  root = epath.Path(workdir)
  metrics = [line for line in read_metrics(root) if 'step' in line]
  config, summary = (
    read_json(root / f'{x}.json') for x in ('config', 'summary')
  )
  alarms = read_alarms(root)
  transcripts, total = read_transcripts(root, MOST_TRANSCRIPTS)
  transcripts = [{'outcome': outcome(x)} | tally(x) | x for x in transcripts]
  seen = {x['outcome'] for x in transcripts}
  page = _template().render(
    # A run of a comparison is ARM/SEED.
    name='/'.join(root.parts[-1 - root.name.isdecimal() :]) or str(root),
    rollouts=str(root / 'rollouts'),
    verdict=verdict(config, metrics, alarms, summary),
    panels=draw_svgs(metrics, alarms),
    alarms=alarms,
    transcripts=transcripts,
    total=total,
    outcomes={k: v for k, v in OUTCOMES.items() if k in seen},
    config=config,
    facts=_facts(config, metrics, summary),
    versions=summary.get('versions', {}),
  )
  out = root / 'report.html' if out is None else epath.Path(out)
  # A model may write half a surrogate pair, which UTF-8 has no form for.
  out.write_bytes(page.encode('utf-8', 'replace'))
  return out


@functools.cache
def _template() -> jinja2.Template:
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.policies['json.dumps_kwargs'] = {'separators': (',', ':')}
  environment.filters |= {'share': '{:.1%}'.format, 'points': _points}
  file = resources.files('jaxdistill.plots') / 'report.html.j2'
  return environment.from_string(file.read_text('utf-8'))


def _points(value: float) -> str:
  return f'{value * 100:+.1f}'.replace('-', '\N{MINUS SIGN}')


def outcome(record: Mapping[str, Any]) -> str:
  """What a transcript came to: a key of `OUTCOMES`.

  It is the vote that is right or wrong; where there is no vote, most of the
  answers; where nothing could be right, texts are kept or not.
  """
  known, answers = record.get('known'), record.get('answers') or ()
  if record.get('rejected'):
    return 'rejected'
  if 'vote' in record and record['vote'] is None:
    return 'none'
  if 'vote' not in record and not any(x is not None for x in answers):
    if known is not None and answers:
      return 'wrong'
    if 'kept' in record:
      return 'kept' if any(record['kept']) else 'dropped'
    return 'unread'
  if known is None:
    return 'unknown'
  if 'vote' in record:
    return 'right' if _same(record['vote'], known) else 'wrong'
  return 'right' if 2 * _right(answers, known) > len(answers) else 'wrong'


def tally(record: Mapping[str, Any]) -> dict[str, str]:
  """How many answers are right, or kept, where no vote says it."""
  known, answers = record.get('known'), record.get('answers') or ()
  if outcome(record) == 'kept':
    return {'tally': f'{sum(record["kept"])} of {len(record["kept"])} kept'}
  if known is None or len(answers) < 2 or {'vote', 'rejected'} & record.keys():
    return {}
  return {'tally': f'{_right(answers, known)} of {len(answers)} right'}


def _right(answers: Sequence[Any], known: Any) -> int:
  return sum(_same(answer, known) for answer in answers)


def _same(answer: Any, known: Any) -> bool:
  texts = [str(x).strip().replace(',', '') for x in (answer, known)]
  if texts[0] == texts[1]:
    return True
  if any(len(t) > 40 or 'e' in t.lower() for t in texts):
    return False
  try:
    return Fraction(texts[0]) == Fraction(texts[1])
  except (ValueError, ZeroDivisionError):
    return False


def draw_svgs(
  metrics: Sequence[Mapping[str, Any]], alarms: Sequence[Mapping[str, Any]]
) -> list[str]:
  """The panels of a run, each as an SVG in the colours of the page."""
  groups = [Group('', [metrics])]
  panels = panels_of(groups)
  marks = marks_of(alarms, panels)
  drawn = []
  with matplotlib.rc_context(_STYLE):
    for i, (title, series) in enumerate(panels.items()):
      figure = Figure(figsize=(5, 3.3), dpi=72)
      axis = figure.subplots()
      make_room(figure, 1, 1)
      draw_panel(axis, title, series, groups, marks[title])
      file = io.StringIO()
      figure.savefig(file, format='svg', dpi=72, metadata={'Date': None})
      strips = _strips(axis, series, metrics, alarms)
      drawn.append(_inline(file.getvalue(), f'p{i}-', title, strips))
  return drawn


def _inline(text: str, prefix: str, title: str, strips: Iterable[str]) -> str:
  """An SVG as it may stand in a page beside others."""
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.S)
  text = re.sub(r'(<svg[^>]*?) width="\S+"', r'\1', text, count=1)
  text = re.sub(r'(<svg[^>]*?) height="\S+"', r'\1', text, count=1)
  text = re.sub(r'( id="|href="#|url\(#)', rf'\1{prefix}', text)
  text = re.sub(r"'DejaVu Sans'[^;\"]*", 'system-ui, sans-serif', text)
  for colour, name in _COLOURS.items():
    text = text.replace(colour, name)
  label = f'<svg role="img" aria-label="{html.escape(title)}"'
  text = text.replace('<svg', label, 1)
  return text.replace('</svg>', '\n'.join(strips) + '\n</svg>')


def _strips(
  axis: Any,
  series: Sequence[tuple[str, str, str]],
  metrics: Sequence[Mapping[str, Any]],
  alarms: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
  """Invisible strips over a panel, whose titles tell the values there."""
  found: dict[float, list[str]] = {}
  for name, label, _ in series:
    for step, value in points_of(metrics, name):
      found.setdefault(step, []).append(f'{label}: {value:.4g}')
  every = -(-len(found) // MOST_STRIPS)
  steps = sorted(found)[::every]
  for alarm in alarms:
    nearest = min(steps, key=lambda x, at=alarm['step']: abs(x - at))
    name, action = alarm.get('alarm'), alarm.get('action')
    found[nearest].append(f'alarm {name} at step {alarm["step"]}: {action}')
  height = axis.figure.bbox.height
  box = axis.bbox
  places = [axis.transData.transform((step, 0))[0] for step in steps]
  edges = [
    box.x0,
    *((a + b) / 2 for a, b in itertools.pairwise(places)),
    box.x1,
  ]
  for step, (left, right) in zip(steps, itertools.pairwise(edges), strict=True):
    title = html.escape('\n'.join((f'step {step}', *found[step])))
    yield (
      f'<rect class="tip" x="{left:.1f}" y="{height - box.y1:.1f}" '
      f'width="{right - left:.1f}" height="{box.height:.1f}">'
      f'<title>{title}</title></rect>'
    )


def _facts(
  config: Mapping[str, Any],
  metrics: Sequence[Mapping[str, Any]],
  summary: Mapping[str, Any],
) -> dict[str, str]:
  """What the run ran on and what it took, as far as it is known."""
  last = metrics[-1] if metrics else {}
  seconds = summary.get('wall_s', last.get('time'))
  tokens = summary.get('tokens', last.get('rollout/tokens'))
  scored = summary.get('scored', last.get('rollout/scored'))
  found = {
    'state': 'finished' if summary else 'not finished',
    'device': summary.get('device'),
    'attention': summary.get('attention'),
    'seed': summary.get('seed', config.get('seed')),
    'model': config.get('model'),
    'SHA-256 of the model it began from': summary.get('model'),
    'wall time': None if seconds is None else _time(seconds),
    'tokens generated': None if tokens is None else f'{tokens:,}',
    'tokens scored by others': f'{scored:,}' if scored else None,
    'optimizer steps': summary.get('optimizer_steps'),
    'updates skipped (not finite)': summary.get('skipped_updates'),
  }
  return {k: str(v) for k, v in found.items() if v is not None}


def _time(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes} min'
  return f'{minutes} min {rest} s' if minutes else f'{rest} s'
