"""Finds the differences between two configurations of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys at which two nested configs differ, with the old and the new value ("absent" if missing)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        left, right = old.get(key, "absent"), new.get(key, "absent")
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found.update(differences(left, right, f"{prefix}{key}."))
        elif left != right and not (left != left and right != right):
            found[f"{prefix}{key}"] = (left, right)
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """The `differences`, except in ignored keys and everything below them."""
    ignored = tuple(f"{key}." for key in ignore)
    return {key: values for key, values in differences(old, new).items() if not f"{key}.".startswith(ignored)}


def completed(old: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration, completed with the defaults of options that have since been added to it or its groups."""
    found = {**old}
    for key, value in defaults.items():
        if not isinstance(value, Mapping):
            found.setdefault(key, value)
        elif isinstance(old.get(key), Mapping):
            found[key] = {**value, **completed(old[key], value)}
    return found


def listed(changed: Mapping[str, tuple[Any, Any]], most: int = 4) -> str:
    """The first `most` differences as text, and how many more there are."""
    first = [f"{key}: {before!r} -> {after!r}" for key, (before, after) in sorted(changed.items())[:most]]
    more = len(changed) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
