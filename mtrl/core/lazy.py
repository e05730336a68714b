"""Packages whose names are imported on first use, so that commands that compute nothing start at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any


def lazily(package: str, names: Sequence[str], *modules: str) -> Callable[[str], Any]:
    """A package's `__getattr__` for `names`. Each comes from the first of the package's `modules` that has it."""

    def get(name: str) -> Any:
        for module in modules if name in names else ():
            found = importlib.import_module(f"{package}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
