"""Bad input ends in one line; configs are complete; what a run leaves."""

import dataclasses
import importlib
import json
import sys

import pytest
from config_files import CONFIG, ROOT, compares, small_config
from ml_collections import ConfigDict

from jaxdistill import config as configs
from jaxdistill import methods
from jaxdistill.cli import main as command
from jaxdistill.config.keys import SHARED
from jaxdistill.methods.sqlm import Sqlm
from jaxdistill.run import stored
from jaxdistill.run.workdir import Workdir

METHODS = sorted(
  path.stem
  for path in (ROOT / 'jaxdistill' / 'methods').glob('*.py')
  if path.stem not in ('__init__', *SHARED)
)


pytestmark = pytest.mark.usefixtures('small_world', 'here')


def test_workdir_of_another_config(refused, here):
  (here / 'w').mkdir()
  config = small_config(steps='7')
  (here / 'w' / 'config.json').write_text(json.dumps(config))
  said = refused(
    *('train', '--config', CONFIG, '--workdir', 'w'),
    '--config.model=small-fresh',
  )
  assert 'w holds a run of another config' in said
  assert 'steps was 7, now 20' in said


LINES = '{"question": "1 + 1?", "answer": "2", "source": "x", "more": 1}'


@pytest.mark.parametrize(
  ('method', 'task', 'said'),
  [
    (
      'sqlm',
      'own.jsonl',
      """method sqlm asks for a "topic"; own.jsonl has none for""",
    ),
    ('sqlm', 'gym:chain_sum', 'task gym:chain_sum has no proposer prompt'),
    ('sft', 'equations:1', 'method sft needs responses'),
    ('grpo', 'gym:chain_sum', "gym:chain_sum has no problem of split 'ood'"),
  ],
)
def test_task_that_does_not_fit_the_method(refused, here, method, task, said):
  (here / 'own.jsonl').write_text(
    LINES + '\n' + LINES.replace('{', '{"split": "test", ')
  )
  line = refused(
    *('train', '--config', CONFIG, '--workdir', 'w'),
    *(f'--config.method.name={method}', f'--config.task={task}'),
    *('--config.model=small-fresh', '--config.method.problems=2'),
    *(["--config.eval.splits=('test',)"] if method != 'grpo' else []),
  )
  assert said.format(here / 'own.jsonl') in line


def test_plot_draws(here, capsys):
  (here / 'run').mkdir()
  lines = ''.join(
    json.dumps({'step': i, 'train/loss': 1 / (i + 1)}) + '\n' for i in range(3)
  )
  (here / 'run' / 'metrics.jsonl').write_text(lines)
  assert command.main(['plot', 'run', '--out', 'drawn.png']) == 0
  assert capsys.readouterr().out == 'drawn.png\n'
  assert (here / 'drawn.png').read_bytes().startswith(b'\x89PNG')


def test_a_config_read_back_is_the_same_run(here, monkeypatch, capsys):
  """`chat` builds the run from `config.json`, as `train` wrote it."""
  seen, build = [], configs.build

  def watched(config):
    seen.append(build(config))
    return seen[-1]

  monkeypatch.setattr(configs, 'build', watched)
  monkeypatch.setattr(stored, 'check_stored', lambda *args: None)
  config = small_config(**{'method.samples': '3', 'anchors.old': 'every:7'})
  Workdir(here / 'w').claim(config)
  assert command.main(['chat', '--workdir', 'w']) == 2
  assert 'w has no whole checkpoint yet' in capsys.readouterr().err
  (run,) = seen
  assert isinstance(run.method, Sqlm)
  assert run.method.samples == 3
  assert tuple(run.eval.splits) == ('test', 'ood')
  assert run.anchors['old'] == 'every:7'


@pytest.mark.parametrize('name', METHODS)
def test_a_method_s_fields_are_config_keys(name):
  module = importlib.import_module(f'jaxdistill.methods.{name}')
  (method,) = (
    value
    for value in vars(module).values()
    if dataclasses.is_dataclass(value) and hasattr(value, 'collect')
  )
  keys = configs.base_config(name).method.to_dict()
  fields = {f.name: f.default for f in dataclasses.fields(method)}
  for part, value in [*fields.items()]:
    if dataclasses.is_dataclass(value):
      fields |= dataclasses.asdict(fields.pop(part))
  assert keys == {'name': name} | fields
  assert configs.method_class(name) is method


