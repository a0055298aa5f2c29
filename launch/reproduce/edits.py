"""What the edits of a comparison of SEAL say: facts, forms, mistakes.

  python launch/reproduce/edits.py runs/claims/seal results/seal

Reads the transcripts of `configs/compare_seal.py`. Of the four facts of a
passage an edit says some straight on (`NAME home oslo`), some turned round
(`oslo home of NAME`), some wrong, and some not at all; what else it says is
debris. Writes means over edits and seeds, at the first step and at the last, to
`edits.json` and `edits.md`.
"""

import argparse
import json
import pathlib

import numpy as np

from jaxdistill.data.small import people
from jaxdistill.plots.claims import rows

KINDS = ('straight', 'turned', 'wrong', 'missing', 'debris')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('workdir', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  found, lines = {}, []
  for arm in sorted(p for p in args.workdir.iterdir() if p.is_dir()):
    steps = [sorted(p.glob('rollouts/*.jsonl')) for p in arm.glob('[0-9]*')]
    ends = [means([files[i] for files in steps]) for i in (0, -1)]
    found[arm.name] = {kind: [end[kind] for end in ends] for kind in KINDS}
    cells = [f'{a:.2f} → {b:.2f}' for a, b in found[arm.name].values()]
    lines.append([arm.name, *cells])
  text = rows(['arm', *KINDS], lines)
  (args.out / 'edits.json').write_text(json.dumps(found, indent=1) + '\n')
  (args.out / 'edits.md').write_text(text)
  print(text)


def means(files):
  """How often each kind is in an edit, over all edits of some files."""
  records = [json.loads(line) for file in files for line in file.open()]
  counts = [counted(r['topic'], text) for r in records for text in r['texts']]
  return {kind: float(np.mean([c[kind] for c in counts])) for kind in KINDS}


def counted(name, text):
  """Facts of somebody in an edit by kind; a fact said twice counts once.

  One that is said right, and again wrong, is right; straight and turned, it is
  straight.
  """
  of: dict[str, set[str]] = {key: set() for key in people.FACTS}
  who, debris = name.split(), 0
  for part in text.split(','):
    words = part.split()
    straight = words[:-2] == who
    if straight:
      key, value = words[-2:]
    elif words[2:] == ['of', *who]:
      value, key = words[:2]
    else:
      key = value = ''
    if value not in people.FACTS.get(key, ()):
      debris += 1
    elif people.facts(name)[key] != value:
      of[key].add('wrong')
    else:
      of[key].add('straight' if straight else 'turned')
  out = dict.fromkeys(KINDS, 0) | {'debris': debris}
  for said in of.values():
    best = next((kind for kind in KINDS if kind in said), 'missing')
    out[best] += 1
  return out


if __name__ == '__main__':
  main()
