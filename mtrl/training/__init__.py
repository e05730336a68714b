"""Loops and evaluation. They know neither benchmarks nor methods, only the protocols of core."""

from mtrl.core.registry import Registry

TRAININGS = Registry("training", __name__)
