"""Learners, one a file."""

from mtrl.core.registry import Registry

AGENTS = Registry("agent", __name__)
