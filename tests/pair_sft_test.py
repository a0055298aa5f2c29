"""Learning by heart what a second attempt put right: STaR and Pair-SFT."""

from revising import FIRST, SECOND, asked_for, by_words, collect

from jaxdistill.methods.pair_sft import PairSft


def learned(collected):
  ((row_set,),) = [update.sets for update in collected.updates]
  for row in row_set.rows:
    assert (row.weight_R == row.weight_R[0]).all()
  return {key: row.weight_R[0] for key, row in by_words(row_set).items()}


def test_star_learns_what_the_base_has_put_right():
  collected, policy, base = collect(PairSft, keep='star')
  assert learned(collected) == {
    f'{asked_for("1+6", "a=8")}|b=7': 1,
    f'{asked_for("2+3", "a=6")}|b=5': 1,
  }
  assert not policy.asked and len(base.revised) == 8
  assert collected.metrics['pair_sft/kept'].tolist() == [
    *(0, 1, 0, 0),
    *(0, 0, 1, 0),
  ]
  collected, _, _ = collect(PairSft, keep='star', kept_right=True)
  assert learned(collected) == {
    f'{asked_for("1+6", "a=7")}|b=7': 1,
    f'{asked_for("1+6", "a=8")}|b=7': 1,
    f'{asked_for("2+3", "a=5")}|b=5': 1,
    f'{asked_for("2+3", "a=6")}|b=5': 1,
  }
  assert sorted(collected.metrics['pair_sft/kept_right']) == [0, 0, 1, 1]
  attempts = [*FIRST['solve 1+6'], *FIRST['solve 2+3'], *SECOND.values()]
  assert collected.tokens == sum(map(len, attempts))


def test_pairs_are_of_independent_attempts_at_one_problem():
  collected, _, base = collect(PairSft, keep='pairs')
  # The next right one, round about; what was cut is not gone on from.
  wanted = {
    f'{asked_for("1+6", "a=8")}|d=7': 1,
    f'{asked_for("1+6", "c=8")}|d=7': 1,
    f'{asked_for("2+3", "a=6")}|a=5': 1,
    f'{asked_for("2+3", "x")}|a=5': 1,
  }
  assert learned(collected) == wanted
  assert not base.revised
  firsts = [*FIRST['solve 1+6'], *FIRST['solve 2+3']]
  assert collected.tokens == sum(map(len, firsts))  # each is drawn once
  collected, _, _ = collect(PairSft, keep='pairs', kept_right=True)
  assert learned(collected) == wanted | {
    f'{asked_for("1+6", "a=7")}|d=7': 1,
    f'{asked_for("1+6", "d=7")}|a=7': 1,
  }  # the only right one of the other problem has no other to follow it
  told = collected.transcripts[1]
  assert told['followed_by'] == [None, None, 'a=5', 'a=5']
  assert told['kept'] == [False, False, True, True]


def test_equal_traces_are_one_row_that_counts_as_often():
  alike = FIRST | {'solve 1+6': ['a=8', 'a=8', 'd=7', 'a=8']}
  collected, _, _ = collect(PairSft, keep='pairs', first=alike)
  assert learned(collected)[f'{asked_for("1+6", "a=8")}|d=7'] == 3