def test_every_config_file_is_complete():
  for path in sorted((ROOT / 'configs').glob('*.py')):
    if compares(path):
      config = configs.read_comparison(str(path), []).base
    else:
      config = configs.read_config(str(path), [])
    base = configs.base_config(config.method.name)
    assert config.keys() == base.keys(), path
    for key in ('method', 'optimizer', 'eval', 'batch', 'mesh'):
      assert config[key].keys() == base[key].keys(), (path, key)


def test_overrides():
  config = configs.read_config(
    CONFIG,
    [
      ('optimizer.lr', '1'),
      ('method.samples', '16'),
      ('eval.splits', "('dev',)"),
      ('model', 'small-fresh'),
      ('anchors.old', 'every:5'),
      ('mesh.fsdp', '-1'),
    ],
  )
  assert config.optimizer.lr == 1.0 and type(config.optimizer.lr) is float
  assert config.method.samples == 16
  assert config.eval.splits == ('dev',)
  assert config.model == 'small-fresh'
  assert config.anchors.to_dict() == {'past': 'every:10', 'old': 'every:5'}
  assert config.mesh.fsdp == -1
  assert config.steps == 20  # the file's own value stays


WHOLE = """
import dataclasses

from jaxdistill.methods.method import Method

@dataclasses.dataclass(frozen=True)
class Mine(Method):
  problems: int = 8
  wrong: float = -1.0
  hold: int = 3
  anchors = {'teacher': 'trust:0.1'}
  def collect(self): ...
  def loss(self): ...
"""


@pytest.mark.parametrize(
  ('old', 'new', 'said'),
  [
    ('', '', None),
    ('int = 8', 'int', 'problems needs a default'),
    ('def loss', 'def lost', "has no 'loss'"),
    ('def collect', 'def collected', "has no 'collect'"),
    ('@dataclasses', '# @', 'one dataclass with `collect`; it has 0'),
  ],
)
def test_a_method_of_one_s_own_is_checked(monkeypatch, here, old, new, said):
  (here / 'mine.py').write_text(WHOLE.replace(old, new))
  monkeypatch.setattr(methods, '__path__', [*methods.__path__, str(here)])
  monkeypatch.delitem(sys.modules, 'jaxdistill.methods.mine', raising=False)
  importlib.invalidate_caches()
  if said is None:
    assert configs.base_config('mine').method.problems == 8
  else:
    with pytest.raises(configs.ConfigError, match=said):
      configs.base_config('mine')


def test_what_a_method_s_own_fields_may_be_is_its_own_affair(here):
  (here / 'mine.py').write_text(WHOLE)
  config = configs.base_config('mine.py')
  config.model = 'small-fresh'
  configs.override(config, [('method.hold', '0'), ('method.wrong', '-2')])
  configs.check(config)
  with pytest.raises(configs.ConfigError, match=r'method\.hold must be int'):
    configs.override(config, [('method.hold', 'long')])


def test_problems_that_the_model_cannot_read_are_refused(refused, here):
  (here / 'words.jsonl').write_text(
    '{"text": "1+1", "answer": 2, "split": "test"}\n'
    '{"text": "Who?", "topic": "names"}\n'
  )
  said = refused(
    *('train', '--config', CONFIG, '--workdir', 'w'),
    *('--config.task=words.jsonl', "--config.eval.splits=('test',)"),
  )
  assert "no symbol 'W' (in 'solve Who?:')" in said


def test_files_are_named_in_full(here):
  (here / 'mine.py').write_text(WHOLE)
  (here / 'sums.jsonl').write_text('{"text": "1+1", "answer": 2}\n')
  sets = [('method.name', 'mine.py'), ('task', 'sums.jsonl')]
  config = configs.read_config(CONFIG, sets)
  assert config.method.name == str(here / 'mine.py')
  assert config.task == str(here / 'sums.jsonl')


