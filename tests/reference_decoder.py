"""The decoder once more: float64, one head of one row at a time."""

import numpy as np

from jaxdistill.models.linear import RoleDelta

LINEARS = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')


def f64(variable):
  return np.asarray(variable[...], np.float64)


def reference_kernel(model, name, role):
  """Kernel plus every delta in force, as one matrix."""
  linear = getattr(model, name)
  kernel = f64(linear.kernel) if hasattr(linear, 'kernel') else 0.0
  for a, b in linear.deltas:
    at = role if isinstance(a, RoleDelta) else slice(None)
    scale = model.deltas.alpha / model.deltas.rank
    kernel = kernel + scale * f64(a)[at] @ f64(b)[at]
  return kernel


def reference_norm(x, scale, eps):
  return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def reference_rope(x, theta):
  """Coordinates i and i + half as one complex number, turned by position."""
  half = x.shape[-1] // 2
  z = x[..., :half] + 1j * x[..., half:]
  for position in range(len(x)):
    for i in range(half):
      z[position, ..., i] *= np.exp(1j * position / theta ** (i / half))
  return np.concatenate([z.real, z.imag], -1)


def reference_logits(model, row, role=0):
  c, t = model.config, len(row)
  w = {name: reference_kernel(model, name, role) for name in LINEARS}
  embed = f64(model.embed)
  x = embed[row] * c.embed_scale
  for i in range(c.num_layers):
    h = reference_norm(x, f64(model.attention_norm)[i], c.norm_eps)
    q = (h @ w['q'][i]).reshape(t, c.num_heads, c.head_dim)
    k = (h @ w['k'][i]).reshape(t, c.num_kv_heads, c.head_dim)
    v = (h @ w['v'][i]).reshape(t, c.num_kv_heads, c.head_dim)
    q, k = (reference_rope(x, c.rope.theta) for x in (q, k))
    heads = []
    for n in range(c.num_heads):
      shared = n // (c.num_heads // c.num_kv_heads)
      scores = q[:, n] @ k[:, shared].T / np.sqrt(c.head_dim)
      if c.causal:
        scores = np.where(np.tri(t, dtype=bool), scores, -np.inf)
      p = np.exp(scores - scores.max(-1, keepdims=True))
      heads.append(p / p.sum(-1, keepdims=True) @ v[:, shared])
    x = x + np.concatenate(heads, -1) @ w['o'][i]
    h = reference_norm(x, f64(model.mlp_norm)[i], c.norm_eps)
    gate = h @ w['gate'][i]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ w['up'][i])) @ w['down'][i]
  head = reference_kernel(model, 'head', role)
  if c.tied:
    head = embed.T + head
  return reference_norm(x, f64(model.norm), c.norm_eps) @ head


def log_softmax64(logits):
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
