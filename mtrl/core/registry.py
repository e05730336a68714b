"""The methods that each configuration group offers: modules of mtrl's packages, and modules that users add.

A method's module defines `Config`, a dataclass whose fields are its options, and usually `build(config, ...)`. Most of
mtrl's own methods are one file each, with the method's name. A module with several methods instead defines
`CONFIGS = {"kind": Class, ...}`. A module with neither is a helper. A module is imported when its method is chosen;
until then only its source is read.

Users add their own methods without changing mtrl. An installed package declares an entry point, in a group with the
name of the mtrl package to which the module would belong:

    [project.entry-points."mtrl.networks"]
    wide = "my_package.wide"

A module that is not installed is named by `mtrl train --import my_module`. When it is imported, it calls
`NETWORKS.add("wide", "my_package.wide")`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, NamedTuple

from mtrl.core import source
from mtrl.core.errors import UserError, expected, told


class _Entry(NamedTuple):
    package: str
    """The package of the registry that has the method."""
    module: str


_registries: dict[str, list[Registry]] = {}
"""Group -> its registries, except those that choose among another group's methods (`Registry.usual`)."""
imported: list[str] = []
"""The modules that the user named with --import, to be passed on to child processes."""


@dataclass(frozen=True)
class Registry:
    """The methods of one package, and those that users add to it."""

    group: str
    """The configuration group: network, surgery, ..."""
    package: str
    """The package that holds the methods' modules."""
    many: bool = False
    """Whether a run may choose several methods, each with its options under `<group>.<kind>`."""
    usual: str = ""
    """The group from whose methods this group chooses, if not its own. The methods' own checks name that group."""
    folders: tuple[str, ...] = ()
    """Packages within `package` that also hold methods of this registry."""
    makes: str = ""
    """The full name, with its module, of the class that `build` must return; not checked if empty."""

    def __post_init__(self) -> None:
        if not self.usual:
            _registries.setdefault(self.group, []).append(self)

    @property
    def _entries(self) -> dict[str, _Entry]:
        return _table(self.usual or self.group)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the registry's methods, sorted."""
        return tuple(sorted(kind for kind, entry in self._entries.items() if entry.package == self.package))

    def add(self, kind: str, module: str) -> None:
        """Add a method by its name and the name of its module, which is imported when the method is chosen.

        Raises:
            UserError: the name is taken in this group.
        """
        _enter(self._entries, self.usual or self.group, kind, _Entry(self.package, module))

    def place(self, kind: str) -> str:
        """The name of the method's module.

        Raises:
            UserError: there is no such method.
        """
        if kind not in self.kinds:
            raise unknown_kind(self.group, self.kinds, kind)
        return self._entries[kind].module

    def ours(self, kind: str) -> bool:
        """Whether the method is part of mtrl, rather than added from outside."""
        return _is_ours(self.place(kind))

    def module(self, kind: str) -> ModuleType:
        """Import the method's module. Raises UserError if it is missing, or if an added module's import fails."""
        return _import(self.place(kind), f"The module of {self.group}={kind}")

    def config_class(self, kind: str) -> type[Any]:
        """The dataclass of the method's options. The method's module is imported.

        Raises:
            UserError: the module cannot be imported, or has no dataclass of this `kind` whose options have defaults.
        """
        module = self.module(kind)
        config = module.CONFIGS.get(kind) if hasattr(module, "CONFIGS") else getattr(module, "Config", None)
        named = getattr(config, "kind", None)
        if config is None or named != kind:
            raise expected(f"The module {module.__name__}", f"one with a Config whose kind is {kind!r}", named)
        if "__dataclass_fields__" not in vars(config):
            raise expected(f"Config of {_defined(config)}", "a dataclass", "a class without @dataclass")
        for field in dataclasses.fields(config):
            if field.default is field.default_factory is dataclasses.MISSING:
                raise expected(f"Option {field.name!r} of {_defined(config)}", "one with a default", "none")
        return config

    def build(self, config: Any, **context: Any) -> Any:
        """Build the method that `config.kind` names.

        Raises:
            UserError: the method's module has no `build` that takes these arguments, or `build` returns something else
                than `makes` (None is allowed with `many`), or raises an error in a module that a user added.
        """
        module = self.module(config.kind)
        build, arguments = getattr(module, "build", None), ", ".join(["config", *(f"{name}=" for name in context)])
        found = f"build{inspect.signature(build)}" if callable(build) else build
        try:
            inspect.signature(build).bind(config, **context)  # type: ignore[arg-type]
        except TypeError as error:
            raise expected(f"The module {module.__name__}", f"one with build({arguments})", found) from error
        try:
            made = build(config, **context)  # type: ignore[misc]
        except Exception as error:  # the module may raise any error
            if isinstance(error, UserError) or _is_ours(module.__name__):
                raise
            what = f"one whose build({arguments}) works"
            raise expected(f"The module {module.__name__}", what, told(error, module.__name__)) from error
        place, _, name = self.makes.rpartition(".")
        if made is None and self.many:  # such as a method that does not apply to this run
            return None
        if place and not isinstance(made, getattr(importlib.import_module(place), name)):
            raise expected(f"What {module.__name__}.build returns", f"a {self.makes}", made)
        return made

    def summary(self, kind: str) -> str:
        """The first line of the module's docstring, or of the class's if the module has several methods."""
        try:
            return source.summary(self.place(kind), kind)
        except LookupError:
            module = self.module(kind)
            text = self.config_class(kind).__doc__ if hasattr(module, "CONFIGS") else module.__doc__
            return (text or "").strip().partition("\n")[0]

    def options(self, kind: str) -> list[str]:
        """The names of the method's options."""
        try:
            return source.options(self.place(kind), kind)
        except LookupError:
            return [field.name for field in dataclasses.fields(self.config_class(kind))]

    def constant(self, kind: str, name: str) -> Any:
        """The value of a class constant of the method's options class; None if there is no such constant."""
        try:
            return source.constant(self.place(kind), kind, name)
        except LookupError:
            return getattr(self.config_class(kind), name, None)


