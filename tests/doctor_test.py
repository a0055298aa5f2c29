"""What is broken is a line with how to mend it; the rest is still asked."""

import json
import os
import sys

import pytest
from packaging.specifiers import SpecifierSet

from jaxdistill.cli import doctor
from jaxdistill.cli.main import main


@pytest.fixture(scope='module')
def report():
  """What the command prints here, once."""
  import contextlib
  import io

  out = io.StringIO()
  with contextlib.redirect_stdout(out):
    code = main(['doctor', '--json'])
  return code, json.loads(out.getvalue())


def test_a_sound_machine_is_well(report):
  code, found = report
  assert code == 0 and found['well'] is True
  by_name = {f['name']: f for f in found['findings']}
  assert {'Python', *doctor.LIBRARIES, *doctor.EXTRAS} <= by_name.keys()
  for name in (
    *('cores', 'memory', 'this folder', 'data folder', 'compile cache'),
    *('devices', 'compilation', 'products', 'attention', 'checkpoints'),
  ):
    assert by_name[name]['said']
  assert '8 x cpu (cpu)' in by_name['devices']['said']
  assert by_name['JAX_PLATFORMS']['said'] == 'cpu'
  missing = [f for f in found['findings'] if f['said'].startswith('missing')]
  assert all('-m pip install' in f['mend'] for f in missing)


def test_a_probe_that_fails_is_a_line(monkeypatch, capsys):
  def broken():
    raise RuntimeError('two\nlines')

  def vital():
    yield doctor.Finding('first', doctor.OK, 'fine')
    raise OSError('gone')

  monkeypatch.setattr(doctor, 'PROBES', (broken, vital, doctor.host))
  assert main(['doctor']) == 0
  said = capsys.readouterr().out
  assert (
    'note     broken                failed: RuntimeError: two lines' in said
  )
  assert 'cores' in said and 'All is well' in said
  monkeypatch.setattr(doctor, 'VITAL', (vital,))
  assert main(['doctor']) == 1
  assert 'PROBLEM  vital' in capsys.readouterr().out
  assert main(['doctor', '--json']) == 1
  assert json.loads(capsys.readouterr().out)['well'] is False


@pytest.mark.parametrize(
  ('there', 'wanted', 'status'),
  [
    ('0.10.2', '>=0.10,<0.12', 'ok'),
    ('0.11.0', '<0.12,>=0.10', 'ok'),
    ('0.9.9', '>=0.10,<0.12', 'PROBLEM'),
    ('0.12.0', '>=0.10,<0.12', 'note'),
    ('0.12.8', '>=0.12.8', 'ok'),
    ('0.12.7', '>=0.12.8', 'PROBLEM'),
    ('1.0', '>=0.12.8', 'ok'),
    ('0.10.2.dev3', '>=0.10,<0.12', 'ok'),
    ('3.1', '', 'ok'),
  ],
)
def test_versions_are_held_against_a_range(there, wanted, status):
  found = doctor.version('jax', there, SpecifierSet(wanted))
  assert found.status == status
  assert (status == 'ok') == (not found.mend)
  if status != 'ok':
    assert f"install 'jax{SpecifierSet(wanted)}'" in found.mend


def test_a_folder_is_tried(tmp_path, monkeypatch):
  found = doctor.folder('x', str(tmp_path / 'a' / 'b'), 'mend', 'PROBLEM')
  assert found.status == 'ok' and 'GiB free' in found.said
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').write_text('')
  found = doctor.folder('x', str(tmp_path / 'file' / 'b'), 'mend', 'PROBLEM')
  assert found.status == 'PROBLEM' and 'not a directory' in found.said
  assert found.mend == 'mend'
  assert doctor.folder('x', '/proc/x', 'mend', 'note').status == 'note'
  assert 'remote' in doctor.folder('x', 'gs://a/b', 'mend', 'note').said
  monkeypatch.setenv('TFDS_DATA_DIR', '/proc/data')
  by_name = {f.name: f for f in doctor.folders()}
  assert by_name['data folder'].status == 'PROBLEM'
  assert 'TFDS_DATA_DIR' in by_name['data folder'].mend


SPEAKS = (
  'import json; print(json.dumps(["devices", "ok", "1 x cpu (cpu)", ""]))'
)


def test_a_process_that_crashes_or_hangs_is_a_line(monkeypatch):
  def asked(code):
    return list(doctor.elsewhere([sys.executable, '-c', code]))

  (found,) = asked(SPEAKS)
  assert found == ('devices', 'ok', '1 x cpu (cpu)', '')
  assert asked(f'print("[a library")\nprint({{}})\n{SPEAKS}') == [found]
  first, last = asked(f'{SPEAKS}\nraise SystemExit("no driver")')
  assert first.status == 'ok' and last.status == 'PROBLEM'
  assert last.said == 'JAX: ended with code 1; no driver'
  (found,) = asked('import os; os.abort()')
  assert 'ended with code -6' in found.said and 'JAX_PLATFORMS' in found.mend
  monkeypatch.setattr(doctor, 'SECONDS', 1)
  (found,) = asked('import time; time.sleep(60)')
  assert found.said.startswith('JAX: no answer in 1 s')


@pytest.mark.parametrize(
  ('kind', 'plugin', 'platforms', 'mend'),
  [
    ('nvidia', False, '', "pip install 'jax[cuda13]>=0.10,<0.13'"),
    ('tpu', False, '', "pip install 'jax[tpu]>=0.10,<0.13'"),
    ('nvidia', True, '', 'its plugin is installed but finds nothing'),
    ('nvidia', False, 'cpu', 'unset JAX_PLATFORMS'),
  ],
)
def test_an_accelerator_that_is_not_used(
  monkeypatch, kind, plugin, platforms, mend
):
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  monkeypatch.setattr(doctor, 'has', lambda module: plugin)
  found = doctor.unused('1 at /dev/nvidia*', kind)
  assert mend in found.mend and '/dev/nvidia*' in found.said
  assert found.status == 'note'


def test_accelerators_are_seen_by_their_signs(monkeypatch):
  for name in ('TPU_NAME', 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_ID'):
    monkeypatch.delenv(name, raising=False)
  shown = {'/dev/nvidia[0-9]*': ['/dev/nvidia0', '/dev/nvidia1']}
  monkeypatch.setattr(doctor.glob, 'glob', lambda p: shown.get(p, []))
  monkeypatch.setattr(os.path, 'exists', lambda p: False)
  assert doctor.accelerators() == [('2 at /dev/nvidia*', 'nvidia')]
  shown.clear()
  monkeypatch.setattr(doctor.shutil, 'which', lambda name: None)
  assert doctor.accelerators() == []
  monkeypatch.setenv('TPU_NAME', 'local')
  assert doctor.accelerators() == [('a TPU by TPU_NAME', 'tpu')]
  cpu = doctor.Finding('devices', 'ok', '1 x cpu (cpu)')
  monkeypatch.setattr(doctor, 'elsewhere', lambda command: [cpu])
  assert [f.name for f in doctor.devices()] == ['devices', 'unused accelerator']
  tpu = cpu._replace(said='4 x TPU v5 lite (tpu), 15.7 GiB each')
  monkeypatch.setattr(doctor, 'elsewhere', lambda command: [tpu])
  assert [f.name for f in doctor.devices()] == ['devices']
