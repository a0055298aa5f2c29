"""Two processes of four devices each give what one of eight gives."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

WORKER = pathlib.Path(__file__).with_name('hosts_worker.py')


def run_hosts(out, what, processes, devices, *rest):
  """Runs the worker in `processes` processes; returns what process 0 wrote."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    coordinator = f'localhost:{s.getsockname()[1]}'
  flag = f' --xla_force_host_platform_device_count={devices}'  # the last counts
  env = os.environ | {'XLA_FLAGS': os.environ['XLA_FLAGS'] + flag}
  started = [
    subprocess.Popen(
      [
        *(sys.executable, WORKER, what, coordinator),
        *(str(processes), str(i), out, *map(str, rest)),
      ],
      env=env,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(processes)
  ]
  try:
    errors = [p.communicate(timeout=240)[1] for p in started]
  finally:
    for p in started:
      p.kill()
  codes = [p.returncode for p in started]
  assert codes == [0] * processes, errors[codes.index(max(codes, key=abs))]
  return json.loads(pathlib.Path(out).read_text())


def test_one_eight_and_two_times_four_devices_take_the_same_steps(tmp_path):
  alone = run_hosts(tmp_path / 'a', 'replay', 1, 1)
  eight = run_hosts(tmp_path / 'b', 'replay', 1, 8)
  hosts = run_hosts(tmp_path / 'c', 'replay', 2, 4)
  assert len(alone['losses']) == 5
  for other in (eight, hosts):
    for ours, theirs in zip(alone['losses'], other['losses'], strict=True):
      assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(other['params'], alone['params'], atol=2e-5)


def test_a_host_without_valid_proposals_ends_like_any_other(tmp_path):
  work = tmp_path / 'run'
  first, again = run_hosts(tmp_path / 'a', 'uneven', 2, 2, work)
  assert first['first_step'] == 0 and first['tokens'] > 0
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


def test_one_process_that_is_asked_to_stop_stops_all(tmp_path):
  work = tmp_path / 'run'
  assert run_hosts(tmp_path / 'a', 'stopped', 2, 1, work) == [0, 2, -1]
  steps = [json.loads(x)['step'] for x in (work / 'metrics.jsonl').open()]
  assert steps == [0, 1, 2, 3, 4]


def test_texts_are_gathered_from_all_processes(tmp_path):
  assert run_hosts(tmp_path / 'a', 'gather', 2, 1) == ['a', 'b\n"ü']
