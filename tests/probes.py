"""What a look at a probe finds, made up."""


def probed(right, of=100, sampled=None):
  """A look at a probe: the first `right` of its problems are solved."""
  greedy = [1.0] * right + [0.0] * (of - right)
  sampled = greedy if sampled is None else [sampled] * of
  kinds = ('accuracy_greedy', 'accuracy_sampled', 'vote_accuracy')
  return dict(zip(kinds, (greedy, sampled, greedy), strict=True))
