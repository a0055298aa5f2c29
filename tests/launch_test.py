"""What launch/ would run, on machines that are not there.

The command line that a person gives must arrive on each host as it is: what is
printed is read back by real shells and parsers. Clouds and schedulers are
programs of the same name, put first on PATH, that write down how they are
called.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from jaxdistill.cli.main import GOES_ON
from jaxdistill.cli.parser import WRONG

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
TOOLS = pathlib.Path(sys.executable).parent
COMMAND = [
  *('jaxdistill', 'train', '--config', 'my configs/a.py', '--workdir'),
  *('gs://bucket/a run', '--coordinator', 'auto'),
  '--config.task=it\'s "$HOME" $(id) `id` $$ \\n * {x} #',
]
SLICE = '--topology=v5e:4x8'
TPU = ['--name=n', '--zone=z']
CALLS = {
  'tpu_vm.sh': ['run', *TPU],
  'gke.sh': ['--name=n', '--image=i', SLICE],
  'xpk.sh': ['--name=n', '--cluster=c', '--image=i', SLICE],
  'slurm.sh': ['--nodes=2', '--gpus=8'],
  'skypilot.sh': [SLICE],
}
# Writes down how it was called, and ends with the next of the codes in a file.
RECORDER = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path({{folder!r}})
name = pathlib.Path(sys.argv[0]).name
text = '' if name != 'kubectl' else sys.stdin.read()
with (here / 'calls').open('a') as file:
  file.write(json.dumps([name, *sys.argv[1:], text]) + '\\n')
left = here / (name + '.codes')
codes = left.read_text().split() if left.exists() else []
left.write_text(' '.join(codes[1:]))
sys.exit(int(codes[0]) if codes else 0)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """Puts programs on PATH; gives what they were called with."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  monkeypatch.setenv('HOME', str(tmp_path))

  class Fake:
    def add(self, *names):
      for name in names:
        path = folder / name
        path.write_text(RECORDER.format(folder=str(tmp_path)))
        path.chmod(0o755)

    def ends_with(self, name, codes):
      (tmp_path / f'{name}.codes').write_text(codes)

    def take(self):
      """The calls until now, each with what was piped into it."""
      path = tmp_path / 'calls'
      lines = path.read_text().splitlines() if path.exists() else []
      path.unlink(missing_ok=True)
      return [json.loads(line) for line in lines]

    @property
    def calls(self):
      return [call[:-1] for call in self.take()]

  return Fake()


def launch(script, *words, **more):
  return subprocess.run(
    [LAUNCH / script, *words], capture_output=True, text=True, **more
  )


def dry(script, *words, command=COMMAND):
  """What a dry run prints."""
  done = launch(script, *words, '--dry-run', '--', *command)
  assert done.returncode == 0, done.stderr
  return done.stdout


def option(words, name):
  """The value of an option, in either form."""
  for word, after in zip(words, [*words[1:], ''], strict=True):
    if word == name:
      return after
    if word.startswith(f'{name}='):
      return word.partition('=')[2]
  raise AssertionError(f'{name} is not among {words}')


def document(text):
  """The YAML between <<'END' and END, as a shell would pass it on."""
  return yaml.safe_load(text.split("<<'END'\n")[1].split('\nEND\n')[0])


def manifest(*more, command=COMMAND):
  return document(dry('gke.sh', *CALLS['gke.sh'], *more, command=command))


# The command line arrives.


def test_every_host_of_a_tpu_gets_the_command_line(fake, tmp_path):
  words = shlex.split(dry('tpu_vm.sh', *CALLS['tpu_vm.sh']))
  assert words[:5] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh']
  assert option(words, '--worker') == 'all'
  home = tmp_path / 'jaxdistill'
  (home / '.venv/bin').mkdir(parents=True)
  (home / 'launch').symlink_to(LAUNCH)
  fake.add('jaxdistill')
  shutil.move(tmp_path / 'bin/jaxdistill', home / '.venv/bin/jaxdistill')
  subprocess.run(['bash', '-c', option(words, '--command')], check=True)
  ended = home / 'babysit/ended'
  until(lambda: ended.exists() and ended.read_text())
  assert ended.read_text() == '0\n'
  assert fake.calls == [COMMAND]
  *_, look = dry('tpu_vm.sh', 'up', *TPU, SLICE).splitlines()
  look = option(shlex.split(look), '--command')
  asked = ['bash', '-c', look]
  assert subprocess.check_output(asked, text=True) == '0\n'
  ended.unlink()
  assert subprocess.check_output(asked, text=True) == 'gone\n'
  words = [LAUNCH / 'babysit.sh', '--record=babysit', '--', 'sleep', '60']
  other = subprocess.Popen(words, cwd=home)
  until((home / 'babysit/pid').exists)
  assert subprocess.check_output(asked, text=True) == 'running\n'
  stop = launch('tpu_vm.sh', 'stop', *TPU, '--dry-run').stdout
  stop = option(shlex.split(stop), '--command')
  subprocess.run(['bash', '-c', stop], check=True)
  assert other.wait(20) == 128 + signal.SIGTERM  # sleep saves nothing
  assert subprocess.check_output(asked, text=True) == 'stopped\n'


