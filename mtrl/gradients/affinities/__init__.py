"""Measures of how much the tasks gain from each other, one a file, taken during training."""

from mtrl.core.registry import Registry

AFFINITIES = Registry("affinity", __name__)
