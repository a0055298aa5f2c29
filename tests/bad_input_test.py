"""What a hostile newcomer types: one line, exit code 2, nothing done.

What the keys of a config may be is in `config_keys_test.py`, damaged models in
`hostile_test.py`.
"""

import json
import pathlib

import jax
import pytest

from jaxdistill import config as configs
from jaxdistill.cli import main as command
from jaxdistill.run import loop

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = str(ROOT / 'configs' / 'sqlm_small.py')
ARMS = str(ROOT / 'configs' / 'compare_late.py')
SCORE = str(ROOT / 'configs' / 'score_small.py')
SERL = str(ROOT / 'configs' / 'serl_small.py')
PROC = '/proc/nowhere/x'  # root, too, cannot write there

OWN = """
from ml_collections import ConfigDict
from jaxdistill.config import base_config

def get_config():
  c = base_config('sqlm')
  {}
  return c
"""
FILES = {
  'file': 'x',
  'full/file': 'x',
  'empty/.keep': '',
  'syntax.py': 'def get_config(:\n',
  'raises.py': 'def get_config():\n  raise ValueError("two\\nlines")\n',
  'exits.py': 'import sys\nsys.exit(0)\n',
  'quits.py': 'def get_config():\n  exit()\n',
  'none.py': 'def get_config():\n  return None\n',
  'values.py': 'steps = 3\n',
  'config.txt': 'steps: 3',
  'lacks.py': OWN.format('del c.seed'),
  'typo.py': OWN.format('c.stpes = 3'),
  'bare.py': OWN.format('c = ConfigDict({"steps": 3})'),
  'folder.py/.keep': '',
  'list/config.json': '[]',
  'half/config.json': '{"seed": 1',
  'bare/config.json': '{}',
  'folders/config.json/.keep': '',
  'begun/metrics.jsonl': '',
  'drawn/metrics.jsonl': '{"step": 0, "train/loss": 1.0}\n',
  'broken/metrics.jsonl': '{x}\n',
  'stepless/metrics.jsonl': '{"a": 1}\n',
  'list.json': '[]',
  'half.json': '{',
  'none.json': '{}',
  'arms.json': '{"arms": 3}',
  'words.json': '{"eval/test/pass_at/1": "x"}',
  'bad.jsonl': '{"text": "1+1"\n',
  'words.jsonl': '{"text": "Who?", "answer": 1, "split": "test"}\n',
}

TRAIN = ('train', '--config', CONFIG, '--workdir', 'w')
TWO_OF_TWO = '--num_processes', '2', '--process_id', '2'
FRESH = '--config.model=small-fresh'
EVAL = ('eval', '--model', 'small-fresh', '--problems', '1', '--samples', '1')
EXPORT = ('export', '--model', 'small-fresh')


def train(config, workdir='w', *more):
  return ('train', '--config', config, '--workdir', workdir, *more)