def test_every_pod_gets_the_command_line():
  (job,) = manifest()['spec']['replicatedJobs']
  (container,) = job['template']['spec']['template']['spec']['containers']
  # As Kubernetes does: $$ is a $, and $(NAME) would be a variable.
  plain = [w.replace('$$', '') for w in container['command']]
  assert not any('$' in w for w in plain)
  assert [w.replace('$$', '$') for w in container['command']] == COMMAND


def test_every_workload_of_xpk_gets_the_command_line(fake):
  words = shlex.split(dry('xpk.sh', *CALLS['xpk.sh']))
  fake.add('jaxdistill')
  # As xpk has it in its manifest.
  script = f'({option(words, "--command")}) & wait $!'
  subprocess.run(['bash', '-c', script], check=True)
  assert fake.calls == [COMMAND]


@pytest.mark.parametrize(
  ('codes', 'code', 'starts', 'queued'),
  [
    ('0', 0, 1, False),
    ('75', 75, 1, True),
    ('2', 2, 1, False),
    ('1 1 1', 1, 3, False),
    ('1 75', 75, 2, True),
  ],
)
def test_every_task_of_slurm_gets_the_command_line(
  fake, monkeypatch, codes, code, starts, queued
):
  words = shlex.split(dry('slurm.sh', *CALLS['slurm.sh']))
  assert option(words, '--ntasks-per-node') == '8'
  assert option(words, '--gpus-per-node') == '8'
  assert '--requeue' in words and '--signal=TERM@120' in words
  fake.add('srun', 'scontrol', 'sleep')
  fake.ends_with('srun', codes)
  monkeypatch.setenv('SLURM_JOB_ID', '7')
  done = subprocess.run(['sh', '-c', option(words, '--wrap')])
  assert done.returncode == code
  calls = fake.calls
  started = [x for x in calls if x[0] == 'srun']
  assert len(started) == starts
  for words in started:
    assert words[-len(COMMAND) :] == COMMAND
    assert '--kill-on-bad-exit=0' in words
    assert all(w.startswith('--') for w in words[1 : -len(COMMAND)])
  asked = [x for x in calls if x[0] == 'scontrol']
  assert asked == [['scontrol', 'requeue', '7']] * queued


@pytest.mark.parametrize('nodes', [1, 2])
def test_every_node_of_skypilot_gets_the_command_line(
  fake, tmp_path, monkeypatch, nodes
):
  lone = [*COMMAND[:6], *COMMAND[8:]]  # the coordinator is SkyPilot's
  kind = ['--gpus=H100:8', f'--nodes={nodes}']
  task = document(dry('skypilot.sh', *kind, command=lone))
  assert task['num_nodes'] == nodes and task['workdir'] == '.'
  fake.add('jaxdistill')
  (tmp_path / 'jaxdistill-venv').mkdir()
  (tmp_path / 'bin').rename(tmp_path / 'jaxdistill-venv/bin')
  monkeypatch.setenv('SKYPILOT_NODE_IPS', '10.0.0.1\n10.0.0.2')
  monkeypatch.setenv('SKYPILOT_NODE_RANK', '1')
  subprocess.run(['bash', '-c', task['run']], check=True, cwd=ROOT)
  own = ['--coordinator', '10.0.0.1:8476', '--num_processes', '2']
  own += ['--process_id', '1']
  assert fake.calls == [lone + own * (nodes > 1)]


