"""Differences between scores under one query, held against a teacher's."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxdistill.losses.policy import sum_over


def margin_mse(
  errors: Float[Array, 'B R'], queries: Int[Array, 'B R']
) -> Float[Array, 'B R']:
  """The mean over all pairs of `((s_a - s_b) - (t_a - t_b))^2`.

  (Margin MSE, arXiv 2010.02666, sec. 3.1.) With `e = s - t` a pair's value is
  `(e_a - e_b)^2`, and over all pairs of n items these sum up to n times the
  sum of `(e - mean(e))^2`: all pairs cost no more than their items.

  Args:
    errors: Score less target, one item a place.
    queries: Which query of the sequence an item is of, see `Batch.pairs`.

  Returns:
    A value per item, whose mean over a query's items is that over its pairs;
    0 where there is one item.
  """
  n = sum_over(jnp.ones_like(errors), queries)
  apart = errors - sum_over(errors, queries) / n
  return 2 * n / jnp.maximum(n - 1, 1) * apart**2
