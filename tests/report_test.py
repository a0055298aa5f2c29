"""The report says what a run came to, and shows texts as text."""

import html.parser
import json
import re

import pytest
from accounts import ALARM, CONFIG, GREEDY, SUMMARY, evaluated

from jaxdistill.plots import draw, write_report
from jaxdistill.plots.files import read_transcripts
from jaxdistill.plots.report import draw_svgs, outcome, tally
from jaxdistill.plots.verdict import verdict

RECORD = {
  'topic': 'propose add:',
  'proposal': '1+1',
  'proposer_reward': 1.0,
  'problem': '1+1',
  'known': '2',
  'vote': '2',
  'answers': ['2', '2', None],
  'rewards': [1.0, 1.0, 0.0],
  'texts': ['1+1=2;2', '1+1=2;2', '1+1'],
}


class Page(html.parser.HTMLParser):
  """What a browser would see: tags, text outside scripts, JSON by id."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.words, self.json = [], [], {}
    self._script = None
    self.feed(text)
    self.text = ' '.join(' '.join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag in ('script', 'style'):
      self._script = dict(attrs).get('id', '')

  def handle_endtag(self, tag):
    if tag in ('script', 'style'):
      self._script = None

  def handle_data(self, data):
    if self._script is None:
      self.words.append(data)
    elif self._script:
      self.json[self._script] = json.loads(data)


@pytest.fixture
def report(tmp_path):
  """Writes a run and its report; returns the page."""

  def write(metrics, config=CONFIG, summary=None, alarms=(), rollouts=None):
    def lines(values):
      return ''.join(json.dumps(x) + '\n' for x in values)

    (tmp_path / 'config.json').write_text(json.dumps(config))
    (tmp_path / 'metrics.jsonl').write_text(lines(metrics))
    if summary:
      (tmp_path / 'summary.json').write_text(json.dumps(summary))
    if alarms:
      (tmp_path / 'alarms.jsonl').write_text(lines(alarms))
    for name, records in (rollouts or {}).items():
      (tmp_path / 'rollouts').mkdir(exist_ok=True)
      (tmp_path / 'rollouts' / name).write_text(lines(records))
    path = write_report(tmp_path)
    assert path == tmp_path / 'report.html'
    return Page(path.read_text(encoding='utf-8'))

  return write


def test_a_seed_of_an_arm_is_named_by_both(tmp_path):
  folder = tmp_path / 'some_arm' / '0'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text('{}')
  (folder / 'metrics.jsonl').write_text('{"step": 0}\n')
  assert 'some_arm/0' in write_report(folder).read_text()


def test_a_ranking_is_measured_too(report):
  name = 'eval/test/order_accuracy'
  page = report([{'step': 0, name: 0.5}, {'step': 1, name: 0.75}])
  assert 'Nothing was measured' not in page.text
  assert (
    'Order of pairs of items: 50.0% → 75.0% right (noise unknown: several are '
    'of one item'
  ) in page.text
  assert 'Pairs of items in the right order' in page.text


def test_a_guard_that_does_not_act_only_warns(report):
  page = report(
    evaluated((0.5, 0.9)),
    config=CONFIG | {'guard': {'act': False}},
    alarms=[ALARM],
  )
  assert 'Alarms went off once: 1 warning.' in page.text
  assert 'rollback' not in page.text


def test_the_whole_page(report):
  page = report(
    evaluated((0.5, 0.9), (0.8, 0.9)),
    summary=SUMMARY,
    alarms=[ALARM],
    rollouts={'000000.jsonl': [RECORD]},
  )
  order = [
    page.text.index(x)
    for x in (
      'It got better.',
      'Curves',
      'Alarms step',
      'Transcripts',
      'Config',
      'Environment',
    )
  ]
  assert order == sorted(order)
  for told in (
    *(
      '40.4% to 59.6%',
      '+30.0',
      'rose, beyond noise',
      'alarm greedy at step 1: rollback',
    ),
    *('It is losing what it knew.', '0.41', '1 h 2 min', '12,345', '956ec249'),
    *('0.02', 'jax 0.10.2', 'Every problem of this run'),
  ):
    assert told in page.text, told
  (record,) = page.json['transcripts']
  assert record == RECORD | {'step': 0, 'outcome': 'right'}
  assert page.json['outcomes'] == {'right': 'right'}


def test_nothing_comes_from_elsewhere(report):
  page = report(evaluated((0.5, 0.9)), rollouts={'000000.jsonl': [RECORD]})
  for _, attributes in page.tags:
    for name in ('src', 'href', 'xlink:href', 'srcset', 'data'):
      assert (attributes.get(name) or '#').startswith(('#', 'data:'))
  ids = [a['id'] for _, a in page.tags if 'id' in a]
  assert len({*ids}) == len(ids)
  used = [a['xlink:href'][1:] for _, a in page.tags if 'xlink:href' in a]
  assert used and {*used} <= {*ids}


def test_markup_in_any_text_is_text(report, tmp_path):
  evil = '</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'
  record = {k: evil for k in ('topic', 'problem', 'vote', 'known', 'more')}
  record |= {'answers': [evil], 'texts': [evil], 'rewards': [1.0]}
  clean = report(
    evaluated((0.5, 0.9)),
    config=CONFIG | {'task': 'x'},
    alarms=[ALARM],
    rollouts={'000000.jsonl': [RECORD]},
  )
  page = report(
    evaluated((0.5, 0.9)),
    config=CONFIG | {'task': evil},
    alarms=[ALARM | {'said': evil, 'alarm': evil}],
    rollouts={'000000.jsonl': [record]},
  )
  tags = [tag for tag, _ in page.tags]
  assert tags.count('script') == [tag for tag, _ in clean.tags].count('script')
  assert 'img' not in tags
  (found,) = page.json['transcripts']
  assert found['texts'] == [evil] and found['more'] == evil
  assert page.text.count(evil) >= 3  # the alarm's two, and the config's
  assert '<script>alert' not in (tmp_path / 'report.html').read_text()


def test_a_run_that_is_not_finished(report, tmp_path):
  (tmp_path / 'rollouts').mkdir()
  page = report([*evaluated((0.5, 0.9), (0.9, 0.9))], rollouts={})
  assert 'It got better so far.' in page.text
  assert 'The run is not finished: 2 of 4 steps are logged.' in page.text
  assert 'Transcripts' not in page.text and 'Alarms' not in page.text
  assert not page.json
  ended = verdict(CONFIG, [{'step': 4}], [], {})
  assert '4 of 4 steps are logged.' in ended['lead'][-1]
  # Half a line at the end of each file, and half a summary.
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 2, "a": {"b": 1}')
  (tmp_path / 'alarms.jsonl').write_text(json.dumps(ALARM) + '\n{"step": 7}}')
  (tmp_path / 'rollouts/000000.jsonl').write_text(
    json.dumps(RECORD) + '\n' + json.dumps(RECORD)[:-9]
  )
  (tmp_path / 'summary.json').write_text('{"seed": ')
  page = Page(write_report(tmp_path).read_text())
  assert '2 of 4 steps' in page.text and '1 rollback.' in page.text
  assert len(page.json['transcripts']) == 1


@pytest.mark.parametrize('metrics', [[], [{'step': 0, 'train/loss': None}]])
def test_a_run_that_measured_nothing(report, metrics):
  page = report(metrics)
  assert 'Nothing was measured on held-out problems.' in page.text
  assert 'There is no held-out evaluation' in page.text
  assert 'Curves' not in page.text


def test_a_folder_without_a_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='holds no run'):
    write_report(tmp_path)


def test_letters_of_any_language(report, tmp_path):
  texts = ['Antwort: ½', '答えは二', '\u2028', '\ud800']
  record = RECORD | {'texts': texts, 'problem': '1 + 1 = ¿?'}
  page = report(
    evaluated((0.5, 0.9)),
    config=CONFIG | {'task': '数\ud800'},
    rollouts={'000000.jsonl': [record]},
  )
  assert page.json['transcripts'][0]['texts'] == texts
  assert page.json['transcripts'][0]['problem'] == '1 + 1 = ¿?'
  assert '数?' in page.text
  # A model's bytes that are no UTF-8 at all.
  path = tmp_path / 'rollouts/000001.jsonl'
  path.write_bytes(json.dumps(RECORD).encode() + b'\n{"problem": "\xff"}\n')
  page = Page(write_report(tmp_path).read_text(encoding='utf-8'))
  assert page.json['transcripts'][-1]['problem'] == '\N{REPLACEMENT CHARACTER}'


def test_transcripts_are_spread_over_steps_and_hosts(tmp_path):
  (tmp_path / 'rollouts').mkdir()
  for step in range(3):
    for host in range(2):
      lines = [{'problem': f'{step}.{host}.{i}'} for i in range(4)]
      (tmp_path / f'rollouts/{step:06d}.{host}.jsonl').write_text(
        ''.join(json.dumps(x) + '\n' for x in lines)
      )
  (tmp_path / 'rollouts/notes.txt').write_text('{}')
  found, total = read_transcripts(tmp_path, 100)
  assert len(found) == total == 24
  assert {x['step'] for x in found} == {0, 1, 2}
  found, total = read_transcripts(tmp_path, 7)
  assert total == 24
  assert [(x['step'], x['problem']) for x in found] == [
    *((0, '0.0.0'), (0, '0.1.0'), (1, '1.0.0')),
    *((1, '1.1.0'), (2, '2.0.0'), (2, '2.1.0')),
  ]
  found, _ = read_transcripts(tmp_path, 2)  # fewer than there are steps
  assert [x['step'] for x in found] == [0, 1]
  size = len('{"problem": "0.0.0"}')
  found, _ = read_transcripts(tmp_path, 100, most_text=6 * size)
  assert [x['step'] for x in found] == [0, 0, 1, 1, 2, 2]


def test_what_is_left_out_is_said(report, monkeypatch, tmp_path):
  monkeypatch.setattr('jaxdistill.plots.report.MOST_TRANSCRIPTS', 2)
  page = report([{'step': 0}], rollouts={'000000.jsonl': [RECORD] * 5})
  assert '2 of 5, spread evenly over the steps' in page.text
  assert str(tmp_path / 'rollouts') in page.text


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    ({}, 'right'),
    ({'vote': '2.0'}, 'right'),
    ({'known': '1,000', 'vote': '1000'}, 'right'),
    ({'known': '1/2', 'vote': '0.5'}, 'right'),
    ({'vote': '3'}, 'wrong'),
    ({'vote': 'x/0'}, 'wrong'),
    ({'vote': '1e999999999'}, 'wrong'),  # and quickly
    ({'vote': None}, 'none'),
    ({'known': None}, 'unknown'),
    ({'rejected': 'malformed'}, 'rejected'),
  ],
)
def test_outcomes(change, wanted):
  assert outcome(RECORD | change) == wanted


def test_outcomes_without_a_vote():
  record = {'known': '2', 'answers': ['2', '2', '1']}
  assert outcome(record) == 'right'
  assert outcome(record | {'answers': ['2', '1']}) == 'wrong'
  assert outcome({'known': None, 'answers': ['2']}) == 'unknown'
  assert outcome({'known': '2', 'texts': ['it is 2']}) == 'unread'
  assert outcome({'anything': 1}) == 'unread'
  edits = {'known': None, 'answers': [None] * 3, 'kept': [True, False, True]}
  assert outcome(edits) == 'kept'
  assert tally(edits) == {'tally': '2 of 3 kept'}
  assert outcome(edits | {'kept': [False] * 3}) == 'dropped'
  assert outcome(edits | {'known': '2'}) == 'wrong'
  # A passage has no answer, and an answer that cannot be read is wrong.
  assert outcome({'known': None, 'answers': [None, None]}) == 'unread'
  # How many are right stands there, unless a vote says it.
  assert tally(record) == {'tally': '2 of 3 right'}
  assert tally(record | {'answers': [None, None]}) == {'tally': '0 of 2 right'}
  for other in {'vote': None}, {'known': None}, {'answers': ['2']}:
    assert tally(record | other) == {}
  assert outcome({'known': '2', 'answers': [None, None]}) == 'wrong'


def test_alarms_are_named_on_the_curve_of_their_metric():
  metrics = [
    {'step': i, GREEDY: 0.5, 'train/loss': 0.1, 'rollout/cut': 0.4}
    for i in range(4)
  ]
  warning = {
    'step': 2,
    'alarm': 'loss',
    'metric': 'train/loss',
    'action': 'warn',
  }
  held_out, loss = draw_svgs(metrics, [ALARM, warning])

  def count(text, svg):
    return len(re.findall(rf'<text[^>]*>\s*{text}\s*</text>', svg))

  assert count('greedy', held_out) == 2  # the mark's name, and the legend's
  assert count('loss', held_out) == 0 and count('loss', loss) == 2
  assert 'var(--alarm)' in held_out and 'var(--alarm)' in loss
  assert 'var(--warn)' not in held_out and 'var(--warn)' in loss
  titles = re.findall('<title>(.*?)</title>', loss, re.S)
  assert titles == [
    'step 0\nloss: 0.1',
    'step 1\nloss: 0.1\nalarm greedy at step 1: rollback',
    'step 2\nloss: 0.1\nalarm loss at step 2: warn',
    'step 3\nloss: 0.1',
  ]
  assert '#1f77b4' not in held_out and '<metadata' not in held_out


def test_plot_writes_the_report_of_one_run(report, tmp_path):
  report(evaluated((0.5, 0.9)))
  draw([tmp_path], tmp_path / 'other.html')
  assert 'measured only once' in (tmp_path / 'other.html').read_text()
  with pytest.raises(ValueError, match='is a report, which is of one run'):
    draw([tmp_path, tmp_path], tmp_path / 'both.html')


def test_an_alarm_of_few_words(report):
  page = report([{'step': 0}], alarms=[{'step': 0}] * 30)
  assert 'Alarms went off 30 times: 30 warnings.' in page.text
  assert 'the 10 later ones' in page.text