EVERY_CALL = [
  *((script, words, True) for script, words in CALLS.items()),
  ('tpu_vm.sh', ['create', *TPU, SLICE, '--spot'], False),
  ('tpu_vm.sh', ['create', *TPU, SLICE, '--direct', '--account=a@b'], False),
  *(('tpu_vm.sh', [v, *TPU], False) for v in ('install', 'logs', 'status')),
  *(('tpu_vm.sh', [v, *TPU], False) for v in ('stop', 'delete')),
]


@pytest.mark.parametrize(('script', 'words', 'runs'), EVERY_CALL)
def test_a_dry_run_can_be_pasted(fake, script, words, runs):
  fake.add('gcloud', 'kubectl', 'xpk', 'sbatch', 'sky', 'tar')
  command = ['--', *COMMAND] if runs else []
  printed = launch(script, *words, '--dry-run', *command)
  assert printed.returncode == 0 and not printed.stderr
  assert not fake.take()
  subprocess.run(['bash', '-c', printed.stdout], check=True)
  pasted = fake.take()
  done = launch(script, *words, *command)
  assert done.returncode == 0, done.stderr
  assert fake.take() == pasted != []


@pytest.mark.parametrize('script', CALLS)
def test_a_model_is_asked_on_many_hosts_as_one_is_trained(script):
  ask = ['jaxdistill', 'eval', '--workdir', 'gs://bucket/run', '--mesh=1,32,1']
  printed = dry(script, *CALLS[script], command=[*ask, '--coordinator', 'auto'])
  assert ' '.join([*ask, '--coordinator auto']) in re.sub('", "', ' ', printed)


# What it is told.


def test_spot_is_asked_for_where_it_was_asked_for():
  for more, spot in ([], False), (['--spot'], True):
    for words in (['create', *TPU, SLICE], ['create', *TPU, SLICE, '--direct']):
      said = launch('tpu_vm.sh', *words, *more, '--dry-run').stdout
      assert ('--spot' in shlex.split(said)) == spot
    said = shlex.split(dry('xpk.sh', *CALLS['xpk.sh'], *more))
    assert ('--spot' in said) == spot
    task = document(dry('skypilot.sh', *CALLS['skypilot.sh'], *more))
    assert task['resources']['use_spot'] is spot
    (job,) = manifest(*more)['spec']['replicatedJobs']
    nodes = job['template']['spec']['template']['spec']['nodeSelector']
    assert nodes.get('cloud.google.com/gke-spot') == ('true' if spot else None)


# As Google's tables have them; of GKE the nodes with four chips.
SLICES = {
  'v4:2x2x4': ('v4-32', 'tpu-v4-podslice', 4, 'tpu-ubuntu2204-base'),
  'v5e:1x1': ('v5litepod-1', 'tpu-v5-lite-podslice', 1, 'v2-alpha-tpuv5-lite'),
  'v5e:4x8': ('v5litepod-32', 'tpu-v5-lite-podslice', 8, 'v2-alpha-tpuv5-lite'),
  'v5p:4x4x4': ('v5p-128', 'tpu-v5p-slice', 16, 'v2-alpha-tpuv5'),
  'v6e:16x16': ('v6e-256', 'tpu-v6e-slice', 64, 'v2-alpha-tpuv6e'),
  'tpu7x:2x2x2': ('tpu7x-16', 'tpu7x', 2, None),
}


@pytest.mark.parametrize('slice', SLICES)
def test_a_slice_by_each_of_its_names(slice):
  kind, label, hosts, runtime = SLICES[slice]
  topology = f'--topology={slice}'
  words = shlex.split(
    dry('xpk.sh', '--name=n', '--cluster=c', '--image=i', topology)
  )
  assert option(words, '--tpu-type') == kind
  spec = document(
    dry('gke.sh', '--name=n', '--image=i', '--slices=3', topology)
  )['spec']
  (job,) = spec['replicatedJobs']
  pods = job['template']['spec']
  assert job['replicas'] == 3
  assert pods['parallelism'] == pods['completions'] == hosts
  pod = pods['template']['spec']
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': label,
    'cloud.google.com/gke-tpu-topology': slice.partition(':')[2],
  }
  (limits,) = (c['resources']['limits'] for c in pod['containers'])
  assert limits['google.com/tpu'] == min(4, 4 if hosts > 1 else 1)
  for direct in [], ['--direct']:
    done = launch('tpu_vm.sh', 'create', *TPU, topology, *direct, '--dry-run')
    if not runtime:
      assert done.returncode == WRONG and 'only in GKE' in done.stderr
      continue
    words = shlex.split(done.stdout)
    assert option(words, '--accelerator-type') == kind
    assert (
      option(words, '--version' if direct else '--runtime-version') == runtime
    )


