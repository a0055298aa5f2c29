"""Rows for tests of what packs them, and of what reads them packed."""

import numpy as np

from jaxdistill.types import Row, RowSet

FIELDS = ('advantage', 'old_logp')


def make_row(draw, prompt, response):
  """Tokens as given and values that differ everywhere."""
  return Row(
    prompt_T=np.asarray(prompt, np.int32),
    response_R=np.asarray(response, np.int32),
    weight_R=draw.uniform(0.5, 1.5, len(response)).astype(np.float32),
    total=float(draw.uniform(1, 2)),
    fields={
      name: draw.standard_normal(len(response)).astype(np.float32)
      for name in FIELDS
    },
  )


def row_set(lengths, coefficients=None):
  """Rows that share nothing; half of each is a response."""
  draw, rows = np.random.default_rng(3), []
  for i, n in enumerate(lengths):
    tokens = draw.integers(1, 20, n)
    tokens[0] = 100 + i
    cut = n - n // 2
    rows.append(make_row(draw, tokens[:cut], tokens[cut:]))
  return RowSet('solver', rows, FIELDS, coefficients or {})


def related_rows(seed, count, longest, empty=False):
  """Rows whose prompts have much in common, in no order."""
  draw = np.random.default_rng(seed)
  prompts = [draw.integers(1, 3, draw.integers(1, longest)) for _ in range(6)]
  rows = []
  for _ in range(count):
    prompt = prompts[draw.integers(len(prompts))]
    prompt = prompt[: draw.integers(1, len(prompt) + 1)]
    n = draw.integers(0 if empty else 1, longest - len(prompt) + 1)
    rows.append(make_row(draw, prompt, draw.integers(1, 20, n)))
  return rows


def tokens_of(row):
  return [*row.prompt_T.tolist(), *row.response_R.tolist()]
