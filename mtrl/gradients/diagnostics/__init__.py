"""Diagnostics, one per file. They log what happens in an update and change nothing."""

from mtrl.core.registry import Registry

DIAGNOSTICS = Registry("diagnostics", __name__, many=True, makes="mtrl.gradients.base.Diagnostic")