REFUSED = [
  ('tpu_vm.sh craete', "no verb 'craete'; the nearest is 'create'"),
  ('tpu_vm.sh', 'a verb comes first'),
  ('tpu_vm.sh create --zoen z', "'--zoen'; the nearest is '--zone'"),
  ('tpu_vm.sh create --name n --name m', '--name is given twice'),
  ('tpu_vm.sh create --name --zone z', '--name has no value'),
  ('tpu_vm.sh create --name n', '--zone is required'),
  ('tpu_vm.sh create --name n --zone z --spot=yes', '--spot takes no value'),
  ('tpu_vm.sh logs --name n --zone z -- jaxdistill', 'takes no command line'),
  ('tpu_vm.sh run --name n --zone z', 'the command line is missing'),
  ('tpu_vm.sh run --name n --zone z -- train', 'comes jaxdistill, not'),
  ('tpu_vm.sh run --name n --zone z jaxdistill', '-- is missing before'),
  ('gke.sh --name n --image i --topology v5:4x8', "the nearest is 'v4' of v4"),
  ('gke.sh --name n --image i --topology v5e-32', 'GENERATION:SHAPE, as v5e'),
  ('gke.sh --name n --image i --topology v5e:4x81', "the nearest is '4x8'"),
  ('gke.sh --name n --image i --topology v5e:2x2 --chips 8', 'nodes of 8'),
  (
    'gke.sh --name N --image i --topology v5e:2x2 -- jaxdistill',
    'may have a-z',
  ),
  ('slurm.sh --nodes 0 -- jaxdistill doctor', "from 1 on, not '0'"),
  ('slurm.sh --nodes 2 -- jaxdistill train', "needs '--coordinator auto'"),
  ('slurm.sh --nodes 2 -- jaxdistill eval', "needs '--coordinator auto'"),
  ('xpk.sh --name n --cluster c --image i', '--topology is required'),
  ('skypilot.sh -- jaxdistill doctor', '--gpus or --topology is required'),
  ('skypilot.sh --gpus H100:8 -- jaxdistill train --coordinator auto', 'told'),
  ('skypilot.sh --gpus H100:8 --nodes 2 -- jaxdistill plot', 'on one node'),
  ('babysit.sh --tries many -- true', "not 'many'"),
  ('babysit.sh', 'the command is missing'),
]


@pytest.mark.parametrize(('call', 'said'), REFUSED)
def test_what_is_wrong_is_said_in_a_line(fake, call, said):
  fake.add('gcloud', 'kubectl', 'xpk', 'sbatch', 'sky')
  script, *words = call.split()
  done = launch(script, *words)
  (line,) = done.stderr.splitlines()
  assert done.returncode == WRONG and not done.stdout
  assert line.startswith(f'{script}: ') and said in line
  assert not fake.take()


def test_a_folder_that_goes_with_its_host_is_noted():
  command = [
    'jaxdistill',
    'train',
    '--workdir',
    'runs/a',
    '--coordinator',
    'auto',
  ]
  done = launch('gke.sh', *CALLS['gke.sh'], '--dry-run', '--', *command)
  assert done.returncode == 0 and 'runs/a must be a disk' in done.stderr


@pytest.mark.parametrize('script', [*CALLS, 'babysit.sh'])
def test_help_has_every_option(script):
  said = launch(script, '--help')
  assert said.returncode == 0 and not said.stderr
  (known,) = re.findall(
    r"^read_options '(.*)' ", (LAUNCH / script).read_text(), re.M
  )
  for name in [*known.split(), 'dry-run', 'help']:
    assert re.search(rf'^  --{name.rstrip("=")}\b', said.stdout, re.M), name


# What comes back by itself.