def test_another_method_brings_its_own_keys():
  config = configs.read_config(
    CONFIG, [('method.epochs', '3'), ('method.name', 'grpo')]
  )
  assert config.method.name == 'grpo'
  assert config.method.epochs == 3
  assert config.method.kl == 0.02  # the file's, for a field that both have
  assert 'propose_every' not in config.method


COMPARISON = """
from jaxdistill.config import Comparison, base_config

def get_config():
  base = base_config('sqlm')
  base.tokens = {tokens}
  return Comparison(base, {arms}, {seeds})
"""


def write_comparison(here, arms, seeds=(0, 1), tokens=100):
  text = COMPARISON.format(arms=arms, seeds=seeds, tokens=tokens)
  (here / 'arms.py').write_text(text)
  return 'compare', '--config', 'arms.py', '--workdir', 'w'


@pytest.mark.parametrize(
  ('arms', 'said'),
  [
    ({'a': {}, 'b': {'method.sample': 4}}, "nearest is 'method.samples'"),
    ({'a': {}, 'b': {'method.samples': 4.5}}, 'arm b: config.method.samples'),
    ({'a': {}, 'b': {'method.samples': 1}}, 'arm b: method.samples is 1'),
    ({'a': {'method.name': 'sqml'}}, "arm a: there is no method 'sqml'"),
    ({}, 'needs arms and seeds'),
  ],
)
def test_arms_are_checked_before_any_runs(refused, here, arms, said):
  assert said in refused(*write_comparison(here, arms))


def test_a_comparison_and_a_run_are_told_apart(refused, here):
  argv = write_comparison(here, {'a': {}, 'bb': {}})
  said = refused('train', *argv[1:])
  assert said.endswith('is a comparison: jaxdistill compare runs it\n')
  said = refused('compare', '--config', CONFIG, '--workdir', 'w')
  assert 'must return a Comparison' in said
  said = refused(*argv, '--arms', 'a,b')
  assert "no arm 'b'; the nearest is 'bb' of a, bb" in said
  assert "no seed '7'" in refused(*argv, '--seeds', '7')
  assert "nearest is 'steps'" in refused(*argv, '--config.step=3')
  argv = write_comparison(here, {'a': {}, 'b': {}}, tokens=0)
  assert 'needs a budget: base.tokens in it, or --config.tokens=N' in refused(
    *argv
  )
  argv = write_comparison(here, {'a': {}, 'b': {}}, {'a': (0,), 'c': (1,)})
  assert 'arms and seeds differ in b, c' in refused(*argv)


def test_folders_of_a_comparison_are_checked_before_any_runs(refused, here):
  argv = write_comparison(here, {'a': {}, 'b': {}})
  folder = here / 'w' / 'b' / '1'
  folder.mkdir(parents=True)
  config = configs.read_comparison('arms.py', []).config('b', 1).to_dict()
  (folder / 'config.json').write_text(json.dumps(config | {'steps': 7}))
  assert 'steps was 7, now 60' in refused(*argv, '--arms', 'a')


def test_an_arm_is_its_base_but_for_what_it_sets():
  base = configs.base_config('sqlm')
  configs.override(base, [('method.kl', '0.5'), ('steps', '3')])
  arms = {
    'a': {},
    'b': {
      'method.samples': 4,
      'method.band': (0.1, 0.9),
      'anchors.x': 'ema:.5',
    },
    'c': {'method.name': 'grpo', 'method.objective': 'rloo'},
  }
  found = configs.Comparison(base, arms, {'a': (0,), 'b': (1, 2), 'c': (3,)})
  a, b, c = (found.config(arm, 9).to_dict() for arm in 'abc')
  assert a == base.to_dict() | {'seed': 9}
  assert b['method'] == a['method'] | {'samples': 4, 'band': (0.1, 0.9)}
  assert b['anchors'] == a['anchors'] | {'x': 'ema:.5'}
  assert c['method']['objective'] == 'rloo' and c['method']['kl'] == 0.5
  assert c['steps'] == 3 and 'band' not in c['method']
  assert found.seeds_of('b') == (1, 2)
  assert base.seed == 0 and base.method.samples == 8  # itself untouched


