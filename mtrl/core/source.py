"""Reads the options of weightings, surgeries and so on from their source, since importing all of them takes seconds.

A user chooses a method by its `kind`. A module that defines `Config` has one method; a module with a dictionary
`CONFIGS` of such classes has several. Where the source does not state something literally (a class made by a function,
a computed value), these functions raise `LookupError`, and the module has to be imported. Definitions inside `if` or
`try` are not seen.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, NamedTuple


class Imported(NamedTuple):
    """A name that a module imports: an attribute of another module, or that module itself."""

    module: str
    name: str = ""


class Class(NamedTuple):
    """The definition of a class, and the module that has it."""

    module: str
    node: ast.ClassDef


def kinds(module: str) -> list[str]:
    """The kinds of the methods that a module has; a module of helpers has none."""
    text = _text(module)  # searching the text settles most cases; parsing takes milliseconds
    if "CONFIGS" not in text:
        if re.search(r"^class Config\b", text, re.MULTILINE):
            return [module.rpartition(".")[2]]
        if not re.search(r"\bConfig\b", text):
            return []
    names = _names(module)
    if "CONFIGS" in names:
        return list(_configs(module))
    return [module.rpartition(".")[2]] if "Config" in names else []


def submodules(package: str) -> list[str]:
    """The full names of the modules directly in a package."""
    spec = _find(package)
    places = (spec and spec.submodule_search_locations) or []
    return [f"{package}.{info.name}" for info in pkgutil.iter_modules(list(places))]


def summary(module: str, kind: str) -> str:
    """The first line of the module's docstring, or of the class's if the module has several methods."""
    several = "CONFIGS" in _names(module)
    text = ast.get_docstring(_config(module, kind).node if several else _tree(module))
    return (text or "").strip().partition("\n")[0]


def options(module: str, kind: str) -> list[str]:
    """The names of the options, as `dataclasses.fields` would give them."""
    found: dict[str, None] = {}
    for owner in reversed(_order(_config(module, kind))):
        for line in owner.node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                annotation = ast.unparse(line.annotation)
                if not any(special in annotation for special in ("ClassVar", "InitVar", "KW_ONLY")):
                    found[line.target.id] = None
    return list(found)


def constant(module: str, kind: str, name: str) -> Any:
    """The value of a class constant of the method's options class; None if there is no such constant.

    If its value is a name that the module imports from another one, that other module is imported.
    """
    for owner in _order(_config(module, kind)):
        value = _assigned(owner.node.body).get(name)
        if value is not None:
            value = _names(owner.module).get(value.id) if isinstance(value, ast.Name) else value
            if isinstance(value, Imported):
                return getattr(importlib.import_module(value.module), value.name)
            with contextlib.suppress(ValueError):  # raised if the value has to be computed
                if isinstance(value, ast.expr):
                    return ast.literal_eval(value)
            raise LookupError(f"{name} of {owner.module}")
    return None


def _find(module: str) -> ModuleSpec | None:
    """Find a module's file without importing the packages around it."""
    loaded = getattr(sys.modules.get(module), "__spec__", None)
    if loaded is not None:
        return loaded
    package = module.rpartition(".")[0]
    if not package:
        return importlib.util.find_spec(module)
    parent = _find(package)
    places = parent and parent.submodule_search_locations
    return PathFinder.find_spec(module, places) if places else None


@functools.cache
def _text(module: str) -> str:
    spec = _find(module)
    read = getattr(spec and spec.loader, "get_source", lambda _: None)
    try:
        text = read(module)
    except (ImportError, SyntaxError, UnicodeDecodeError) as error:
        raise LookupError(f"source of {module}") from error
    if text is None:
        raise LookupError(f"source of {module}")
    return text


@functools.cache
def _tree(module: str) -> ast.Module:
    try:
        return ast.parse(_text(module))
    except SyntaxError as error:  # the import that follows reports the line
        raise LookupError(f"valid source of {module}") from error


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """The names that statements assign, each with its expression."""
    found: dict[str, ast.expr] = {}
    for line in body:
        match line:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                found[name] = value
    return found


@functools.cache
def _names(module: str) -> dict[str, Any]:
    """The names at a module's top level: classes, assigned expressions, and imports."""
    body = _tree(module).body
    spec = _find(module)
    package = module if spec and spec.submodule_search_locations is not None else module.rpartition(".")[0]
    found: dict[str, Any] = dict(_assigned(body))
    for line in body:
        if isinstance(line, ast.ClassDef):
            found[line.name] = line
        elif isinstance(line, ast.ImportFrom):
            base = importlib.util.resolve_name("." * line.level + (line.module or ""), package)
            found |= {alias.asname or alias.name: Imported(base, alias.name) for alias in line.names}
        elif isinstance(line, ast.Import):
            found |= {alias.asname: Imported(alias.name) for alias in line.names if alias.asname}
    return found


def _configs(module: str) -> dict[str, ast.expr]:
    """The entries of a module's `CONFIGS`."""
    table = _names(module)["CONFIGS"]
    if not isinstance(table, ast.Dict):
        raise LookupError(f"CONFIGS of {module} as a dictionary that is written out")
    pairs = zip(table.keys, table.values, strict=True)
    found = {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}
    if len(found) < len(table.keys):
        raise LookupError(f"the kinds of CONFIGS of {module}")
    return found


def _config(module: str, kind: str) -> Class:
    """The class of a method's options."""
    several = "CONFIGS" in _names(module)
    expression = _configs(module).get(kind) if several else ast.Name("Config")
    return _resolved(module, expression)


def _resolved(module: str, expression: ast.expr | None) -> Class:
    """The class to which an expression at a module's top level refers."""
    match expression:
        case ast.Name(id=name):
            found = _names(module).get(name)
            if isinstance(found, ast.ClassDef):
                return Class(module, found)
            if isinstance(found, Imported) and found.name:
                return _resolved(found.module, ast.Name(found.name))
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            found = _names(module).get(owner)
            if isinstance(found, Imported):
                return _resolved(".".join(filter(None, found)), ast.Name(name))
    raise LookupError(f"the class {ast.unparse(expression) if expression else ''} of {module}")


def _order(owner: Class) -> list[Class]:
    """A dataclass and its bases in method resolution order: a common base comes after all classes that have it."""
    found = list(_lineage(owner))
    return [base for number, base in enumerate(found) if base not in found[number + 1 :]]


def _lineage(owner: Class) -> Iterator[Class]:
    """A dataclass and its bases, which must also be dataclasses."""
    decorators = [ast.unparse(decorator).partition("(")[0] for decorator in owner.node.decorator_list]
    if decorators not in (["dataclass"], ["dataclasses.dataclass"]) or owner.node.keywords:
        raise LookupError(f"{owner.node.name} of {owner.module} as a plain dataclass")
    yield owner
    for base in owner.node.bases:
        yield from _lineage(_resolved(owner.module, base))
