"""Figures from the files of a run. Never imports JAX."""

from jaxdistill.plots.curves import draw_curves

__all__ = ['draw_curves']
