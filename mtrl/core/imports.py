"""Imports libraries whose import may fail because of an environment variable."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def import_despite(module: str, *variables: str) -> ModuleType:
    """Import a module. If that fails, try again without these environment variables.

    Some libraries read the name of a rendering backend on import. A bad name must not stop a program that does not
    render with them.
    """
    try:
        return importlib.import_module(module)
    except Exception:
        hidden = {name: os.environ.pop(name) for name in variables if name in os.environ}
        if not hidden:
            raise
    try:
        _forget(module)
        return importlib.import_module(module)
    finally:
        os.environ.update(hidden)


def _forget(package: str) -> None:
    """Remove what a failed import left, so that it can be repeated. Compiled modules stay, as they load only once."""
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package}.") and str(getattr(module, "__file__", "")).endswith(".py"):
            del sys.modules[name]
