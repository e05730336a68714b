"""Methods as if from outside mtrl, for one test."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from mtrl.core.registry import Registry


def add(patch: pytest.MonkeyPatch, registry: Registry, kind: str, **contents: Any) -> None:
    """Add a module of the same name as the method, with these contents, that is in no file."""
    module = ModuleType(kind)
    vars(module).update(contents)
    patch.setitem(sys.modules, kind, module)
    entries = registry._entries
    patch.setitem(entries, kind, entries[registry.kinds[0]]._replace(module=kind))
