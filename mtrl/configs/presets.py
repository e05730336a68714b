"""The presets: YAML files, in one folder for each config group.

A recipe is a preset that may choose kinds and set options in any group. It is merged here rather than by Hydra, which
rejects options that the chosen kind does not have.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mtrl.configs.values import leaves
from mtrl.core.errors import UserError
from mtrl.core.registry import Registry, find

FOLDER = Path(__file__).parent


def choices(group: str, registries: Iterable[Registry]) -> list[str]:
    """The values that `<group>=` takes: the registry's methods, and the YAML presets beside this file.

    Raises:
        UserError: a preset and a method have the same name.
    """
    kinds = {kind: registry for registry in registries if registry.group == group for kind in registry.kinds}
    presets = {path.stem for path in FOLDER.glob("*/*.yaml") if path.parent.name == group}
    for kind in presets & kinds.keys():
        files = f"{FOLDER / group / kind}.yaml and {kinds[kind].place(kind)}"
        raise UserError(f"Option `{group}` should have one {kind!r}. Found two: {files}. Rename one.")
    return sorted(presets | kinds.keys())


def summary(group: str, name: str) -> str:
    """A YAML preset's description: its first comment that is not a directive to Hydra."""
    lines = (FOLDER / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = (line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def selected(root: type[Any], overrides: Sequence[str]) -> dict[str, list[str]]:
    """The chosen kinds of each group: from the overrides, or else from their recipe, or else the defaults."""
    given: dict[str, Any] = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    usual = _choices(content(root.kind)) | _choices(content(f"recipe/{given.get('recipe')}"))
    return {group: [_kind(group, kind) for kind in listed(given.get(group, kind))] for group, kind in usual.items()}


def optional_groups(root: type[Any]) -> list[str]:
    """The groups that may be empty."""
    return [group for group, kind in _choices(content(root.kind)).items() if not kind]


def choosing(overrides: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The overrides that choose kinds of groups: first the recipe's, then those given directly.

    groups: the chosen kinds of each group. Groups with none are left out, as Hydra would fail on `null`.
    """
    recipe = preset("recipe", overrides)
    own = [f"{group}={_text(kind)}" for group, kind in _choices(recipe).items() if groups.get(group)]
    return [*own, *(o for o in overrides if groups.get(o.partition("=")[0]) and not o.startswith("recipe="))]


def recipe(
    registries: Sequence[Registry], overrides: Sequence[str], chosen: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], list[str]]:
    """The options that the recipe sets, with their values, and the names of its options that do not apply.

    An option does not apply if another kind than the recipe's was chosen in its group and lacks this option. In a group
    of several kinds, it does not apply if its own kind was not chosen.
    """
    content, lacking = preset("recipe", overrides), list[str]()
    own = {group: [_kind(group, kind) for kind in listed(kind)] for group, kind in _choices(content).items()}
    found = dict(leaves("", {key: value for key, value in content.items() if key != "defaults"}))
    for option in found:
        group, *names = option.split(".")
        kinds = chosen.get(group, [])
        if any(registry.group == group and registry.many for registry in registries):
            lacks = names[0] not in kinds
        else:
            registry = find(registries, group, kinds[0]) if names and kinds else None
            lacks = registry is not None and kinds != own.get(group) and names[0] not in registry.options(kinds[0])
        lacking += [option] if lacks else []
    return {option: value for option, value in found.items() if option not in lacking}, lacking


def preset(group: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The content of the preset that the overrides choose in a group; {} if they choose none."""
    name = next((value for key, _, value in (o.partition("=") for o in reversed(overrides)) if key == group), "")
    return content(f"{group}/{name}")


def listed(choice: Any) -> list[str]:
    """The kinds that a choice names: one, several in brackets, or none (null)."""
    if isinstance(choice, str):
        choice = choice[1:-1].split(",") if choice[:1] == "[" else [choice]
    return [kind for kind in (str(name).strip() for name in choice or []) if kind not in ("", "null")]


@functools.cache
def content(preset: str) -> dict[str, Any]:
    """The content of a preset's file, such as `recipe/quick`; {} if there is no such file."""
    path = FOLDER / f"{preset}.yaml"
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what the user typed may not be a valid file name
        return {}


def _choices(preset: Mapping[str, Any]) -> dict[str, Any]:
    """Group -> what a preset's defaults list chooses in this group."""
    lines = (line for line in preset.get("defaults", []) if isinstance(line, dict))
    return {group.removeprefix("override /"): kind for line in lines for group, kind in line.items()}


def _text(choice: Any) -> str:
    return f"[{','.join(choice)}]" if isinstance(choice, list) else str(choice)


def _kind(group: str, choice: str) -> str:
    """The kind that a choice stands for: itself, or if it is a preset, the kind on which the preset is based."""
    lines = content(f"{group}/{choice}").get("defaults", [])
    base = next((line for line in lines if line != "_self_" and isinstance(line, str)), None)
    return _kind(group, base) if base else choice