@pytest.mark.parametrize(
  ('codes', 'code', 'starts'),
  [
    ('75 75 0', 0, 3),
    ('2', 2, 1),
    ('1 1 1 0', 1, 3),
    ('1 75 139 0', 0, 4),
    ('127', 127, 1),
  ],
)
def test_a_command_is_begun_again_by_its_exit_code(fake, codes, code, starts):
  fake.add('work')
  fake.ends_with('work', codes)
  done = launch('babysit.sh', '--wait=0', '--', 'work', 'a b', '')
  assert done.returncode == code
  assert fake.calls == [['work', 'a b', '']] * starts


SAVES = """
import pathlib, signal, sys, time
def save(*_):
  signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends it
  time.sleep(.3)
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path('up').touch()
time.sleep(60)
"""


def test_a_signal_is_handed_down_and_ends_the_tries(tmp_path):
  words = ['--record=r', '--', sys.executable, '-c', SAVES]
  process = subprocess.Popen([LAUNCH / 'babysit.sh', *words], cwd=tmp_path)
  try:
    until(lambda: (tmp_path / 'up').exists())
    assert (tmp_path / 'r/pid').read_text() == f'{process.pid}\n'
    for _ in range(2):  # of an impatient one
      process.send_signal(signal.SIGTERM)
      time.sleep(0.1)
    assert process.wait(20) == GOES_ON
    assert (tmp_path / 'r/ended').read_text() == f'{GOES_ON}\n'
    assert not (tmp_path / 'r/pid').exists()
  finally:
    process.kill()


def until(true, seconds=20.0):
  end = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < end
    time.sleep(0.02)


def test_the_pods_are_begun_again_by_their_exit_codes():
  """By the words in which Kubernetes says why a job failed."""
  spec = manifest('--restarts=5')['spec']
  (job,) = spec['replicatedJobs']
  pods = job['template']['spec']
  assert pods['backoffLimit'] == 0
  assert pods['template']['spec']['restartPolicy'] == 'Never'
  by_code, by_condition = pods['podFailurePolicy']['rules']
  assert by_code['onExitCodes']['values'] == [WRONG, GOES_ON]
  assert by_condition['onPodConditions'][0]['type'] == 'DisruptionTarget'
  assert by_code['action'] == by_condition['action'] == 'FailJob'

  def action(message):
    for rule in spec['failurePolicy']['rules']:
      assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
      if any(
        re.search(x, message) for x in rule['onJobFailureMessagePatterns']
      ):
        return rule['action']

  failed = (
    'Container jaxdistill for pod d/n-slice-0-2 failed with exit code {} '
  )
  failed += 'matching FailJob rule at index 0'
  assert action(failed.format(WRONG)) == 'FailJobSet'
  assert action(failed.format(GOES_ON)) == 'RestartJobSetAndIgnoreMaxRestarts'
  lost = (
    'Pod d/n-slice-0-2 has condition DisruptionTarget matching FailJob rule'
  )
  assert action(lost) == 'RestartJobSetAndIgnoreMaxRestarts'
  # Any other failure is of another reason, and counted.
  assert action(failed.format(22)) is None
  assert spec['failurePolicy']['maxRestarts'] == 5


def test_xpk_and_skypilot_know_the_exit_codes():
  words = shlex.split(dry('xpk.sh', *CALLS['xpk.sh']))
  codes = option(words, '--restart-on-exit-codes').split(',')
  assert str(GOES_ON) in codes and str(WRONG) not in codes
  task = document(dry('skypilot.sh', *CALLS['skypilot.sh']))
  recovery = task['resources']['job_recovery']
  assert recovery['recover_on_exit_codes'] == [GOES_ON]
  assert recovery['max_restarts_on_errors'] == 0  # babysit.sh counts them


# A slice and its run as gcloud tells of them, an answer for each time it is
# asked.
CLOUD = f"""#!{sys.executable}
import json, pathlib, sys
here = pathlib.Path({{folder!r}})
words = sys.argv[1:]
text = ' '.join(words)
with (here / 'calls').open('a') as file:
  print(json.dumps([*words, '']), file=file)
refused = (here / 'slice').read_text() == 'refused'
if refused:
  sys.exit('create' in words)
for what, mark in ('slice', ' list '), ('run', 'echo running'):
  if mark in text:
    answer, _, left = (here / what).read_text().partition('|')
    (here / what).write_text(left)
    print(answer)
    sys.exit(answer == 'fails')
"""


