"""A registry is a package: each of its modules is one method, named by its file.

A method's module defines `Config`, a dataclass whose fields are its options, and mostly `build(config, ...)`.
A new method is one new file; nothing else changes. A module that adapts several methods of another library
defines `CONFIGS` instead, one such dataclass for each kind.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from mtrl.core.errors import UserError


@dataclass(frozen=True)
class Registry:
    """The methods of one package: those of its modules that define `Config` or `CONFIGS`."""

    group: str
    """The name of the configuration group, for messages: network, surgery, ..."""
    package: str
    many: bool = False
    """Whether a run may choose several, each with its options under `<group>.<kind>`."""

    @cached_property
    def _entries(self) -> dict[str, tuple[ModuleType, type[Any]]]:
        entries: dict[str, tuple[ModuleType, type[Any]]] = {}
        for info in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            module = importlib.import_module(f"{self.package}.{info.name}")
            configs = getattr(module, "CONFIGS", None)
            if configs is None:
                configs = {info.name: module.Config} if hasattr(module, "Config") else {}
            entries |= {kind: (module, config) for kind, config in configs.items()}
        return entries

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted(self._entries))

    def _entry(self, kind: str) -> tuple[ModuleType, type[Any]]:
        if kind not in self._entries:
            near = difflib.get_close_matches(kind, self.kinds, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"Option `{self.group}` should be one of {', '.join(self.kinds)}. Found {kind!r}.{hint}")
        return self._entries[kind]

    def config_class(self, kind: str) -> type[Any]:
        return self._entry(kind)[1]

    def module(self, kind: str) -> ModuleType:
        return self._entry(kind)[0]

    def build(self, config: Any, **context: Any) -> Any:
        """Build the method that `config.kind` names."""
        return self.module(config.kind).build(config, **context)

    def summary(self, kind: str) -> str:
        """The first line of the documentation of the method: its module's, or its own among several of a module."""
        module, config = self._entry(kind)
        text = config.__doc__ if hasattr(module, "CONFIGS") else module.__doc__
        return (text or "").strip().partition("\n")[0]


def find(registries: Iterable[Registry], group: str, kind: str) -> Registry | None:
    """The registry of a group that has a kind: a group may have several, as networks for vectors and for images."""
    return next((r for r in registries if r.group == group and kind in r.kinds), None)
