"""Gradient surgery, one method per file: each combines the task gradients of the shared parameters."""

from mtrl.core.registry import Registry

SURGERIES = Registry("surgery", __name__, makes="mtrl.gradients.base.Surgery")