def test_controls_are_settings_of_sqlm():
  for name, sets in configs.CONTROLS.items():
    config = configs.base_config('sqlm')
    configs.override(config, sets.items())
    configs.check(config)
    before = configs.base_config('sqlm')
    assert config.to_dict() != before.to_dict(), name


def test_a_good_config_passes():
  configs.check(ConfigDict(small_config(), convert_dict=True))


def leaves(value, name=''):
  """Values of nested mappings by dotted name; tuples as lists."""
  if not isinstance(value, dict):
    return {name: list(value) if isinstance(value, tuple) else value}
  out = {}
  for key, inner in value.items():
    out |= leaves(inner, f'{name}.{key}' if name else key)
  return out


def test_claim_writes_every_value(here):
  config = small_config()
  Workdir(here / 'a' / 'b').claim(config)
  written = json.loads((here / 'a' / 'b' / 'config.json').read_text())
  assert leaves(written) == leaves(config)
  for key in ('seed', 'method.name', 'method.kl', 'optimizer.lr', 'mesh.fsdp'):
    assert key in leaves(written)
  assert len(leaves(written)) > 40


def test_claim_knows_its_own_config_again(here):
  before = (small_config(), small_config(steps='7'))
  Workdir(here / 'w').claim(before[0])
  text = (here / 'w' / 'config.json').read_text()
  Workdir(here / 'w').claim(before[0])
  with pytest.raises(ValueError, match='steps was 20, now 7'):
    Workdir(here / 'w').claim(before[1])
  assert (here / 'w' / 'config.json').read_text() == text
  other = small_config(**{'method.kl': '0.5'})
  with pytest.raises(ValueError, match=r'method\.kl was 0\.02, now 0\.5'):
    Workdir(here / 'w').claim(other)
  del other['seed'], other['method']['kl']
  with pytest.raises(ValueError, match=r'method\.kl was 0\.02, now None'):
    Workdir(here / 'w').claim(other)


@pytest.mark.parametrize(
  ('method', 'said'),
  [('grpo', "has none for '1+1'"), ('sft', 'a "response" in each line')],
)
def test_lines_must_have_what_the_method_reads(refused, here, method, said):
  line = '{"text": "1+1"}\n{"text": "2+2", "answer": 4, "split": "test"}\n'
  (here / 'sums.jsonl').write_text(line)
  assert said in refused(
    *('train', '--config', CONFIG, '--workdir', 'w'),
    *(f'--config.method.name={method}', '--config.task=sums.jsonl'),
    "--config.eval.splits=('test',)",
  )


@pytest.mark.parametrize(
  ('task', 'before'),
  [
    ('lines.jsonl', ''),
    ('passages:lines.jsonl', 'passages:'),
    ('examples:2:lines.jsonl', 'examples:2:'),
    ('examples:2:passages:lines.jsonl', 'examples:2:passages:'),
    ('examples:2:arithmetic:add:2,2', None),
    ('gs://bucket/lines.jsonl', None),
    ('passages:gs://bucket/lines.jsonl', None),
    ('small', None),
  ],
)
def test_a_file_of_problems_is_named_in_full(
  task, before, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  found = configs.read_config(str(CONFIG), [('task', task)]).task
  full = task if before is None else f'{before}{tmp_path}/lines.jsonl'
  assert found == full


def test_other_models_are_named_in_full(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'other').mkdir()
  sets = [('method.proposer', 'model:other')]
  config = configs.read_config(str(CONFIG), sets)
  assert config.method.proposer == f'model:{tmp_path}/other'
  arms = {'a': {'method.proposer': 'model:other'}, 'b': {}}
  config.tokens = 9
  comparison = configs.Comparison(config, arms, (0,))
  assert comparison.config('a', 0).method.proposer == f'model:{tmp_path}/other'
  config.method.proposer = 'model:small-late'
  assert comparison.config('b', 0).method.proposer == 'model:small-late'
