"""What a method builds once is a file of its run, named by its hash."""

import json

import numpy as np
import pytest

from jaxdistill.checkpoint import RefusedError
from jaxdistill.run import records
from jaxdistill.types import Records

STATE = {
  'set': Records([{'text': 'a\u2028b', 'logp': np.arange(3.0)}, 'plain']),
  'n': 3,
  'more': [Records([]), (1, 2)],
}


def test_a_state_comes_back(tmp_path):
  kept = json.loads(json.dumps(records.put(tmp_path, STATE)))
  assert kept['n'] == 3 and kept['more'][1] == [1, 2]
  assert len(json.dumps(kept)) < 300
  back = records.get(tmp_path, kept)
  assert isinstance(back['set'], Records) and len(back['set']) == 2
  assert back['set'][0]['text'] == 'a\u2028b'
  np.testing.assert_array_equal(back['set'][0]['logp'], np.arange(3.0))
  assert back['set'][1] == 'plain' and back['more'][0] == Records([])


def test_the_same_is_written_once_and_nothing_is_overwritten(tmp_path):
  once = records.put(tmp_path, STATE)
  files = sorted((tmp_path / 'data').iterdir())
  assert [p.suffix for p in files] == ['.jsonl'] * 2
  times = [p.stat().st_mtime_ns for p in files]
  assert records.put(tmp_path, STATE) == once
  assert [p.stat().st_mtime_ns for p in files] == times
  other = records.put(tmp_path, Records(['other']))
  assert other not in (once['set'], once['more'][0])
  assert len([*(tmp_path / 'data').iterdir()]) == 3


def test_damage_is_refused(tmp_path):
  kept = records.put(tmp_path, STATE)
  path = tmp_path / 'data' / f'{kept["set"]["records_sha256"]}.jsonl'
  data = bytearray(path.read_bytes())
  data[5] ^= 1
  path.write_bytes(data)
  with pytest.raises(RefusedError, match='is damaged'):
    records.get(tmp_path, kept)
  path.unlink()
  with pytest.raises(RefusedError, match='is missing'):
    records.get(tmp_path, kept)
