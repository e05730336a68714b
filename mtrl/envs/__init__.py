"""Benchmarks, one per file or folder."""

from mtrl.core.registry import Registry

SUITES = Registry("benchmark", __name__, folders=("images", "dense"), makes="mtrl.core.suite.Suite")
