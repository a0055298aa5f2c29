"""Configs through the command line, and every verb on what they left.

Those of `text_loop_test.py` need a model that knows words.
"""

import io
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from config_files import SMALL, compares

from jaxdistill import config as configs
from jaxdistill import models
from jaxdistill.api.comparing import plan
from jaxdistill.cli.main import GOES_ON, main
from jaxdistill.cli.train import account
from jaxdistill.run.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[1]
# Whole runs of a few; of the others, whose methods have some of their own, it
# is said whether all arms can be.
WHOLE = ('compare_late',)
COMPARISONS = [p for p in SMALL if compares(p) and p.stem in WHOLE]
PLANNED = [p for p in SMALL if compares(p) and p.stem not in WHOLE]
# Trained by `seal_test`, `score_test`, `serl_test`, `systems_test` and below;
# other settings of one that is trained here, which `config_test` reads.
ELSEWHERE = ('seal_small', 'score_small', 'serl_small', 'grpo_small')
ELSEWHERE += ('sqlm_small', 'sqlm_small_long')
ELSEWHERE += ('pretrain_judge', 'pretrain_peer', 'pretrain_foreign')
SMALLEST = {
  'steps': 2,
  'eval_every': 2,
  'checkpoint_every': 1,
  'method.problems': 2,
  'eval.problems': 4,
  'guard.problems': 4,
  'eval.samples': 2,
  'eval.max_tokens': 40,
  'batch.sequences': 4,
}


def train(config, workdir, **more):
  sets = [f'--config.{k}={v}' for k, v in {**SMALLEST, **more}.items()]
  paths = ['--config', str(config), '--workdir', str(workdir)]
  return main(['train', *paths, *sets])


@pytest.mark.parametrize(
  'config',
  [p for p in SMALL if not compares(p) and p.stem not in ELSEWHERE],
  ids=lambda p: p.stem,
)
def test_every_config_takes_two_steps(
  mesh, without_figures, tmp_path, capsys, config
):
  # The corpus takes a minute to write; problems have demonstrations too.
  more = {'task': 'small'} if 'pretrain' in config.stem else {}
  assert train(config, tmp_path / 'run', **more) == 0
  said = capsys.readouterr().out
  assert 'held out, sampled' in said and 'jaxdistill chat' in said
  left = {p.name for p in (tmp_path / 'run').iterdir()}
  assert {'config.json', 'metrics.jsonl', 'summary.json'} <= left


@pytest.mark.parametrize('config', COMPARISONS, ids=lambda p: p.stem)
def test_every_comparison_takes_two_steps(mesh, tmp_path, capsys, config):
  # Thirteen topics: one percent of their proposals is a problem.
  smallest = SMALLEST | {'method.problems': 13, 'method.samples': 2}
  comparison = configs.read_comparison(str(config), ())
  sets = [
    f'--config.{k}={v}'
    for k, v in smallest.items()
    if not k.startswith('method.')
    or k.partition('.')[2] in comparison.base.method
  ]
  paths = ['--config', str(config), '--workdir', str(tmp_path)]
  arm = next(iter(comparison.arms))
  assert main(['compare', *paths, *sets, f'--arms={arm}', '--seeds=0']) == 0
  said = capsys.readouterr().out
  assert f'1 of 1: {arm}, seed 0' in said and '| held out, greedy |' in said
  left = {p.name for p in tmp_path.iterdir()}
  assert left == {arm, 'table.md', 'compare.png', 'summary.json'}
  figure = str(tmp_path / 'again.png')
  assert main(['plot', str(tmp_path / 'summary.json'), '--out', figure]) == 0
  assert pathlib.Path(figure).read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('config', PLANNED, ids=lambda p: p.stem)
def test_every_arm_of_every_other_comparison_can_be(config):
  found = plan(str(config), (), (), ())
  assert [*found.arms] == [*found.comparison.arms] and len(found.arms) > 1
  assert len(found.seeds) > 1


