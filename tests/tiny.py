"""The decoder that tests build when any will do."""

from jaxdistill.models import DecoderConfig

TINY = DecoderConfig(
  vocab_size=20,
  embed_dim=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=24,
  embed_scale=4.0,
)
