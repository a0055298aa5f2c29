"""What methods share that learn by a policy gradient; no method itself.

An objective is three small choices:

| name      | advantage          | a token weighs     | ratio, clipped       |
|-----------|--------------------|--------------------|----------------------|
| `grpo`    | `group_normalised` | `by_sequence`      | `token_ratio`        |
| `dr_grpo` | `centred`          | `by_longest`       | `token_ratio`        |
| `dapo`    | `group_normalised` | `by_token`         | `token_ratio`        |
| `gspo`    | `group_normalised` | `by_sequence`      | `sequence_mean_ratio`|
| `rloo`    | `leave_one_out`    | `by_sequence`      | `sequence_ratio`     |

`dapo` also drops the groups whose rewards are all equal. Everywhere the KL is
per token and in the loss; RLOO's paper has it in the reward.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxdistill import losses, rewards
from jaxdistill.batch import Batch
from jaxdistill.methods.method import check_choice, check_least
from jaxdistill.models.decoder import Decoder
from jaxdistill.rollout import Player, Sampling, fields, policy_rows
from jaxdistill.types import Rollout, Row, RowSet, Update


def by_sequence(length: int, longest: int) -> tuple[float, float]:
  """Mean over sequences of each one's mean (GRPO, arXiv 2402.03300, eq. 3).

  Args:
    length: Tokens of a response.
    longest: Most tokens that a response may have.

  Returns:
    The weight of each of its tokens, and what it adds to the denominator.
  """
  del longest
  return 1 / length, 1.0


def by_token(length: int, longest: int) -> tuple[float, float]:
  """Mean over all tokens of the update (DAPO, arXiv 2503.14476, eq. 8)."""
  del longest
  return 1.0, float(length)


def by_longest(length: int, longest: int) -> tuple[float, float]:
  """Sum over tokens by a constant (Dr. GRPO, arXiv 2503.20783, sec. 3.2)."""
  del length
  return 1.0, float(longest)


@dataclasses.dataclass(frozen=True)
class Objective:
  """A policy gradient, by its parts.

  Attributes:
    advantage: Rewards float[..., G] to advantages float[..., G].
    weigh: Length and limit of a response to the weight of its tokens and its
      part of the denominator.
    ratio: Token log-ratios to the log-ratio that is clipped.
    drops_equal: Whether groups whose rewards are all equal are left out.
  """

  advantage: Callable[[np.ndarray], np.ndarray]
  weigh: Callable[[int, int], tuple[float, float]]
  ratio: losses.Ratio
  drops_equal: bool = False


OBJECTIVES = {
  'grpo': Objective(rewards.group_normalised, by_sequence, losses.token_ratio),
  'dr_grpo': Objective(rewards.centred, by_longest, losses.token_ratio),
  'dapo': Objective(
    rewards.group_normalised, by_token, losses.token_ratio, drops_equal=True
  ),
  'gspo': Objective(
    rewards.group_normalised, by_sequence, losses.sequence_mean_ratio
  ),
  'rloo': Objective(rewards.leave_one_out, by_sequence, losses.sequence_ratio),
}


@dataclasses.dataclass(frozen=True)
class PolicyGradient:
  """How responses are drawn, and how what they earn moves the policy.

  A method holds one as a field; its keys are then keys of the method.

  Attributes:
    temperature: Of sampling; log-probs are taken at the same.
    top_k: Of sampling; 0 keeps all tokens.
    top_p: Of sampling.
    objective: `grpo`, `dr_grpo`, `dapo`, `gspo` or `rloo`.
    clip_low: How far below 1 the ratio counts (GSPO's paper: 3e-4).
    clip_high: How far above 1 (DAPO's paper: 0.28; GSPO's: 4e-4).
    importance_cap: What a token weighs at most that was drawn a step ahead
      (`config.ahead`) and has become likelier since.
    overlong: Tokens before the limit over which DAPO's penalty on the length
      of an answer grows to 1; 0 is none.
    kl: Weight of the divergence from the anchor `base`; at 0 there is none,
      and nothing is scored under it.
    reference: When that anchor moves, see `anchors/rules.py`.
    epochs: Passes over each step's rows.
    minibatches: Optimizer steps per pass.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  objective: str = 'grpo'
  clip_low: float = 0.2
  clip_high: float = 0.2
  importance_cap: float = 2.0
  overlong: int = 0
  kl: float = 0.001
  reference: str = 'frozen'
  epochs: int = 1
  minibatches: int = 1

  def __post_init__(self):
    check_choice(self, 'objective', OBJECTIVES)
    check_least(self, importance_cap=1)
    self.sampling(samples=1, max_tokens=1)

  def check_whole(self) -> None:
    """Finds tokens that are not drawn from the whole distribution.

    Raises:
      ValueError: They are not, and so estimate no reverse KL.
    """
    if self.top_k or self.top_p < 1:
      raise ValueError(
        f'method.top_k is {self.top_k} and method.top_p {self.top_p}; sampled '
        'tokens estimate the reverse KL only where they are drawn from the '
        'whole distribution: leave them at 0 and 1.0'
      )

  @property
  def anchors(self) -> Mapping[str, str]:
    """The anchor that the divergence is measured from, if there is one."""
    return {'base': self.reference} if self.kl else {}

  def sampling(self, samples: int, max_tokens: int) -> Sampling:
    """How a method with these settings draws."""
    return Sampling.by(self, samples, max_tokens)

  def advantages(
    self,
    rewards_PG: np.ndarray,
    lengths_PG: np.ndarray | None = None,
    longest: int = 0,
  ) -> np.ndarray:
    """Advantages of a step's responses, float[P, G].

    Args:
      rewards_PG: What they earned.
      lengths_PG: Tokens of each, where length may cost.
      longest: Most tokens that one may have.
    """
    if lengths_PG is not None:
      rewards_PG = rewards_PG + rewards.overlong(
        lengths_PG.reshape(rewards_PG.shape), longest, self.overlong
      )
    return OBJECTIVES[self.objective].advantage(rewards_PG)

  def kept(self, rewards_PG: np.ndarray) -> np.ndarray:
    """1 for each group that is trained on, 0 for one left out, float[P]."""
    drops = OBJECTIVES[self.objective].drops_equal
    return 1.0 - rewards.all_equal(rewards_PG) * drops

  def rows(
    self,
    rollouts: Sequence[Rollout],
    advantages: np.ndarray,
    scales: np.ndarray,
    base: Player | None,
    longest: int,
  ) -> list[Row]:
    """Rows of responses; every host calls it together.

    Args:
      rollouts: Of this host.
      advantages: One per response, float[N].
      scales: How much each counts, float[N]; one of 0 is left out.
      base: The anchor, if there is one: it scores the responses here.
      longest: Most tokens that a response may have.
    """
    weigh = OBJECTIVES[self.objective].weigh
    return policy_rows(
      rollouts,
      advantages,
      base,
      self.temperature,
      lambda length: weigh(length, longest),
      scales,
    )

  def rows_of_groups(
    self,
    rollouts_PG: Sequence[Sequence[Rollout]],
    rewards_PG: np.ndarray,
    base: Player | None,
    longest: int,
    trust_P: np.ndarray | None = None,
  ) -> list[Row]:
    """Rows of a step's groups by what they earned; see `rows`.

    Args:
      rollouts_PG: Of this host, as many to each problem.
      rewards_PG: What they earned, float[P, G].
      base: The anchor, if there is one.
      longest: Most tokens that a response may have.
      trust_P: How much each problem counts, where not all that are `kept`
        count the same.
    """
    rollouts = [r for rollouts_G in rollouts_PG for r in rollouts_G]
    lengths_PG = np.array([len(r.tokens_T) for r in rollouts], int)
    counts_P = self.kept(rewards_PG) if trust_P is None else trust_P
    return self.rows(
      rollouts,
      self.advantages(rewards_PG, lengths_PG, longest).ravel(),
      np.repeat(counts_P, rewards_PG.shape[1]),
      base,
      longest,
    )

  def row_set(
    self,
    rows: Sequence[Row],
    role: str = 'solver',
    kind: str = '',
    coefficients: Mapping[str, float] = MappingProxyType({}),
  ) -> RowSet:
    """Rows as a set that `loss` understands.

    Args:
      rows: From `rows`.
      role: Whose they are.
      kind: What their metrics are called by.
      coefficients: More of them, or in place of the policy's. Whether
        rows have an anchor's log-probs goes by its own `kl`.
    """
    own = {
      'clip_low': self.clip_low,
      'clip_high': self.clip_high,
      'kl': self.kl,
      'importance_cap': self.importance_cap,
    }
    return RowSet(
      *(role, rows, fields(self.kl > 0), {**own, **coefficients}, kind),
      start_temperature=self.temperature,
    )

  def update(self, *sets: RowSet) -> Update:
    """The update that sums these sets."""
    return Update(sets, self.epochs, self.minibatches)

  def loss(
    self, model: Decoder, batch: Batch
  ) -> tuple[Float[Array, 'B R'], dict[str, Float[Array, 'B R']]]:
    """See `losses.policy_gradient`."""
    return self.loss_of(batch.logprobs(model, self.temperature), batch)

  def loss_of(
    self, logp: Float[Array, 'B R'], batch: Batch
  ) -> tuple[Float[Array, 'B R'], dict[str, Float[Array, 'B R']]]:
    """The same of log-probs that are there already."""
    coefficients: Any = batch.coefficients
    return losses.policy_gradient(
      logp,
      batch.weight != 0,
      batch.segments,
      batch.fields,
      coefficients,
      OBJECTIVES[self.objective].ratio,
    )


REWARDS = ('objective', 'overlong', 'clip_low', 'clip_high')
# Of a method that pays nothing, or has no anchor `base`; and its keys.
UNPAID = PolicyGradient(kl=0.0)
UNREAD: dict[str, Any] = {
  f'method.{name}': getattr(UNPAID, name)
  for name in ('kl', 'reference', *REWARDS)
}
