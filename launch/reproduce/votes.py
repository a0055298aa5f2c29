"""Which votes a run of self-play had to learn from, and how many were right.

  python launch/reproduce/votes.py runs/qwen05_teacher/vote/0 \\
    results/qwen05_teacher/votes_0.json

Reads the transcripts of a run of `sqlm` on problems whose answers are known to
whoever looks on. A vote within `method.band` teaches; one that all samples
share teaches a policy gradient nothing, and is lost to it, right or wrong.
Steps are taken together in fives.
"""

import argparse
import json
import pathlib

from jaxdistill import rewards
from jaxdistill.plots.files import read_transcripts

EVERY = 5  # steps
ALL = 10**12  # of what is read


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('run', type=pathlib.Path)
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  method = json.loads((args.run / 'config.json').read_text())['method']
  records, _ = read_transcripts(args.run, ALL, ALL)
  found = by_steps(records, *method['band'])
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(json.dumps(found, indent=1) + '\n')
  print('\n'.join(map(json.dumps, found)))


def by_steps(records, low, high):
  """Of `EVERY` steps each: how many votes there were, and how many were right.

  Args:
    records: Transcripts, with their `step`; a proposal that nobody was asked
      has no answers, and counts in nothing.
    low: Least agreement of a vote that teaches.
    high: Most.
  """
  asked = [r for r in records if 'answers' in r]
  out = []
  for first in sorted({r['step'] // EVERY * EVERY for r in asked}):
    seen = [r for r in asked if r['step'] // EVERY * EVERY == first]
    votes = [(rewards.majority(r['answers']), r['known']) for r in seen]
    won = [(v, known) for v, known in votes if v.answer is not None]
    groups = {
      'all': won,
      'in_band': [pair for pair in won if low <= pair[0].share <= high],
      'unanimous': [pair for pair in won if pair[0].share == 1],
    }
    counted = {name: _counted(pairs) for name, pairs in groups.items()}
    out.append({'steps': first, 'problems': len(seen)} | counted)
  return out


def _counted(pairs):
  right = sum(rewards.is_right(vote.answer, known) for vote, known in pairs)
  return {'votes': len(pairs), 'right': right / len(pairs) if pairs else None}


if __name__ == '__main__':
  main()
