"""Ways to damage the files of a run, for `survive.py`."""

import shutil


def flip(path, rng):
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)


def cut(path, rng):
  data = path.read_bytes()
  path.write_bytes(data[: rng.randrange(len(data))])


def empty(path, rng):
  path.write_bytes(b'')


def zero(path, rng):
  path.write_bytes(bytes(path.stat().st_size))


def grow(path, rng):
  path.write_bytes(path.read_bytes() + b'\0')


def remove(path, rng):
  shutil.rmtree(path) if path.is_dir() else path.unlink()


def into_file(path, rng):
  shutil.rmtree(path)
  path.write_text('')


def hollow(path, rng):
  shutil.rmtree(path)
  path.mkdir()


def add(path, rng):
  (path / 'more').write_text('more')


def no_json(path, rng):
  path.write_text('[1, 2]')


def bare(path, rng):
  path.write_text('{}')


def swapped(path, rng):
  """With the one of the step before."""
  before = path.with_name(f'{int(path.stem) - 1}{path.suffix}')
  data = before.read_bytes()
  path.write_bytes(data)


def all_cut(path, rng):
  for folder in path.iterdir():
    files = [p for p in folder.rglob('*') if p.is_file()]
    cut(max(files, key=lambda p: p.stat().st_size), rng)


FILE = (flip, cut, empty, zero, grow, remove)


def damages(whole, last):
  """`(path, harm)` of every damage to a run that ended with step `last`."""
  newest = whole / f'checkpoints/{last}'
  manifest = whole / f'manifests/{last}.json'
  anchor = whole / f'anchors/base/{last}'
  hashes = anchor.with_name(f'{last}.json')
  for folder in (newest, anchor):
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    for i, path in enumerate(files):
      for harm in FILE if path.stat().st_size else (grow, remove):
        if i % 3 == 0 or harm in (flip, cut, remove):
          yield path, harm
    for path in (folder, *sorted(p for p in folder.rglob('*') if p.is_dir())):
      yield from ((path, harm) for harm in (remove, into_file, hollow, add))
  for path in (manifest, hashes):
    yield from ((path, h) for h in (*FILE, no_json, bare, swapped))
    yield from ((path, flip) for _ in range(10))  # many bytes, many kinds
  for name in ('checkpoints', 'manifests', 'anchors', 'anchors/base'):
    yield from ((whole / name, harm) for harm in (remove, hollow, into_file))
  yield whole / 'checkpoints', all_cut
  for name in ('config.json', 'metrics.jsonl', 'summary.json'):
    yield from ((whole / name, h) for h in (cut, empty, zero, remove, no_json))