def test_verbs_on_a_finished_run(mesh, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config, run = ROOT / 'configs/sqlm_small.py', pathlib.Path('run')
  assert train(config, run, **{'method.samples': 4}) == 0
  left = {p.name for p in run.iterdir()}
  assert {'config.json', 'metrics.jsonl', 'summary.json'} <= left
  assert {'curves.png', 'report.html'} <= left
  assert {'checkpoints', 'anchors', 'manifests'} <= left
  png = (run / 'curves.png').read_bytes()
  assert png.startswith(b'\x89PNG') and len(png) > 10_000
  before = (run / 'metrics.jsonl').read_text()
  assert train(config, run, **{'method.samples': 4}) == 0  # nothing left to do
  assert (run / 'metrics.jsonl').read_text() == before
  capsys.readouterr()

  assert main(['eval', '--workdir', str(run), '--samples', '2']) == 0
  what, *said = capsys.readouterr().out.splitlines()
  assert what == (
    'run (newest checkpoint): 4 test problems of small, 2 samples each '
    '(the first answers compile)'
  )
  rows = dict(x.split() for x in said)
  logged = json.loads(before.splitlines()[-1])
  greedy = 'eval/test/accuracy_greedy'
  assert float(rows[greedy]) == pytest.approx(logged[greedy], abs=1e-4)

  out = str(tmp_path / 'pass.json')
  ask = ['eval', '--workdir', str(run), '--samples', '4', '--problems', '2']
  assert main([*ask, '--pass_k', '1,4', '--out', out]) == 0
  found = json.loads(pathlib.Path(out).read_text())
  sampled = found['eval/test/accuracy_sampled']
  assert found['eval/test/pass_at/1'] == pytest.approx(sampled)
  assert found['eval/test/pass_at/4'] >= sampled and found['problems'] == 2
  assert main(['plot', out, out, '--out', str(tmp_path / 'pass.png')]) == 0
  assert main([*ask, '--pass_k', '8']) == 2
  assert '--pass_k 8 needs as many --samples' in capsys.readouterr().err

  monkeypatch.setattr('sys.stdin', io.StringIO('47+85\nhello\n3+4+5\n\n'))
  assert main(['chat', '--workdir', str(run), '--samples', '3']) == 0
  said = capsys.readouterr().out
  assert said.count('vote:') == 1
  assert "'hello' is not a problem" in said
  assert "'3+4+5' is not a problem of small: a problem, e.g. 47+85" in said

  # As of a time when there was no such key.
  older = json.loads((run / 'config.json').read_text())
  del older['rollout']['sharded']
  (run / 'config.json').write_text(json.dumps(older))
  monkeypatch.setattr('sys.stdin', io.StringIO('add\n'))
  ask = ['chat', '--workdir', str(run), '--role', 'proposer']
  assert main([*ask, '--anchor', 'base@0']) == 0
  assert '+' in capsys.readouterr().out
  assert main([*ask, '--anchor', 'base@7']) == 2
  assert 'base@0' in capsys.readouterr().err

  out = tmp_path / 'exported'
  write = ['export', '--workdir', str(run), '--anchor', 'base@0']
  assert main([*write, '--to', str(out)]) == 0
  tokens = jnp.array([[1, 3, 4, 5, 6]])
  np.testing.assert_allclose(
    models.from_pretrained(str(out))(tokens),
    models.from_pretrained('small-late')(tokens),
    atol=1e-4,
  )
  assert main([*write, '--to', str(out)]) == 2
  assert 'is there already' in capsys.readouterr().err
  assert main(['eval', '--model', str(run)]) == 2
  assert 'run is a run' in capsys.readouterr().err
  figure = tmp_path / 'both.png'
  assert main(['plot', str(run), str(run), '--out', str(figure)]) == 0
  assert figure.read_bytes().startswith(b'\x89PNG')


def test_ctrl_c_ends_in_one_line(mesh, tmp_path, capsys, monkeypatch):
  def stopped(self, stop):
    raise KeyboardInterrupt

  monkeypatch.setattr('jaxdistill.run.loop.Loop._steps', stopped)
  assert train(ROOT / 'configs/sqlm_small.py', tmp_path / 'run') == 130
  (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
  assert line == (
    'jaxdistill: stopped; the same command goes on from its newest checkpoint'
  )


def test_the_shipped_bases_are_what_their_manifests_say():
  total = 0
  votes = {}
  for name in models.store.SHIPPED:
    folder = models.store.find(name)
    manifest = json.loads((folder / 'manifest.json').read_text())
    assert models.load(name).sha256 == manifest['sha256']
    total += sum(p.stat().length for p in folder.iterdir())
    votes[name] = manifest['scores']['eval/test/vote_accuracy']
    assert {'recipe', 'seed', 'step', 'data_sha256'} <= manifest.keys()
  assert total <= 8 * 2**20
  assert votes['small-early'] < 0.5 and votes['small-late'] > 0.95
  assert 0.8 <= votes['small-middle'] <= 0.9
  late = models.store.find('small-late') / 'manifest.json'
  late = json.loads(late.read_text())['scores']
  assert 0.2 <= late['eval/ood/accuracy_sampled'] <= 0.8
  assert 0.2 <= late['eval/ood/accuracy_greedy'] <= 0.8


def test_an_account_says_whose_version_is_left():
  facts = {
    **{'optimizer_steps': 2, 'skipped_updates': 0, 'wall_s': 1.0, 'tokens': 9},
    **{'last_step': 2, 'kept_step': 2},
  }
  assert 'ends with' not in account(facts, 'run')
  said = account(facts | {'kept_step': 0}, 'run')
  assert 'It ends with its version of step 0, the best' in said


def test_an_account_has_what_a_method_is_judged_by(tmp_path):
  folder = Workdir(tmp_path)
  folder.open(0)
  moves = 'wrong_to_right_sampled', 'right_to_wrong_sampled'
  for step, value in enumerate((0.5, 0.75, 0.25)):
    names = 'accuracy_greedy', 'fixed_judge_accuracy', 'win_rate'
    values = {f'eval/test/{name}': value for name in names}
    moved = zip(moves, (0.1, 0.2), strict=True)
    values |= {f'eval/test/{name}': x for name, x in moved}
    more = {'eval/test/delta_sampled': -0.1, 'eval/test/problems': 100}
    folder.log(step, values | more)
  facts = {'optimizer_steps': 2, 'skipped_updates': 0, 'wall_s': 1, 'tokens': 9}
  said = account(folder.summarise(facts), 'run').split('\n')[1:6]
  folder.close()
  # 25 of 100 by Wilson; 10 and 20 of 100 by Agresti and Min: (-10 -+ 1.96 *
  # sqrt(31 - 100 / 102)) / 102; of pairs nobody says how many there were.
  assert said == [
    f'{"":46}   began   ended       95%          best',
    f'{"held out, 2nd less 1st, sampled":46}  -0.100  -0.100  -0.20 to +0.01',
    f'{"held out, greedy":46}   0.500   0.250    0.18 to 0.34   0.750',
    "held out, judge on the base's pairs".ljust(46)
    + f'   0.500   0.250{"":16}   0.750',
    f'{"held out, win rate over the base":46}   0.500   0.250    0.18 to 0.34',
  ]


def test_help_needs_no_config():
  done = subprocess.run(
    [sys.executable, '-m', 'jaxdistill.cli.main', '--help'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0
  assert all(verb in done.stdout for verb in ('train', 'chat', 'eval', 'plot'))
  assert f'{GOES_ON} stopped by SIGTERM and saved' in done.stdout
