"""Learners, one a file; the `trainings` of its Config are the kinds of training that it can be trained by."""

from mtrl.core.registry import Registry

AGENTS = Registry("agent", __name__)
