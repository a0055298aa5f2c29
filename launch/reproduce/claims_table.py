"""All claims in one table: what is published, what came out here, a verdict.

  python launch/reproduce/claims_table.py [--results DIR] [--readme FILE]

Reads what `claims.py` and `factorial.py` left in the folders of `results/`,
writes `results/claims.md`, and puts its first columns between the marks of the
README. A claim whose arms have not been run says so.
"""

import argparse
import dataclasses
import json
import pathlib

import contrasts

from jaxdistill.plots.claims import cell, rows

MARKS = '<!-- claims: begin -->\n', '<!-- claims: end -->\n'
HEAD = ('', 'claim', 'published', 'here: difference (interval), verdict')
HEAD += ('folder', 'seeds', 'controls', 'minutes')
SHORT = HEAD.index('seeds')  # columns that the README shows
ABOUT = """\
# The claims of the field, on the small world

Written by `launch/reproduce/claims_table.py` from the folders of `results/`,
which `launch/reproduce/claims.sh` fills (`sqlm_small` and `factorial` have
scripts of their own). Models of 0.6M weights that read, work out, judge and
revise sums in symbols, on two CPU cores: what holds here need not hold at 7B,
and [evidence](../docs/evidence.md) says what speaks for and against each claim
elsewhere. Differences are taken in each seed; intervals are Student's t over
seeds, of all claims of a folder together by Holm's procedure, so those of each
are wider than at 95%. They cover seeds, not the choice of problems, of a base
or of arms. *holds*: the interval lies on the claim's side; *does not hold*: on
the other; *inconclusive*: it contains 0 (or the margin that is said), or all
seeds have the very same value. *exploratory*: what is tested was chosen when
results, or some of them, had been seen. `folder` is where it lies in `results/`
and what `CLAIMS=... launch/reproduce/claims.sh` calls it; its `claim.md` has
all that was looked at, by arms that `configs/` names. Minutes are those of all
runs, one after another.

"""


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table.

  Attributes:
    id: Of the claim, as docs/evidence.md numbers it.
    claim: In a sentence.
    published: The figures that speak for it, and whose they are.
    folder: Of `results/`.
    controls: Which arms are there to be held against.
    of: Which tests of the record stand in the line; all if empty.
    after: Whether what is tested was written down when its runs, or some of
      them, had been looked at.
    condition: What of the record must be true, or nothing is tested; `of` are
      then its parts.
  """

  id: str
  claim: str
  published: str
  folder: str
  controls: str = ''
  of: tuple[str, ...] = ()
  after: bool = False
  condition: str = ''


ROWS = (
  Row(
    'C1',
    'training data that a model writes itself teaches it better than what it '
    'is made of, and better still when it has learned to write it',
    '33.5 → 39.7 own, 46.3 external, 47.0 trained (SEAL, 7B, SQuAD)',
    'seal',
    'random choice, any gain, equal length, beside the passage, edits by the '
    'world and by another model, the passage alone',
  ),
  Row(
    'C1',
    'edits one after another are forgotten',
    'a falling matrix, no cure tried (SEAL, fig. 6)',
    'sequential_edits',
    'replay, a divergence, both, passages as they are',
  ),
  Row(
    'C2',
    "refined data can hurt; the student's own choice helps",
    'a random mix below all refined; IFD carries the gain (2402.10110)',
    'reflection',
    'original, random, each filter alone, perplexity, another wording, '
    'told answers',
  ),
  Row(
    'C3',
    "correction is learned on one's own attempts, not offline",
    'second less first attempt: base −11.2, Pair-SFT +1.8, SCoRe +4.4 '
    '(Gemini 1.5 Flash, MATH)',
    'score',
    'STaR, Pair-SFT, one turn, no stage I, no shaping, neither, the base',
    after=True,
  ),
  Row(
    'C4',
    'self-distillation suppresses doubt and costs accuracy abroad',
    'up to −40% of AIME24; doubts fall first (2603.24472)',
    'contexts',
    'GRPO, no context, shorter, doubts cut out',
    ('doubts', 'greedy', 'below_grpo'),
  ),
  Row(
    'C5',
    'the more the teacher is told, the worse',
    '.30 → .98 told, length 13,054 → 1,873 (2603.24472)',
    'contexts',
    "nothing, another problem's solution, a wrong one",
    ('richer_greedy', 'richer_sampled'),
  ),
  Row(
    'C6',
    'a small student passes its teacher on a broad enough pool: a '
    'cross-encoder',
    'monotone in the pool, beyond the teacher (2505.07105, abstract)',
    'cross_encoder',
    'narrow and broad pools, hard labels, five sizes',
  ),
  Row(
    'C6',
    'the same: a model that writes',
    'as above',
    'pool',
    'narrow and broad pools, hard labels, three sizes',
  ),
  Row(
    'C7',
    'self-improvement is bounded by what its verifier knows, and saturates',
    'no gap below about 1B; saturates in two or three rounds (2412.02674)',
    'verifiers',
    'nothing verified, known answers, a verifier by chance, one that stands '
    'still',
    after=True,
  ),
  Row(
    'C8',
    'every gain that lasts smuggles in an anchor',
    'no source tests it as stated',
    'anchors',
    'no anchor, a judge that is the policy itself',
  ),
  Row(
    'C8',
    'the same, at a quarter of the learning rate',
    'no source tests it as stated',
    'anchors_gentle',
    'no anchor, a judge that is the policy itself',
    after=True,
  ),
  Row(
    'C9',
    'asymmetric self-play with a vote needs no data',
    '.791 → .948, format only .826, frozen proposer .934 (SQLM, 3B, products)',
    'sqlm_small',
    'random and format reward, frozen proposer, fixed bank, known answers',
    after=True,
  ),
  Row(
    'C10',
    'a model can judge itself',
    'win rate 52.4 → 59.9 (SERL)',
    'serl',
    "one order, no band, no rule, a coin's verdicts, known ones, a judge by "
    'chance',
  ),
  Row(
    'C11',
    'rejected answers of the past and chosen ones of the future keep the '
    'signal alive',
    'gap shrinks 9 times without; wins 19.7 → 29.4 (2508.06026)',
    'temporal',
    'the past or the future alone, IPO, a random judge, one that knows',
  ),
  Row(
    'C12',
    "one's own problems, filtered, beat given ones",
    '53.0 → 57.2 with answer match (2507.23751)',
    'cot',
    'no filter, two other filters, given problems and their votes, self-play',
  ),
  Row(
    'C13',
    'fit, coverage and the verifier decide',
    'never measured together',
    'factorial',
    'a full factorial of 12 arms',
    (
      *('wording_own', 'coverage_broad', 'verifier_vote'),
      *('wording_own*coverage_broad', 'wording_own*verifier_vote'),
    ),
    after=True,
  ),
  Row(
    'C14',
    'a context of code and its output dissolves the misfit',
    'proposed, not tested',
    'code',
    'a solution in words, the program, its output and the failing test',
  ),
  Row(
    'C15',
    'minding calibration brings accuracy abroad back',
    'in part (SRPO, DASD)',
    'calibration',
    'GRPO, random masks, shorter',
    ('B0_grpo', 'B0_doubts'),
    condition='B0',
  ),
)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--results', type=pathlib.Path, default='results')
  parser.add_argument('--readme', type=pathlib.Path, default='README.md')
  args = parser.parse_args()
  lines = [line(row, args.results) for row in ROWS]
  (args.results / 'claims.md').write_text(ABOUT + whole(lines))
  before, rest = args.readme.read_text().split(MARKS[0])
  _, after = rest.split(MARKS[1])
  short = rows(HEAD[:SHORT], [cells[:SHORT] for cells in lines])
  args.readme.write_text(before + MARKS[0] + short + MARKS[1] + after)


def whole(lines):
  """The table as it stands in `results/`, where links are from there."""
  table = rows(HEAD, lines).replace('](docs/', '](../docs/')
  return table.replace('](results/', '](')


def line(row, results):
  """What a claim came to."""
  summary, record = found(row, results / row.folder)
  begun = [f'[{row.id}](docs/evidence.md#{row.id.lower()})']
  begun += [row.claim, row.published]
  if not summary:
    return [*begun, 'not run yet', row.folder, '', row.controls, '']
  tests = {k: x for k, x in record['tests'].items() if x['verdict']}
  lacking = {*row.of} - {*tests}
  assert not lacking, f'results/{row.folder} has no test {lacking}'
  after = ' (exploratory)' if row.after else ''
  said = '<br>'.join(
    f'{unnumbered(x["claim"])}: {cell(x)}, {x["verdict"]}{after}'
    for x in (tests[k] for k in row.of or tests)
  )
  if row.condition and not record[row.condition]:
    said = f'not tested, for a condition fails: {said}'
  seeds = [len(arm['seeds']) for arm in summary['arms'].values()]
  minutes = sum(
    arm['wall_s'] * len(arm['seeds']) / 60 for arm in summary['arms'].values()
  )
  return [
    *begun,
    said,
    f'[{row.folder}](results/{row.folder})',
    ' to '.join(map(str, dict.fromkeys((min(seeds), max(seeds))))),
    row.controls,
    f'{minutes:.0f}',
  ]


def unnumbered(claim):
  """A claim without its number, which is in the line already."""
  number, colon, rest = claim.partition(': ')
  return rest if colon and number[1:].isdigit() else claim


def found(row, folder):
  """A comparison's summary and the record of its claim, if it has been run."""
  if row.folder == 'sqlm_small':
    summary = json.loads((folder / 'late_summary.json').read_text())
    return summary, contrasts.sqlm(summary['arms'])[0]
  if row.folder == 'factorial':
    summary = json.loads((folder / 'summary.json').read_text())
    effects = json.loads((folder / 'effects.json').read_text())['effects']
    return summary, contrasts.factorial(summary['arms'], effects)
  if not (folder / 'claim.json').exists():
    return None, {}
  files = 'summary.json', 'claim.json'
  return [json.loads((folder / name).read_text()) for name in files]


if __name__ == '__main__':
  main()
