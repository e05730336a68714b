"""Importing libraries that a variable of the environment can keep from being imported."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType


def import_despite(module: str, *variables: str) -> ModuleType:
    """Import a module; where that fails, without these variables of the environment.

    A library that reads on import how it is to draw should not stop a program that draws nothing, or draws otherwise.
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
    """Let what a failed import has left be imported again, save for compiled modules, which can be loaded only once."""
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package}.") and str(getattr(module, "__file__", "")).endswith(".py"):
            del sys.modules[name]
