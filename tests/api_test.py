"""The Python interface: what it gives, where it leaves a run, what it refuses.

That commands do as they did is in `cli_test.py`; they call it.
"""

import json
import pathlib
import subprocess
import sys

import pytest

import jaxdistill as jd
from jaxdistill.checkpoint import Checkpoints
from jaxdistill.plots import notebook
from jaxdistill.rollout.player import Player
from jaxdistill.run.workdir import Workdir

SMALLEST = {
  **{'steps': 4, 'eval_every': 2, 'checkpoint_every': 2, 'method.problems': 2},
  **{'eval.problems': 4, 'eval.samples': 2, 'guard.problems': 4},
  **{'batch.sequences': 4},
}
GREEDY = 'eval/test/accuracy_greedy'


def small(method='grpo', **more):
  config = jd.base_config(method)
  for key, value in {**SMALLEST, **more}.items():
    section, _, name = key.rpartition('.')
    (config[section] if section else config)[name] = value
  return config


def logged(workdir):
  """The lines of a run but for what it does not promise."""
  return [untimed(json.loads(x)) for x in (workdir / 'metrics.jsonl').open()]


def untimed(line):
  return {
    k: v
    for k, v in line.items()
    if not k.startswith('time') and not k.endswith('_per_s')
  }


def test_nothing_is_imported_before_it_is_asked_for():
  code = (
    'import sys, jaxdistill as jd; assert {"train", "gap"} <= {*dir(jd)}\n'
    'from jaxdistill.cli.main import main\n'
    'main(["train", "--help"])\n'
    'print(*(m for m in ("jax", "numpy", "matplotlib") if m in sys.modules))\n'
    'assert jd.task("small").name == "small" and "jax" in sys.modules'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines()[-1] == ''


def test_its_names_are_all_there():
  for name in jd.__all__:
    assert getattr(jd, name) is not None
  with pytest.raises(AttributeError, match='no attribute'):
    _ = jd.trian


def test_a_run_left_early_goes_on_as_if_never_left(
  mesh, without_figures, tmp_path
):
  config = small()
  before = config.to_dict()
  whole = jd.train(config, tmp_path / 'whole', seed=3)
  assert config.to_dict() == before  # overrides are the run's
  assert whole.config['seed'] == whole.summary['seed'] == 3

  with jd.steps(config, tmp_path / 'left', seed=3) as steps:
    first = next(steps)
    said = steps.model.ask('12+3', samples=2)
  assert first['step'] == 0 and len(said.answers_G) == 2
  assert Checkpoints(tmp_path / 'left').newest() == 1
  assert not jd.Result(tmp_path / 'left').summary

  def own_loop():
    for line in jd.steps(config, tmp_path / 'left', seed=3):
      if line['step'] == 2:
        return line

  third = own_loop()
  assert Checkpoints(tmp_path / 'left').newest() == 3
  held = Workdir(tmp_path / 'left')
  held.lock()  # nobody has it
  with pytest.raises(jd.ConfigError, match='is in use by process'):
    jd.steps(config, tmp_path / 'left', seed=3)
  held.close()

  rest = list(jd.steps(config, tmp_path / 'left', seed=3))
  assert [line['step'] for line in rest] == [3, 4]
  found = logged(tmp_path / 'left')
  assert found == logged(tmp_path / 'whole')
  assert [untimed(x) for x in (first, third)] == [found[0], found[2]]
  assert [untimed(x) for x in rest] == found[3:]
  assert list(jd.steps(config, tmp_path / 'left', seed=3)) == []


def test_an_error_in_ones_own_loop_unlocks_the_folder(mesh, tmp_path):
  with (
    pytest.raises(ZeroDivisionError),
    jd.steps(small(), tmp_path / 'run') as steps,
  ):
    for line in steps:
      line['step'] / 0
  assert Checkpoints(tmp_path / 'run').newest() == 1
  opened = jd.steps(small(), tmp_path / 'run')
  opened.close()  # before its first step
  Workdir(tmp_path / 'run').lock()


def test_a_result_is_what_the_folder_holds(mesh, tmp_path):
  found = jd.train(small('sqlm', steps=2), tmp_path / 'run')
  assert [x['step'] for x in found.metrics] == [0, 1, 2]
  assert found.summary[GREEDY]['last'] == found.metrics[-1][GREEDY]
  assert {x['step'] for x in found.alarms} <= {0, 1, 2}
  assert any('proposal' in x for x in found.transcripts(1))
  assert found.verdict in str(found)
  page = found._repr_html_()
  assert f'<h3>{found.verdict}</h3>' in page and 'data:image/png;base64' in page
  assert found.figure == (tmp_path / 'run' / 'curves.png').read_bytes()
  assert (tmp_path / 'run' / 'report.html').exists()

  assert isinstance(found.player, Player)
  scores = found.model.evaluate(samples=2)
  assert scores[GREEDY] == pytest.approx(found.metrics[-1][GREEDY])
  assert scores['eval/test/problems'] == 4
  base = jd.load(tmp_path / 'run', anchor='base@0')
  assert base.name.endswith('run base@0')
  assert base.ask('47+85', samples=3, seed=1).lines[-1].startswith('vote: ')
  drawn = jd.plot(found, tmp_path / 'run')
  assert drawn._repr_png_().startswith(b'\x89PNG')
  drawn.save(tmp_path / 'both.png')
  assert (tmp_path / 'both.png').read_bytes() == drawn


def test_a_model_answers_and_proposes(mesh):
  model = jd.load('small-late')
  found = model.ask('47+85', samples=8)
  assert found.vote.answer == '132' and found.answers_G.count('132') > 4
  assert str(found).count('\n') == 8 and '132 (' in str(found)
  again = model.ask(model.problem('47+85'), samples=8)
  assert again.answers_G == found.answers_G
  assert str(model.ask('47+85', samples=8, seed=1)) != str(found)
  cut = model.ask('47+85', samples=1, max_tokens=2)
  assert cut.answers_G == [None] and '(cut)' in str(cut)
  assert cut.lines[-1] == 'vote: no majority'
  written = model.propose('add', samples=4)
  assert len(written.problems_G) == len(written.lines) == 4
  assert any(p and '+' in p.text for p in written.problems_G)
  other = model.on('arithmetic:add:2,2')
  assert other.task.name == 'arithmetic:add:2,2' and model.task.name == 'small'


def test_a_model_is_shared_out_over_devices_as_asked():
  model = jd.load('small-late', mesh={'fsdp': 4, 'tensor': 2})
  kernel = model.decoder.q.kernel[...]
  layers, inputs, outputs = kernel.shape
  held = kernel.sharding.shard_shape(kernel.shape)
  assert held == (layers, inputs // 4, outputs // 2)
  with pytest.raises(jd.ConfigError, match=r'needs 3 devices; there are 8'):
    jd.load('small-late', mesh={'data': 1, 'fsdp': 3})


def test_gap_says_whether_to_train(mesh):
  late = jd.load('small-late')
  found = jd.gap(late, problems=8, samples=4)
  assert found.verdict in str(found) and found.instead in str(found)
  assert f'{found.figures["greedy"]:.3f}' in repr(found)
  assert (found.model, found.task) == ('small-late', 'small')
  page = found._repr_html_()
  assert found.verdict in page and '<pre>by number of samples' in page
  mine = late.problems('dev', 8)
  again = jd.gap(late, problems=mine, samples=4)
  assert again.figures['vote'] == found.figures['vote']


def test_arms_are_compared(mesh, tmp_path):
  base = small('grpo', steps=9, tokens=300)
  arms = {'plain': {}, 'dapo': {'method.objective': 'dapo'}}
  comparison, told = jd.Comparison(base, arms, seeds=(0,)), []
  found = jd.compare(comparison, tmp_path, announce=told.append, eval_every=3)
  assert base.eval_every == 2
  assert [(x.number, x.total, x.arm, x.finished) for x in told] == [
    *((1, 2, 'plain', False), (2, 2, 'dapo', False)),
  ]
  assert found.table == (tmp_path / 'table.md').read_text()
  assert 'plain' in str(found) and '2 of 2 runs are finished' in str(found)
  greedy = [x for x in found.records if x['metric'] == GREEDY]
  assert [x['arm'] for x in greedy] == ['plain', 'dapo']
  last = found.runs['dapo', 0].metrics[-1][GREEDY]
  assert greedy[1]['last'] == last
  assert greedy[1]['difference'] == pytest.approx(last - greedy[0]['last'])
  page = found._repr_html_()
  assert page.count('<table>') == found.table.count('\n\n') + 1
  assert 'data:image/png;base64' in page and '**' not in page


def test_a_table_of_markdown_is_one_of_html():
  text = '| a | b |\n|---|---|\n| **1.0** | <x> |\n\n| c |\n|---|\n| 2 |\n'
  assert notebook.tables_html(text) == (
    '<table><tr><th>a</th><th>b</th></tr>'
    '<tr><td><b>1.0</b></td><td>&lt;x&gt;</td></tr></table>'
    '<table><tr><th>c</th></tr><tr><td>2</td></tr></table>'
  )


REFUSED = {
  'no task': (lambda: jd.task('smal'), "the nearest is 'small'"),
  'no model': (lambda: jd.load('smal-late'), "no model 'smal-late'"),
  'an anchor of a model': (
    lambda: jd.load('small-late', anchor='base@0'),
    'is of a run, and small-late is none',
  ),
  'no checkpoint': (lambda: jd.load('begun'), 'begun has no whole checkpoint'),
  'no file': (lambda: jd.train('none.py', 'w'), "no file 'none.py'"),
  'no key': (
    lambda: jd.train(small(), 'w', stpes=3),
    "no config key 'stpes'; the nearest is 'steps'",
  ),
  'no number': (
    lambda: jd.steps(small(), 'w', steps='many'),
    "config.steps must be int, not 'many'",
  ),
  'another run': (
    lambda: jd.train(small(steps=7), 'begun'),
    'of another config: steps was 4, now 7',
  ),
  'one sample': (lambda: jd.gap('small-late', samples=1), 'must be at least 2'),
  'no split': (
    lambda: jd.gap('small-late', 'small', split='tset'),
    'tset',
  ),
  'no result': (lambda: jd.Result('none').metrics, 'none holds no run'),
  'no runs': (lambda: jd.plot('none'), 'none holds no run'),
  'no arm': (
    lambda: jd.compare(
      jd.Comparison(small(tokens=9), {'a': {}}, (0,)), 'w', arms=['b']
    ),
    "no arm 'b'; there are a",
  ),
  'no budget': (
    lambda: jd.compare(jd.Comparison(small(), {'a': {}}, (0,)), 'w'),
    'the comparison: a comparison needs a budget',
  ),
  'a wrong arm': (
    lambda: jd.compare(
      jd.Comparison(small(tokens=9), {'a': {'steps': 0}}, (0,)), 'w'
    ),
    'arm a: config.steps is 0',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_in_one_line(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('jaxdistill.config.building.load', None)
  Workdir(tmp_path / 'begun').claim(small().to_dict())
  before = sorted(tmp_path.rglob('*'))
  ask, said = REFUSED[name]
  with pytest.raises(jd.ConfigError) as refused:
    ask()
  assert said in str(refused.value) and '\n' not in str(refused.value)
  assert sorted(tmp_path.rglob('*')) == before


def test_what_a_model_cannot_be_asked_is_refused(mesh):
  model = jd.load('small-fresh')
  with pytest.raises(jd.ConfigError, match="'hello' is not a problem of small"):
    model.ask('hello')
  with pytest.raises(jd.ConfigError, match='--pass_k 8 needs as many'):
    model.evaluate(samples=2, pass_k=(8,))
  with pytest.raises(jd.ConfigError, match='tset'):
    model.evaluate('tset')


def test_the_readme_s_python_runs(mesh, tmp_path, monkeypatch, capsys):
  readme = pathlib.Path(__file__).parents[1] / 'README.md'
  section = readme.read_text().split('\n## From Python\n', 1)[1]
  section = section.split('\n## ', 1)[0]
  code = section.split('```python\n', 1)[1].split('```', 1)[0]
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').symlink_to(readme.parent / 'configs')
  smaller = (
    ('problems=64', 'problems=4'),
    ("'eval.problems': 64", "'eval.problems': 4"),
    ('samples=8', 'samples=2'),
    ("'method.samples': 16", "'method.problems': 2, 'guard.problems': 4"),
    ('steps=5', 'steps=2'),
    ('% 10 == 9', '% 10 == 0'),
  )
  for text, less in smaller:
    assert text in code
    code = code.replace(text, less)
  exec(compile(code, 'README.md', 'exec'), {})
  said = capsys.readouterr().out
  assert 'does not help' in said or 'helps' in said or 'risky' in said
  assert 'vote: ' in said
  assert jd.Result('runs/python').summary and not jd.Result('runs/own').summary
