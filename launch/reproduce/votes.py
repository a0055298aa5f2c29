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
    records: Transcripts, with their `step`.
    low: Least agreement of a vote that teaches.
    high: Most.
  """
  out = []
  for first in sorted({r['step'] // EVERY * EVERY for r in records}):
    seen = [r for r in records if r['step'] // EVERY * EVERY == first]
    votes = [(rewards.majority(r['answers']), r['known']) for r in seen]
    groups = {
      'all': votes,
      'in_band': [v for v in votes if low <= _agreement(v) <= high],
      'unanimous': [v for v in votes if _agreement(v) == 1],
    }
    out.append(
      {'steps': first, 'problems': len(seen)}
      | {name: _counted(group) for name, group in groups.items()}
    )
  return out


def _agreement(pair):
  vote, _ = pair
  return vote.count / len(vote.agrees_G)


def _counted(group):
  right = sum(rewards.is_right(vote.answer, known) for vote, known in group)
  return {
    'votes': len(group),
    'right': right / len(group) if group else None,
  }


if __name__ == '__main__':
  main()
