"""Diagnostics, one a file: what each update meets and does, logged and never acted on."""

from mtrl.core.registry import Registry

DIAGNOSTICS = Registry("diagnostics", __name__, many=True)
