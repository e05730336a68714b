"""Benchmark suites, one a file or folder."""

from mtrl.core.registry import Registry

SUITES = Registry("benchmark", __name__)
