"""The progress bar of a run."""

from collections.abc import Mapping

from tqdm import tqdm


def bar(steps: range, total: int, shown: bool) -> tqdm:
  """Over a run's steps, of which there are `total` with those before."""
  out = tqdm(
    steps,
    initial=steps.start,
    total=total,
    unit='step',
    disable=not shown,
    dynamic_ncols=True,
  )
  out.set_postfix_str('first an evaluation, and all compiles')
  return out


def latest(split: str, metrics: Mapping[str, float]) -> str:
  """The held-out score and the speed, for the progress bar."""
  learning = (
    ('selfplay/agreement', 'agreement {:.2f}')
    if 'selfplay/agreement' in metrics
    else ('train/loss', 'loss {:.3f}')
  )
  pairs = (
    (f'eval/{split}/accuracy_sampled', 'sampled {:.3f}'),
    (f'eval/{split}/accuracy_greedy', 'greedy {:.3f}'),
    learning,
    ('rollout/tokens_per_s', '{:,.0f} tokens/s'),
  )
  return ', '.join(f.format(metrics[k]) for k, f in pairs if metrics.get(k))
