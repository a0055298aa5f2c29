"""Several processes of two devices each give what one process gives."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from hosts_worker import (
  LEARNED,
  REFILLS,
  TARGETS,
  TYPED,
  asking,
  learned,
  replay,
  state_of,
  talk,
)
from players import KEY, MANY, endless, make_player

import jaxdistill as jd
from jaxdistill import dist
from jaxdistill.anchors import Bank
from jaxdistill.checkpoint import Checkpoints
from jaxdistill.rollout import Sampling
from jaxdistill.run.pool import pool_of

WROTE = re.compile(r'ocdbt\.process_(\d+)/')
SECONDS = re.compile(r'\(\d+ s\)')
WORKER = pathlib.Path(__file__).with_name('hosts_worker.py')


def run_hosts(out, *work, processes=2):
  """Processes of two devices each do some work in turn.

  Returns:
    What process 0 wrote.
  """
  with socket.socket() as s:
    s.bind(('localhost', 0))
    coordinator = f'localhost:{s.getsockname()[1]}'
  flag = ' --xla_force_host_platform_device_count=2'  # the last counts
  env = os.environ | {
    'XLA_FLAGS': os.environ['XLA_FLAGS'] + flag,
    'PYTHONPATH': os.pathsep.join(sys.path),
    'PROCESSES': str(processes),
  }
  errors = [pathlib.Path(f'{out}.{i}') for i in range(processes)]
  started = []
  for i, path in enumerate(errors):
    with path.open('w') as file:
      command = [sys.executable, WORKER, coordinator, str(i), out, *work]
      started.append(subprocess.Popen(command, env=env, stderr=file))
  try:
    codes = [p.wait(timeout=480) for p in started]
  finally:
    for p in started:
      p.kill()
  assert not any(codes), '\n'.join(path.read_text() for path in errors)
  return json.loads(pathlib.Path(out).read_text())


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """What two processes of two devices each did, one thing after the other."""
  root = tmp_path_factory.mktemp('hosts')
  work = {'uneven': root / 'uneven', 'stopped': root / 'stopped'}
  work |= {'gather': '', 'refills': '', 'asked': root / 'asked'}
  work |= {'written': root / 'targets', 'learned': root / 'learned'}
  work |= {'saved': root / 'saved'}
  work |= {'pods': root / 'pods'}
  out = run_hosts(root / 'out', *(f'{k}={v}' for k, v in work.items()))
  return root, dict(zip(work, out, strict=True))


def test_a_host_without_valid_proposals_ends_like_any_other(done):
  root, found = done
  work, (first, again, said) = root / 'uneven', found['uneven']
  # What is wrong on one host is an error on both.
  assert len(said) == 6
  (other, roles, symbol), wrong = said[:3], said[3:]
  assert wrong[0].startswith("there is no role 'judge'")
  assert (
    wrong[1] == roles == 'prompts of one call are of roles proposer, solver'
  )
  assert wrong[2].startswith("the model has no symbol 'one'")
  for mine, theirs in ((other, wrong[0]), (symbol, wrong[2])):
    assert mine == f'on another host: {theirs}'
  assert first['first_step'] == 0 and first['tokens'] > 0
  assert first['compiled'] == []  # after its first step
  assert again['first_step'] == 2
  lines = [json.loads(x) for x in (work / 'metrics.jsonl').open()]
  assert [x['step'] for x in lines] == [0, 1, 2, 3, 4]
  # The archive holds what process 0 asked; both have it, or would disagree on
  # what was said before.
  asked = [
    json.loads(line)['problem']
    for step in range(4)
    for line in (work / 'rollouts' / f'{step:06d}.0.jsonl').open()
    if 'rejected' not in line
  ]
  assert (
    again['archive'] == asked
    and first['archive'] == asked[: len(first['archive'])]
  )
  # Process 1 proposed half of the problems, and none of them counted.
  assert all(0 < x['selfplay/valid'] <= 0.5 for x in lines[:-1])
  assert {p.name for p in (work / 'rollouts').iterdir()} == {
    f'{step:06d}.{host}.jsonl' for step in range(4) for host in range(2)
  }


def test_one_eight_and_four_times_two_devices_take_the_same_steps(tmp_path):
  alone = replay(dist.make_mesh(devices=jax.devices()[:1]))
  eight = replay(dist.make_mesh())
  (hosts,) = run_hosts(tmp_path / 'out', 'replay', processes=4)
  assert len(alone['losses']) == 5
  for other in (eight, hosts):
    for ours, theirs in zip(alone['losses'], other['losses'], strict=True):
      assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(other['params'], alone['params'], atol=2e-5)


def test_one_process_that_is_asked_to_stop_stops_all(done):
  root, found = done
  assert found['stopped'] == [0, 2, 1, 0, -1, -2]
  lines = (root / 'stopped' / 'metrics.jsonl').open()
  assert [json.loads(x)['step'] for x in lines] == [0, 1, 2, 3, 4]
  manifest = json.loads((root / 'stopped/manifests/2.json').read_text())
  assert manifest['pending/2'].keys() == {'0.json', '1.json'}


def test_what_two_hosts_saved_is_hashed_by_both_and_restored_by_one(done):
  root, found = done
  folder = root / 'saved'
  seen, read, step, record, same = found['saved']
  assert (seen, step, record) == ([False], 4, {'step': 4})
  assert same == ['True', 'True']
  manifest = json.loads((folder / 'manifests/4.json').read_text())
  assert manifest.keys() == {'checkpoints/4', 'anchors/base/4'}
  assert read == sum(map(len, manifest.values()))
  for names in manifest.values():
    wrote = {int(x[1]) for name in names if (x := WROTE.search(name))}
    assert wrote == {0, 1}
  assert not (folder / 'manifests/parts').exists()
  checkpoints = Checkpoints(folder)
  assert checkpoints.newest() == 4
  for devices in (jax.devices(), jax.devices()[:1]):
    state, _ = checkpoints.restore(4, state_of(0, devices))
    np.testing.assert_array_equal(state['w'], state_of(4)['w'])
    past = Bank(folder / 'anchors').restore('base', 4, state_of(0, devices))
    np.testing.assert_array_equal(past['w'], state['w'])
  checkpoints.save(5, state, {})
  checkpoints.close()
  assert Checkpoints(folder).newest() == 5


def test_a_pod_is_alike_or_the_host_that_deviates_is_named(done):
  codes, said = done[1]['pods']
  alike, other = map(json.loads, said)
  assert codes == [0, 1]
  assert alike['pass'] and alike['deviate'] == []
  names = [check['name'] for check in alike['checks']]
  assert names == [
    *('hosts', 'code', 'versions', 'config', 'workdir', 'clocks'),
    *('ten steps', 'axis data'),
  ]
  one = f'process 1 at {socket.gethostname()}'
  assert not other['pass'] and other['deviate'] == [one]
  checks = {check['name']: check for check in other['checks']}
  bad = {name for name, check in checks.items() if not check['well']}
  assert bad == {*names[:-1], 'collectives'} - {'hosts', 'versions'}
  assert 'run/loop.py is' in checks['code']['said']
  assert 'seed is 7, elsewhere 0' in checks['config']['said']
  assert 'cannot write' in checks['workdir']['said']
  assert f'{one} is 5.0 s ahead of process 0' in checks['clocks']['said']
  assert 'is off by 1.0e-02' in checks['ten steps']['said']
  assert 'mend code, config first' in checks['collectives']['said']


def test_a_model_that_is_asked_on_two_hosts_says_what_it_says_on_one(
  done, tmp_path, monkeypatch
):
  root, found = done
  make_mesh, four = dist.make_mesh, jax.devices()[:4]
  monkeypatch.setattr(
    dist, 'make_mesh', lambda **sizes: make_mesh(**sizes, devices=four)
  )
  typed = iter(TYPED)
  words = asking(str(root / 'uneven'), str(tmp_path / 'asked'))
  alone = [re.sub(SECONDS, '', talk(x, typed)) for x in words]
  alone[3] = alone[3].replace(str(tmp_path), str(root))
  for ours, (said, other) in zip(alone, found['asked'], strict=True):
    assert re.sub(SECONDS, '', said) == ours and other == ''
  assert "'what?' is not a problem of small" in alone[4]
  for name in ('model.safetensors', 'config.json', 'manifest.json'):
    written, ours = (x / 'asked' / name for x in (root, tmp_path))
    assert written.read_bytes() == ours.read_bytes()
  hosts, one = (
    json.loads((x / 'asked.json').read_text()) for x in (root, tmp_path)
  )
  assert hosts == {
    k: v if isinstance(v, str) else pytest.approx(v, rel=1e-12)
    for k, v in one.items()
  }


def test_texts_are_gathered_from_all_processes(done):
  texts, whole, programs = done[1]['gather']
  assert texts == ['a', 'b\n"ü']
  assert whole == [True] * 4 and programs == 0


def test_refills_on_uneven_hosts_draw_what_one_process_does(done, one_device):
  player, found = endless(make_player(one_device)), done[1]['refills']
  alone = player.generate(MANY[:11], Sampling(samples=6, max_tokens=12), KEY)
  for (first, second, samples, _), ours in zip(REFILLS, found, strict=True):
    expected = [r for of in alone[: first + second] for r in of[:samples]]
    assert {r.finish for r in expected} == {'stop', 'length'}
    assert len({len(r.tokens_T) for r in expected}) > 4
    for (tokens, logp, finish), r in zip(ours, expected, strict=True):
      assert (tokens, finish) == (r.tokens_T.tolist(), r.finish)
      np.testing.assert_allclose(logp, r.logp_T, rtol=1e-5, atol=1e-5)


def test_each_host_writes_a_shard_of_targets_and_reads_all(
  done, mesh, tmp_path
):
  root, found = done
  manifest, *read = found['written']
  alone = jd.targets('small-late', tmp_path / 'alone', **TARGETS)
  names = {f'targets-{i:05d}-of-00002.array_record' for i in range(2)}
  assert manifest['shards'].keys() == names
  assert {p.name for p in (root / 'targets').iterdir()} == {
    'manifest.json',
    *names,
  }
  assert manifest['tokens'] == alone.manifest['tokens']
  assert manifest['responses'] == 10
  first, second = map(json.loads, read)
  assert first == second and len(first) == 10
  pool = pool_of(jd.task('small'), TARGETS['problems'])
  wanted = [t for i in range(5) for t in alone[pool[i].text]]
  for (tokens, ids, top), t in zip(first, wanted, strict=True):
    assert (tokens, ids) == (t.tokens_T.tolist(), t.ids_Tk.tolist())
    np.testing.assert_allclose(top, t.top_Tk, atol=1e-5)


def test_systems_learn_on_two_hosts_what_they_do_on_one(
  done, tmp_path, monkeypatch
):
  make_mesh, four = dist.make_mesh, jax.devices()[:4]

  def on_four(**sizes):
    return make_mesh(**sizes, devices=four)

  monkeypatch.setattr(dist, 'make_mesh', on_four)
  alone, found = learned(tmp_path), done[1]['learned']
  assert [*found] == [*alone] == [*LEARNED]
  for name in LEARNED:
    for ours, theirs in zip(alone[name], found[name], strict=True):
      assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6), name
      counts = {k: n for k, n in ours.items() if isinstance(n, int)}
      assert counts.keys() == {'rollout/tokens', 'rollout/scored'}
      assert counts.items() <= theirs.items()
    assert found[name][1]['train/grad_norm'] > 0


@pytest.mark.parametrize(
  ('name', 'share'),
  [
    ('srpo', 'train/taught'),
    ('rlcsd', 'train/right'),
  ],
)
def test_a_host_with_nothing_to_teach_waits_for_nobody(done, name, share):
  root, found = done
  folder = root / 'learned' / name / 'rollouts'
  knows = [
    [
      any(right is not None for x in lines for right in json.loads(x)['right'])
      for host in range(2)
      for lines in [(folder / f'{step:06d}.{host}.jsonl').open()]
    ]
    for step in range(2)
  ]
  assert knows == [[True, True], [True, False]]
  both, one = (line[share] for line in found['learned'][name])
  assert 0 < one <= 0.5 and both > 0
