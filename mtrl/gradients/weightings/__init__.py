"""Weightings, one per file: each scales the task losses."""

from mtrl.core.registry import Registry

WEIGHTINGS = Registry("weighting", __name__, makes="mtrl.gradients.base.Weighting")