def find(registries: Iterable[Registry], group: str, kind: str) -> Registry | None:
    """The registry of `group` that has `kind`, or None. A group may have several, as for vector and image networks."""
    return next((r for r in registries if r.group == group and kind in r.kinds), None)


def unknown_kind(group: str, known: Sequence[str], found: str, many: bool = False) -> UserError:
    """The error for an unknown kind of a group. known: the group's kinds; many: whether several may be chosen."""
    near = difflib.get_close_matches(found, known, n=1)
    hint = "If a module of your own adds it, name that module with --import MODULE."
    if imported:
        named = ", ".join(dict.fromkeys(imported))
        hint = f"The imported modules ({named}) added no {group} of this name by `add` of its registry."
    hint = f"Did you mean {near[0]!r}?" if near else hint
    several = f", or several in brackets, such as [{','.join(known)}], or none, written []" if many else ""
    return UserError(f"Option `{group}` should be one of {', '.join(known)}{several}. Found {found!r}. {hint}")


def import_by_name(modules: Iterable[str]) -> None:
    """Import modules that the user names, so that they can add methods. They may also be in the working directory.

    Raises:
        UserError: there is no such module, its import fails, or it adds a name that is taken.
    """
    for module in modules:
        if not all(name.isidentifier() for name in module.split(".")):
            raise expected("--import", "a module's dotted name", module)
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last, so that no local file hides a library
        _import(module, "--import")
        imported.append(module)


def _import(module: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except UserError:
        raise
    except Exception as error:  # the module may raise any error
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            places = "in this folder, installed, or on PYTHONPATH"
            raise expected(what, f"a module that Python finds ({places}), named without .py", module) from error
        if _is_ours(module):
            raise
        raise expected(f"{what} {module}", "one that can be imported", told(error, module)) from error


def _is_ours(module: str) -> bool:
    return module.startswith(f"{__name__.partition('.')[0]}.")


def _defined(config: type[Any]) -> str:
    """The class's module, with its file and line."""
    try:
        return f"{config.__module__} ({inspect.getsourcefile(config)}, line {inspect.getsourcelines(config)[1]})"
    except (OSError, TypeError):  # made by a function
        return config.__module__


@functools.cache
def _table(group: str) -> dict[str, _Entry]:
    """The methods of all registries of a group. A name must be unique among them."""
    table: dict[str, _Entry] = {}
    for registry in _registries[group]:
        for package in (registry.package, *(f"{registry.package}.{folder}" for folder in registry.folders)):
            for module in source.submodules(package):
                for kind in _kinds(module):
                    _enter(table, group, kind, _Entry(registry.package, module))
    for registry in _registries[group]:
        for point in entry_points(group=registry.package):
            _enter(table, group, point.name, _Entry(registry.package, point.module))
    return table


def _kinds(module: str) -> list[str]:
    try:
        return source.kinds(module)
    except LookupError:
        loaded = importlib.import_module(module)
        single = [module.rpartition(".")[2]] if hasattr(loaded, "Config") else []
        return list(getattr(loaded, "CONFIGS", single))


def _enter(table: dict[str, _Entry], group: str, kind: str, entry: _Entry) -> None:
    taken = table.get(kind)
    if taken is not None and taken != entry:
        raise UserError(
            f"Option `{group}` should have one {kind!r}. Found two: {taken.module} and {entry.module}. Rename one."
        )
    table[kind] = entry
