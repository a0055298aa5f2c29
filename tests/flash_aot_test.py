"""The TPU kernels through TPU's own compiler, where libtpu is installed."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from jaxdistill.models import flash
from jaxdistill.models.spans import Spans

pytest.importorskip('libtpu')


@pytest.mark.parametrize('chip', ['v5e:2x2', 'v6e:2x2'])
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(('h', 'past', 'cap'), [(64, 0, 0.0), (128, 300, 50.0)])
def test_kernels_compile(monkeypatch, chip, dtype, h, past, cap):
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  where = topologies.get_topology_desc(platform='tpu', topology_name=chip)
  there = jax.sharding.SingleDeviceSharding(where.devices[0])

  def array(*shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=there)

  def run(spans, q, k, v, grad):
    out, pull = jax.vjp(
      lambda q, k, v: flash.attention(q, k, v, spans, cap, flash.TPU), q, k, v
    )
    return out, *pull(grad)

  b, t, n, kv = 2, 4096, 4, 2
  spans = Spans(array(b, past + t), array(b, t), array(b, past + t), array())
  q, k = array(b, t, n, h, dtype=dtype), array(b, past + t, kv, h, dtype=dtype)
  program = jax.jit(run).lower(spans, q, k, k, q).compile()
  assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3