# Command line -> what its line says.
VERBS = [
  ((), 'a verb is missing: doctor, gap, context, targets'),
  (('trian',), "no verb 'trian'; the nearest is 'train' of doctor, gap, con"),
  (('help',), "no verb 'help'; there are doctor, gap, context"),
  (('',), "no verb ''"),
  (('--config', CONFIG), "a verb comes first, then '--config'"),
  (('doctor', 'x'), "'x' is not understood by doctor"),
  (('doctor', '--jsno'), "no option '--jsno'; the nearest is '--json'"),
]
OPTIONS = [
  (('train',), 'are required: --config, --workdir'),
  (('train', CONFIG, '--workdir', 'w'), 'are required: --config'),
  (('train', '--confg', CONFIG), "'--confg'; the nearest is '--config'"),
  (('train', '--conf', CONFIG), "'--conf'; the nearest is '--config'"),
  ((*TRAIN[:-1],), '--workdir: expected one argument'),
  ((*TRAIN, '--config', CONFIG), '--config is given twice'),
  (train('', 'w'), '--config: it is empty'),
  (train(CONFIG, ''), '--workdir: it is empty'),
  ((*TRAIN, '--foo'), "'--foo'"),
  ((*TRAIN, '--foo=3'), "'--foo=3'"),
  ((*TRAIN, 'foo'), "'foo' is not understood by train"),
  ((*TRAIN, '--cofnig.steps=3'), "'--cofnig.steps=3'"),
  ((*TRAIN, '--config.steps', '3'), "'--config.steps' has no value"),
  ((*TRAIN, '--config.=3'), "no config key ''"),
  (
    (*TRAIN, '--config.steps=3', '--config.steps=4'),
    '--config.steps is given twice',
  ),
  (
    (*TRAIN, '--config.method.name=sqlm', '--config.method.name=grpo'),
    '--config.method.name is given twice',
  ),
  (('plot', 'drawn', '--config.steps=3'), 'plot takes no keys of a config'),
  ((*TRAIN, '--coordinator', 'localhost'), 'must be host:port or auto'),
  ((*TRAIN, '--coordinator', 'localhost:99999'), 'must be host:port or auto'),
  ((*TRAIN, '--coordinator', 'localhost:12'), 'needs num_processes and'),
  ((*TRAIN, '--num_processes', '2'), 'need a coordinator'),
  ((*TRAIN, '--num_processes', '-1'), '--num_processes: -1 must be at least 1'),
  ((*TRAIN, '--process_id', 'x'), "--process_id: 'x' is not a whole number"),
  (
    (*TRAIN, '--coordinator', 'h:1', *TWO_OF_TWO),
    'process_id is 2 of 2',
  ),
  (('eval',), 'one of the arguments --workdir --model is required'),
  (('eval', '--modle', 'x'), "'--modle'; the nearest is '--model'"),
  ((*EVAL, '--workdir', 'w'), '--workdir: not allowed with argument --model'),
  ((*EVAL, '--split', 'tset'), "'tset'; the nearest is 'test' of dev, test"),
  ((*EVAL, '--pass_k', '2'), '--pass_k 2 needs as many --samples; it has 1'),
  ((*EVAL, '--pass_k', '0'), '--pass_k: 0 must be at least 1'),
  ((*EVAL, '--pass_k', '1,,2'), "--pass_k: '' is not a whole number"),
  ((*EVAL, '--max_tokens', '0'), '--max_tokens: 0 must be at least 1'),
  (('gap', *EVAL[1:3], '--samples', '1'), '1 must be at least 2, for a vote'),
  (('gap', *EVAL[1:3], '--split', 'vote'), 'there are dev, train, test, ood'),
  ((*EVAL[:3], '--problems', '0'), '--problems: 0 must be at least 1'),
  ((*EVAL[:3], '--samples', '1e3'), "--samples: '1e3' is not a whole number"),
  (('chat', *EVAL[1:3], '--role', 'judge'), 'there are solver, proposer'),
  (('chat', *EVAL[1:3], '--temperature', 'nan'), 'nan must be finite'),
  (('chat', *EVAL[1:3], '--temperature', '-1'), '-1 must be finite and at lea'),
  (('plot',), 'are required: PATH'),
  (EXPORT, 'are required: --to'),
  ((*EXPORT, '--to', 'o', '--dtype', 'float16'), 'of bfloat16, float32'),
  ((*EXPORT, '--to', 'o', '--kind', 'gguf'), 'there are merged, peft'),
]
CONFIGS = [
  (train('syntax.py'), 'syntax.py: SyntaxError'),
  (train('raises.py'), 'raises.py: ValueError: two lines'),
  (train('exits.py'), 'exits.py: SystemExit'),
  (train('quits.py'), 'quits.py: SystemExit'),
  (train('none.py'), 'none.py: get_config() must return a ConfigDict'),
  (train('values.py'), "has no attribute 'get_config'"),
  (train('config.txt'), "'config.txt' is not a Python file"),
  (train('empty'), "'empty' is a folder, not a Python file"),
  (train('folder.py'), "'folder.py' is a folder, not a Python file"),
  (train('lacks.py'), 'config.seed is missing'),
  (train('typo.py'), "no config key 'stpes'; the nearest is 'steps'"),
  (train('bare.py'), 'config.method.name is missing'),
  (train('no/where.py'), "no file 'no/where.py'"),
  (train(CONFIG.replace('small', 'smal')), f'the nearest is {CONFIG!r}'),
  (train(ARMS), 'is a comparison: jaxdistill compare runs it'),
  (
    train(SCORE, 'w', '--config.model=small-late'),
    'small-late cannot be asked to revise (small-wide and small-judge can): ',
  ),
  (
    train(SERL, 'w', '--config.model=small-late'),
    'small-late cannot be asked to compare (small-wide and small-judge can): ',
  ),
  (train(SCORE, 'w', '--config.steps=8'), 'first 8 are but a beginning'),
  (
    ('compare', '--config', ARMS, '--workdir', 'w', '--config.seed=3'),
    'the seeds of a comparison are --seeds',
  ),
]
KEYS = [
  ('method.samples=1', 'a group needs at least 2'),
  ('method.proposals=1', 'a group needs at least 2'),
  ('method.minibatches=769', 'is 769; a step has 768 rows at most'),
  ('optimizer.lr=1e400', 'optimizer.lr is inf; it must be finite'),
  ('steps=99999999999999999999', 'must be below 2**31'),
  ('seed=4294967296', 'must be below 2**32'),
  ('method.band=("a","b")', 'config.method: '),
  ("eval.splits=('test','test')", 'eval.splits has one twice'),
  ('task=plus', "no task 'plus'; there are small, small:corpus, arithmetic"),
  ('task=arithmetic:plus:3,3', "operation 'plus'; there are add, sub, mul, di"),
  ('task=bad.jsonl', 'bad.jsonl, line 1 is not JSON'),
  ('guard.problems=0', 'guard.problems is 0; it must be'),
  ('guard.split=tset', "guard.split is 'tset'; the nearest is 'test'"),
  ('guard.lr_scale=0', 'guard.lr_scale is 0'),
  ('guard.samples=1', 'guard.samples is 1; a vote needs 2'),
  ('alarms.grredy=off', "no such alarm; the nearest is 'greedy'"),
  ('alarms.greedy=probe/accuracy_greedy fell 1: warn', 'is not understood'),
  ('alarms.mine=a/b < 1: explode', 'is not understood'),
  ('anchors.guard=every:5', "the anchor 'guard' is the guard's own"),
  ('model=', "'' is no model"),
  ('model=empty', 'empty'),
  ('mesh.data=3', 'needs 3 devices; there are 8'),
  ('mesh.tensor=16', 'needs 16 devices; there are 8'),
]
PLACES = [
  (train(CONFIG, 'file', FRESH), '--workdir file cannot be written: not a dir'),
  (train(CONFIG, 'file/x/y', FRESH), '--workdir file/x/y cannot be written'),
  (train(CONFIG, PROC, FRESH), f'--workdir {PROC} cannot be written: no such'),
  (train(CONFIG, 'x' * 300, FRESH), 'cannot be written: file name too long'),
  (train(CONFIG, 'abc://x/y', FRESH), 'abc://x/y is in no store'),
  (train(CONFIG, 'list', FRESH), 'list/config.json is damaged: it is not a JS'),
  (train(CONFIG, 'half', FRESH), 'half/config.json is damaged: Expecting'),
  (train(CONFIG, 'folders', FRESH), 'folders cannot be written: is a directo'),
  (train(CONFIG, 'other', FRESH), 'of another config: steps was 7, now 20'),
  (
    ('compare', '--config', ARMS, '--workdir', 'file/x'),
    '--workdir file/x cannot be written: not a directory',
  ),
  (('eval', '--workdir', 'missing'), 'missing holds no run'),
  (('export', '--workdir', 'empty', '--to', 'x'), 'empty holds no run'),
  (('chat', '--workdir', 'list'), 'list/config.json is damaged'),
  (('chat', '--workdir', 'half'), 'half/config.json is damaged'),
  (('chat', '--workdir', 'bare'), 'config.method.name is missing'),
  (('chat', '--workdir', 'folders'), 'folders/config.json: is a directory'),
  (('chat', '--workdir', 'other'), 'other has no whole checkpoint yet'),
  (
    ('chat', '--workdir', 'other', '--anchor', 'base'),
    "'base'; it must be name@step, one of: none is there yet",
  ),
  (('chat', '--model', 'smal-late'), "no model 'smal-late'"),
  (('chat', '--model', 'small-late', '--anchor', 'a@0'), 'needs --workdir'),
  (('export', '--model', 'nope', '--to', 'x'), "no model 'nope'"),
  ((*EVAL, '--task', 'smal'), "no task 'smal'; the nearest is 'small' of"),
  ((*EVAL, '--task', 'bad.jsonl'), 'bad.jsonl, line 1 is not JSON'),
  (('gap', *EVAL[1:3], '--task', 'bad.jsonl'), 'bad.jsonl, line 1 is not JSO'),
  (('gap', '--workdir', 'missing'), 'missing holds no run'),
  ((*EVAL, '--out', 'empty'), '--out empty must end in .json'),
  ((*EVAL, '--out', 'folders/config.json'), 'folders/config.json is a folder'),
  ((*EVAL, '--out', 'no/x.json'), '--out no/x.json: there is no folder no'),
  ((*EVAL, '--out', '/proc/x.json'), '/proc/x.json cannot be written'),
  ((*EVAL, '--out', 'other/config.json'), 'is there and not from eval'),
  (('plot', 'empty'), 'empty holds no run'),
  (('plot', 'missing'), 'missing holds no run'),
  (('plot', 'drawn', 'empty'), 'empty holds no run'),
  (('plot', 'begun'), 'nothing to draw yet in begun'),
  (('plot', 'broken'), 'broken/metrics.jsonl is damaged'),
  (('plot', 'stepless'), 'stepless/metrics.jsonl is damaged'),
  (('plot', 'list.json'), 'list.json is not a JSON object'),
  (('plot', 'half.json'), 'half.json is not JSON'),
  (('plot', 'none.json'), 'none.json has no pass@k'),
  (('plot', 'words.json'), 'words.json has no pass@k'),
  (('plot', 'arms.json'), 'arms.json is damaged'),
  (('plot', 'missing.json'), 'missing.json: no such file'),
  (
    ('plot', 'drawn', '--out', 'drawn/metrics.jsonl'),
    'must end in .png or .html',
  ),
  (('plot', 'drawn', '--out', 'file/x.png'), 'file/x.png cannot be written'),
  ((*EXPORT, '--to', 'full'), '--to full is there already'),
  ((*EXPORT, '--to', 'file'), '--to file is there already'),
  ((*EXPORT, '--to', 'file/x'), '--to file/x cannot be written: not a direc'),
  ((*EXPORT, '--to', PROC), f'--to {PROC} cannot be written: no such file'),
  ((*EXPORT, '--to', 'o', '--dtype', 'float32'), 'are for Hugging Face models'),
  ((*EXPORT, '--to', 'o', '--kind', 'peft'), 'are for Hugging Face models'),
]
TABLE = [
  *(VERBS + OPTIONS + CONFIGS + PLACES),
  *(((*TRAIN, f'--config.{key}'), said) for key, said in KEYS),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder with all sorts of files, where nothing is built or trained."""
  for name, text in FILES.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
  other = configs.read_config(CONFIG, [('model', 'small-fresh')]).to_dict()
  (tmp_path / 'other').mkdir()
  text = json.dumps(other | {'steps': 7})
  (tmp_path / 'other' / 'config.json').write_text(text)
  monkeypatch.chdir(tmp_path)

  def never(*args, **kwargs):
    raise AssertionError('it was taken')

  monkeypatch.setattr('jaxdistill.config.building.load', never)
  monkeypatch.setattr(loop.Loop, '_steps', never)
  return tmp_path


@pytest.fixture
def refused(here, capsys):
  """Runs what must be refused; returns its line."""
  compiled = []

  def listen(name, duration, **kwargs):
    if 'backend_compile' in name:
      compiled.append(name)

  def tree():
    paths = sorted(p for p in here.rglob('*') if '__pycache__' not in p.parts)
    return {str(p): p.is_file() and p.read_bytes() for p in paths}

  def run(*argv):
    before = tree()
    code = command.main(list(argv))
    out, err = capsys.readouterr()
    assert (code, out) == (2, '')
    assert err.startswith('jaxdistill: ') and err.count('\n') == 1, err
    assert 'Traceback' not in err and 'Errno' not in err
    assert tree() == before and not compiled
    return err

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield run
  jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
  ('argv', 'said'), TABLE, ids=[' '.join(a)[-50:] or '-' for a, _ in TABLE]
)
def test_refused_in_one_line(refused, argv, said):
  line = refused(*argv)
  assert said in line


def test_no_problem_that_the_model_cannot_read_is_asked(
  here, capsys, monkeypatch
):
  monkeypatch.undo()  # here the model must be there
  monkeypatch.chdir(here)
  assert command.main([*EVAL, '--task', 'words.jsonl']) == 2
  out, err = capsys.readouterr()
  assert "no symbol 'W'" in err and err.count('\n') == 1 and not out


@pytest.mark.parametrize('verb', ['', *command.VERBS])
def test_help_has_an_example_and_every_option(verb, capsys):
  assert command.main([*verb.split(), '--help']) == 0
  out = capsys.readouterr().out
  assert f'\n  jaxdistill {verb}' in out
  if verb:
    assert ('Next: ' in out) or verb == 'plot'
  else:
    order = [out.index(f'\n    {v}') for v in ('doctor', 'train', 'chat')]
    assert order == sorted(order)


def test_the_version_is_said(capsys):
  assert command.main(['--version']) == 0
  assert capsys.readouterr().out.startswith('jaxdistill 0.')
