"""Shapes are written in the one alphabet that `types/` sets down."""

import pathlib
import re

import jaxdistill.types

PACKAGE = pathlib.Path(jaxdistill.types.__file__).parents[1]
SHAPE = re.compile(
  r"(?:Float|Int|Bool|Shaped)\[(?:[\w.| ]|\[[^]]*\])+,\s*'([^']*)'\s*\]"
)


def shapes():
  return {
    path.relative_to(PACKAGE): SHAPE.findall(path.read_text())
    for path in PACKAGE.rglob('*.py')
  }


def letters(shape):
  """Axes of a shape; numbers, and what is any axis at all, left out."""
  axes = re.split(r'[ +]', shape.replace('*', ''))
  return {a for a in axes if a and not a.isdecimal() and a != '...'}


def test_every_letter_is_set_down():
  doc = jaxdistill.types.__doc__.split('everywhere:')[1]
  known = {*re.findall(r'\b[A-Z]\b', doc)}
  assert len(known) > 20
  found = shapes()
  assert sum(map(len, found.values())) > 150
  for path, written in found.items():
    for shape in written:
      assert letters(shape) <= known, f'{path}: {shape}'
  assert {x for w in found.values() for s in w for x in letters(s)} >= known - {
    *'PX'
  }


def test_what_is_read_of_a_shape():
  text = "x: Int[Array | np.ndarray, '*M B 2 P+T'] | None, y: Float[Array, '']"
  assert SHAPE.findall(text) == ['*M B 2 P+T', '']
  assert letters('*M B 2 P+T ...') == {*'MBPT'}
