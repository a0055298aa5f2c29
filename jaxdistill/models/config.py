"""Sizes and constants of a decoder: what tells the families apart."""

import dataclasses
from typing import NamedTuple

from jaxdistill.models.remat import named
from jaxdistill.models.rope import Rope


class Kind(NamedTuple):
  """What may differ from layer to layer.

  Attributes:
    rope: Positions.
    window: How many tokens are seen, the own one included; 0: all.
  """

  rope: Rope
  window: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and constants of a decoder.

  Attributes:
    vocab_size: Symbols.
    embed_dim: Width of the residual stream.
    num_layers: Blocks.
    num_heads: Query heads.
    num_kv_heads: Key and value heads; divides `num_heads`.
    head_dim: Width of a head.
    mlp_dim: Hidden width of the gated MLP.
    embed_scale: Embeddings are multiplied by it.
    rope: Positions of layers that see everything before them.
    sliding_rope: Positions of layers with a sliding window; None: the same.
    window: How many tokens a sliding layer sees, itself included; 0: no layer
      slides.
    sliding: Which layers slide, one bool per layer, if `window` is set.
    norm_eps: Added to the mean square in RMSNorm.
    norm_offset: Added to every norm's scale (Gemma: 1).
    post_norms: Norms after attention and MLP as well (Gemma).
    qk_norm: Norms on each query and key head (Qwen3, Gemma 3).
    biases: Which linear maps have a bias, of `q k v o gate up down`.
    activation: Of the gate: `silu`, or `gelu` (by tanh).
    query_scale: Queries are multiplied by it; None is `head_dim**-0.5`.
    attention_cap: Soft cap on attention logits (Gemma 2); 0 is none.
    logit_cap: Soft cap on logits (Gemma 2); 0 is none.
    tie_embeddings: Whether the output projection is the embedding.
    causal: Whether a token sees what comes before it only; if not, all of its
      own text (texts that are packed side by side then share no beginning).
    grades: Whether the output projection gives one number, a grade, and not a
      logit for each symbol.
    dtype: Compute dtype, `float32` or `bfloat16`.
    remat: What of each layer the backward pass computes again: `none`, `dots`
      (all but products with weights) or `full`; True was `full`.
    attention: How sequences are attended over: with all logits at once
      (`dense`), in linear memory by XLA (`chunked`) or by kernels of TPU and
      GPU (`pallas`; elsewhere as `chunked`), or as suits length and device
      (`auto`).
  """

  vocab_size: int
  embed_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  embed_scale: float
  rope: Rope = Rope()  # noqa: RUF009
  sliding_rope: Rope | None = None
  window: int = 0
  sliding: tuple[bool, ...] = ()
  norm_eps: float = 1e-6
  norm_offset: float = 0.0
  post_norms: bool = False
  qk_norm: bool = False
  biases: tuple[str, ...] = ()
  activation: str = 'silu'
  query_scale: float | None = None
  attention_cap: float = 0.0
  logit_cap: float = 0.0
  tie_embeddings: bool = True
  causal: bool = True
  grades: bool = False
  dtype: str = 'float32'
  remat: str | bool = 'none'
  attention: str = 'auto'

  def __post_init__(self):
    object.__setattr__(self, 'remat', named(self.remat))
    if self.causal:
      return
    if self.attention == 'pallas':
      raise ValueError(
        'attention is pallas, whose kernels read forwards only; for a model '
        'that reads both ways it must be auto, dense or chunked'
      )
    if self.window:
      raise ValueError('a model with sliding windows cannot read both ways')

  def over(self, devices: int) -> 'DecoderConfig':
    """As its heads are split over so many devices.

    Where there are fewer key heads than devices, each is there several times,
    so that every device has one and nobody's queries need another's keys.
    """
    fewer = devices > self.num_kv_heads and not devices % self.num_kv_heads
    if not fewer or self.num_heads % devices:
      return self
    return dataclasses.replace(self, num_kv_heads=devices)

  def copies(self, devices: int) -> int:
    """How often `over` has each key head."""
    return self.over(devices).num_kv_heads // self.num_kv_heads

  @property
  def outputs(self) -> int:
    """Numbers that the output projection gives of each token."""
    return 1 if self.grades else self.vocab_size

  @property
  def tied(self) -> bool:
    """Whether the output projection has no kernel of its own."""
    return self.tie_embeddings and not self.grades

  @property
  def kinds(self) -> tuple['Kind', ...]:
    """The kinds of layers there are; `kind_of` says which one has which."""
    full = Kind(self.rope, 0)
    if not self.window:
      return (full,)
    return full, Kind(self.sliding_rope or self.rope, self.window)

  @property
  def kind_of(self) -> tuple[int, ...]:
    """Index into `kinds` of every layer."""
    return tuple(map(int, self.sliding)) or (0,) * self.num_layers