@pytest.mark.parametrize(
  ('slice', 'run', 'code', 'verbs'),
  [
    (
      'fails||WAITING_FOR_RESOURCES|ACTIVE|ACTIVE|SUSPENDED||ACTIVE|ACTIVE',
      'running|0',
      0,
      'create scp ssh ssh delete create scp ssh ssh delete',
    ),
    ('ACTIVE|ACTIVE', '2', 2, 'scp ssh ssh'),
    ('ACTIVE|ACTIVE|ACTIVE', '75|1', 1, 'scp ssh ssh ssh'),
    ('ACTIVE|ACTIVE', 'stopped', 75, 'scp ssh ssh'),
    ('refused', '', 1, 'create create create'),
  ],
  ids=['preempted', 'wrong', 'fails', 'stopped', 'refused'],
)
def test_a_slice_that_is_taken_away_is_created_again(
  fake, tmp_path, slice, run, code, verbs
):
  fake.add('sleep', 'tar')
  gcloud = tmp_path / 'bin/gcloud'
  gcloud.write_text(CLOUD.format(folder=str(tmp_path)))
  gcloud.chmod(0o755)
  (tmp_path / 'slice').write_text(slice)
  (tmp_path / 'run').write_text(run)
  words = ['up', *TPU, SLICE, '--spot', '--then-delete', '--', *COMMAND]
  done = launch('tpu_vm.sh', *words, timeout=20)
  assert done.returncode == code, done.stderr
  calls = [c for c in fake.calls if c[0] == 'compute']
  told = [c for c in calls if 'list' not in c and 'echo running' not in str(c)]
  assert [c[3] for c in told] == verbs.split()
  assert all('--spot' in c for c in told if c[3] == 'create')
  left = 'scp' in verbs and code != 0
  assert ('is still there' in done.stderr) == left


# Linters and schemas.


def test_the_scripts_are_sound():
  scripts = [str(p) for p in sorted(LAUNCH.glob('*.sh'))]
  words = ['--external-sources', f'--source-path={ROOT}', *scripts]
  done = subprocess.run([TOOLS / 'shellcheck', *words], capture_output=True)
  assert done.returncode == 0, done.stdout.decode()


def test_the_images_are_sound():
  files = [str(p) for p in sorted((LAUNCH / 'docker').glob('*.Dockerfile'))]
  assert len(files) == 2
  done = subprocess.run([TOOLS / 'hadolint', *files], capture_output=True)
  assert done.returncode == 0, done.stdout.decode()


def test_no_script_holds_a_hyper_parameter():
  for path in LAUNCH.iterdir():
    if path.suffix in ('.sh', '.yaml') and path.stem != 'test_newest':
      assert '--config.' not in path.read_text(), path


def test_the_manifest_is_a_jobset():
  """By JobSet's own types, as another project publishes them."""
  from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import (
    JobsetV1alpha2JobSet,
  )

  given = manifest('--spot', '--slices=2', '--account=a')
  assert given['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  # What it does not know it would leave out.
  read = JobsetV1alpha2JobSet.from_dict(given)
  assert read is not None and read.to_dict() == given


def test_gcloud_knows_the_commands(tmp_path):
  """By gcloud's own check of a command line, which asks no server."""
  if not shutil.which('gcloud'):
    pytest.skip('gcloud is not installed')
  up = ['up', *TPU, SLICE, '--then-delete', '--project=p', '--account=a@b']
  lines = set()
  for more in ['--spot'], ['--direct']:
    said = dry('tpu_vm.sh', *up, *more, command=['jaxdistill', 'doctor'])
    lines |= {*said.splitlines()}
  for verb in 'logs', 'status', 'stop':
    lines |= {*launch('tpu_vm.sh', verb, *TPU, '--dry-run').stdout.splitlines()}
  lines = [line for line in lines if line.startswith('gcloud')]
  lines = [{'command_string': line} for line in lines]
  (tmp_path / 'lines').write_text(json.dumps(lines))
  check = ['gcloud', 'meta', 'lint-gcloud-commands']
  done = subprocess.run(
    [*check, f'--commands-file={tmp_path / "lines"}'],
    capture_output=True,
    text=True,
    env=os.environ | {'CLOUDSDK_CONFIG': str(tmp_path)},
  )
  found = json.loads(done.stdout)
  assert len(found) == len(lines) >= 10
  assert [x for x in found if not x['success']] == []
