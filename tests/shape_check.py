"""The type checker that jaxtyping's import hook applies to the package."""

from beartype import BeartypeConf, beartype

# The numeric tower: an int is a float, as everywhere in Python.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
