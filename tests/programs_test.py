"""Programs that are compiled before they are needed."""

import jax
import jax.numpy as jnp
import pytest

from jaxdistill import dist
from jaxdistill.run import memory


@pytest.fixture
def programs():
  made = dist.Programs()
  AHEAD(made)
  yield made
  made.settle()


AHEAD = dist.Programs.open  # other files need no more than they run


def described(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_what_was_foreseen_is_not_compiled_again(programs):
  traced = []

  @jax.jit
  def double(x):
    traced.append(x.shape)
    return 2 * x

  programs.foresee(double, described(3))
  programs.settle()
  assert programs(double, jnp.ones(3)).tolist() == [2, 2, 2]
  assert traced == [(3,)]
  assert programs(double, jnp.ones(2)).tolist() == [2, 2]
  assert programs(double, 1.5) == 3  # no array was foreseen
  assert traced == [(3,), (2,), ()]


def test_what_failed_beside_others_is_tried_alone(programs):
  def double(x):
    return 2 * x

  class Full:
    """A program that finds no memory while it is compiled in advance."""

    def lower(self, *_, **__):
      return self

    def compile(self):
      raise RuntimeError('RESOURCE_EXHAUSTED')

    def __call__(self, x):
      return double(x)

  full = Full()
  programs.foresee(full, described(3))
  programs.settle()
  for _ in range(2):
    assert programs(full, jnp.ones(3)).tolist() == [2, 2, 2]


@pytest.mark.parametrize(('used', 'most'), [([60, 64], 64), ([0, 0], None)])
def test_memory_of_many_hosts_is_agreed_on(monkeypatch, used, most):
  """In bytes it is more than an int32."""

  class Device:
    def __init__(self, gib):
      self.gib = gib

    def memory_stats(self):
      return {'peak_bytes_in_use': self.gib << 30} if self.gib else None

  monkeypatch.setattr(jax, 'local_devices', lambda: [*map(Device, used)])
  seen = []

  def agreed(*values):
    seen.extend(values)
    return values

  monkeypatch.setattr(dist, 'agree_max', agreed)
  assert memory.peak() == (most and most << 30)
  assert all(x < 2**31 for x in seen)
