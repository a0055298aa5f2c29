"""What users add without touching the package: a method, a task."""

import json
import pathlib
import re
import shlex

import pytest

from jaxdistill.cli.main import main

ROOT = pathlib.Path(__file__).parents[1]


def blocks(path, title):
  """Code blocks of a section of a page by the file that they are named for.

  A block is named by the last words before it: a file in backticks and a
  colon. Commands have no name and come under ''.
  """
  text = (ROOT / path).read_text().split(f'# {title}\n', 1)[1]
  section = re.split(r'^##? ', text, flags=re.M)[0]
  found = re.findall(
    r'(?:`([\w.]+)`:\n\n)?^```\w*\n(.*?)^```$', section, flags=re.M | re.S
  )
  return dict(found)


def write(files, folder):
  for name, text in files.items():
    if name:
      (folder / name).write_text(text)


def lines(workdir):
  return [json.loads(x) for x in (workdir / 'metrics.jsonl').open()]


def before(folder):
  return {p: p.read_bytes() for p in folder.rglob('*.py')}


@pytest.fixture
def here(mesh, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_a_method_is_one_file_and_one_config(here, without_figures):
  package = before(ROOT / 'jaxdistill')
  found = blocks('docs/adding_a_method.md', 'A whole method')
  assert found.keys() == {'best_of_n.py', 'best_of_n_small.py', ''}
  write(found, here)
  small = ['--config.steps=2', '--config.eval.problems=4']
  small.append('--config.guard.problems=4')
  run = ('--config', 'best_of_n_small.py', '--workdir', 'run')
  assert main(['train', *run, *small]) == 0
  first, second, last = lines(here / 'run')
  assert first['train/kept'] > 0 and second['train/loss'] > 0
  assert first['train/loss'] != second['train/loss']
  assert 'eval/test/accuracy_greedy' in last
  config = json.loads((here / 'run' / 'config.json').read_text())
  assert config['method']['name'] == str(here / 'best_of_n.py')
  assert config['method']['samples'] == 4
  # What the run left can be asked, through the same file.
  assert main(['eval', '--workdir', 'run', '--samples', '2']) == 0
  assert before(ROOT / 'jaxdistill') == package


def test_the_readme_s_own_task_trains(here):
  found = blocks('README.md', 'Your own task')
  assert found.keys() == {'even.jsonl', 'even.py', ''}
  assert len(found['even.py'].splitlines()) <= 20
  write(found, here)
  command = found[''].replace('configs/', f'{ROOT}/configs/')
  argv = shlex.split(command.replace('\\\n', ''))[1:]
  small = ['--config.steps=2', '--config.method.problems=4']
  small.append('--config.guard.problems=4')
  assert main([*argv, *small]) == 0
  workdir = here / argv[argv.index('--workdir') + 1]
  assert all('train/reward' in x for x in lines(workdir)[:-1])
  records = [
    json.loads(line)
    for path in (workdir / 'rollouts').iterdir()
    for line in path.open()
  ]
  assert records
  for record in records:
    for answer, reward in zip(
      record['answers'], record['rewards'], strict=True
    ):
      right = answer is not None and int(answer) == int(record['known'])
      even = answer is not None and int(answer) % 2 == 0
      assert reward == (1.0 if right else 0.1 if even else 0.0)
