"""Benchmarks. A file or folder holds one, or several of the same kind."""

from mtrl.core.registry import Registry

SUITES = Registry("benchmark", __name__, folders=("images", "dense"), makes="mtrl.core.suite.Suite")
