"""A registry is a package: each of its modules is one method, named by its file.

A method's module defines `Config`, a dataclass whose fields are its options, and mostly `build(config, ...)`.
A new method is one new file; nothing else changes.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from mtrl.core.errors import UserError


@dataclass(frozen=True)
class Registry:
    """The methods of one package: those of its modules that define `Config`."""

    group: str
    """The name of the configuration group, for messages: network, surgery, ..."""
    package: str

    @cached_property
    def _modules(self) -> dict[str, ModuleType]:
        package = importlib.import_module(self.package)
        found = (importlib.import_module(f"{self.package}.{m.name}") for m in pkgutil.iter_modules(package.__path__))
        return {m.__name__.rpartition(".")[2]: m for m in found if hasattr(m, "Config")}

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted(self._modules))

    def module(self, kind: str) -> ModuleType:
        if kind not in self._modules:
            near = difflib.get_close_matches(kind, self.kinds, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"Option `{self.group}` should be one of {', '.join(self.kinds)}. Found {kind!r}.{hint}")
        return self._modules[kind]

    def config_class(self, kind: str) -> type[Any]:
        return self.module(kind).Config

    def build(self, config: Any, **context: Any) -> Any:
        """Build the method that `config.kind` names."""
        return self.module(config.kind).build(config, **context)

    def summary(self, kind: str) -> str:
        """The first line of the method's documentation."""
        return (self.module(kind).__doc__ or "").strip().partition("\n")[0]
