"""Presets as YAML files in Hydra's config groups, and the composition of a configuration from them.

The options themselves are fields of dataclasses beside the code that they configure. Each config group has the methods
of one or several registries, so `network=mint network.width=200` needs no further declaration. Only the chosen methods
are imported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrl.configs import presets, values
from mtrl.configs.complaints import MALFORMED, explained, unknown_option
from mtrl.configs.presets import FOLDER, choices, selected
from mtrl.configs.values import leaves
from mtrl.core.config import Options, typed_as
from mtrl.core.errors import UserError, expected
from mtrl.core.records import require
from mtrl.core.registry import Registry, find, unknown_kind

_Made = TypeVar("_Made", bound=Options)


def compose(root: type[Any], registries: Sequence[Registry], overrides: Sequence[str]) -> Any:
    """An instance of the dataclass `root`, from the presets, the methods' defaults and `key=value` overrides.

    Raises:
        UserError: an override is malformed, names an unknown option or kind, or gives a value of the wrong type or
            range.
    """
    optional = presets.optional_groups(root)
    for override in overrides:
        _check_override(override, registries, optional)
    chosen = selected(root, overrides)
    for override in overrides:
        _check_option(override.partition("=")[0], root, registries, chosen)
    store = ConfigStore.instance()
    store.store(name=f"base_{root.kind}", node=root)
    GlobalHydra.instance().clear()
    try:
        for group, kind in [(group, kind) for group, kinds in chosen.items() for kind in kinds]:
            if registry := find(registries, group, kind):
                package = f"{group}.{kind}" if registry.many else group
                store.store(group=group, name=kind, node=registry.config_class(kind), package=package)
        with initialize_config_dir(str(FOLDER), version_base="1.3"):
            config = hydra_compose(root.kind, overrides=presets.choosing(overrides, chosen))
        for key, value in presets.recipe(registries, overrides, chosen)[0].items():
            OmegaConf.update(config, key, value)
        for override in overrides:
            _set(config, override, root, registries, chosen)
        return _made(config, registries)
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, overrides) from error


def _set(
    config: DictConfig,
    override: str,
    root: type[Any],
    registries: Sequence[Registry],
    chosen: Mapping[str, Sequence[str]],
) -> None:
    """Set an option, unless the override chooses the kinds of a group, which Hydra has already done."""
    key, _, text = override.partition("=")
    if key in chosen:
        return
    owners, names = _owners(key, root, registries, chosen)
    declared = next((values.hint(owner, names) for owner in owners), None)
    OmegaConf.update(config, key, values.read(key, text, declared, _is_path(owners, names)))


def _owners(
    key: str, root: type[Any], registries: Sequence[Registry], chosen: Mapping[str, Sequence[str]]
) -> tuple[list[type[Any]], list[str]]:
    """The dataclasses of the chosen kinds that may have an option, and the option's path of names in them."""
    group, *names = key.split(".")
    if not names:
        return [root], [group]
    kinds = chosen.get(group, [])
    if any(registry.many for registry in registries if registry.group == group):
        kinds, names = [kind for kind in kinds if kind == names[0]], names[1:]
    found = [(find(registries, group, kind), kind) for kind in kinds]
    return [registry.config_class(kind) for registry, kind in found if registry], names


def is_whole(root: type[Any], registries: Sequence[Registry], key: str, overrides: Sequence[str]) -> bool:
    """Whether an option of the chosen kinds takes only integers."""
    owners, names = _owners(key, root, registries, selected(root, overrides))
    return any(values.is_whole(values.hint(owner, names)) for owner in owners)


def _is_path(owners: Iterable[type[Any]], names: Sequence[str]) -> bool:
    return any(values.is_path(owner, ".".join(names)) for owner in owners)


def sweep(root: type[Any], registries: Sequence[Registry], overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run of a sweep, in order: `seed=1,2` means two runs, and so does `seed=range(1,3)`.

    Several such overrides give every combination, and the last one varies fastest. The syntax is Hydra's. An option
    that is a path is never split.
    """
    found = [alternatives(override) for override in overrides]
    groups = selected(root, overrides)
    choices_made = [texts for texts in found if texts[0].partition("=")[0] in groups]
    combinations = [selected(root, run) for run in itertools.product(*choices_made)]
    for number, texts in enumerate(found):
        key = texts[0].partition("=")[0]
        if len(texts) > 1 and any(_is_path(*_owners(key, root, registries, chosen)) for chosen in combinations):
            found[number] = [overrides[number]]  # `compose` raises the error
    return [list(run) for run in itertools.product(*found)]


def alternatives(override: str) -> list[str]:
    """Split an override with several values into overrides with one value each."""
    key, _, text = override.partition("=")
    value = values.parse(text)
    if value is None or not value.is_discrete_sweep() or value.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return [override]
    return [f"{key}={one}" for one in value.sweep_string_iterator()]


def options(config: type[_Made], group: str, overrides: Sequence[str]) -> _Made:
    """An instance of `config`, a dataclass outside any registry, from `<group>.<option>=value` overrides.

    Raises:
        UserError: an override names an unknown option, or gives a value of the wrong type or range.
    """
    made, names = OmegaConf.create({group: OmegaConf.structured(config)}), [field.name for field in fields(config)]
    try:
        for key, _, text in (override.partition("=") for override in overrides):
            name = key.removeprefix(f"{group}.")
            if name not in names:
                raise unknown_option(key, names)
            OmegaConf.update(made, key, values.read(key, text, values.hint(config, [name])))
        found = OmegaConf.to_object(made[group])
    except OmegaConfBaseException as error:
        raise explained(error, overrides) from error
    assert isinstance(found, config)
    return found


def plain(config: Any) -> Any:
    """A configuration object, or a class with its defaults, as nested plain dicts, lists and values."""
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [plain(value) for value in config]
    if not is_dataclass(config):
        return config
    made = {f.name: f.default_factory() for f in fields(config) if f.default_factory is not MISSING}
    usual = {f.name: made.get(f.name, f.default) for f in fields(config)}
    return {name: plain(usual[name] if isinstance(config, type) else getattr(config, name)) for name in usual}


def overrides(registries: Sequence[Registry], saved: dict[str, Any], further: Sequence[str] = ()) -> list[str]:
    """The `key=value` overrides that restore a configuration saved by `plain`, followed by `further` overrides.

    If `further` chooses the kind of a group, none of the group's saved options are restored.
    """
    changed = {override.partition("=")[0] for override in further}
    groups, found = {registry.group: registry for registry in registries}, []
    for key, value in saved.items():
        if value is None or key in changed:
            continue
        parts = {key: value}
        if key in groups and groups[key].many:
            found.append(f"{key}=[{','.join(value)}]")
            parts = {f"{key}.{kind}": part for kind, part in value.items()}
        elif key in groups and "kind" in value:
            found.append(f"{key}={value['kind']}")
        for prefix, part in parts.items():
            pairs = [(p, leaf) for p, leaf in leaves(prefix, part) if p not in changed and p != f"{prefix}.kind"]
            found += [f"{p}={values.quoted(leaf)}" for p, leaf in pairs]
    return [*found, *further]


def restore(root: type[Any], registries: Sequence[Registry], saved: dict[str, Any]) -> Any:
    """The configuration object from which `plain` made `saved`.

    Raises:
        UserError: `saved` lacks a group, or has a key or value that this version does not know.
    """
    groups = {registry.group: registry for registry in registries}
    optional = presets.optional_groups(root)
    try:
        nodes: dict[str, Any] = {}
        for key, value in saved.items():
            if key in groups and (value is not None or key not in optional):
                parts: Any = value if groups[key].many else {key: value}
                require(parts, {str: {"kind": str}}, "The configuration", key if groups[key].many else "")
                made = {name: _node(registries, key, part) for name, part in parts.items()}
                nodes[key] = made if groups[key].many else made[key]
            else:
                nodes[key] = values.as_typed(value)
        if absent := [group for group in groups if group not in saved and group not in optional]:
            raise expected("The configuration", f"one with the group `{absent[0]}`", "none")
        merged = OmegaConf.merge(OmegaConf.structured(root), nodes)
        assert isinstance(merged, DictConfig)
        return _made(merged, registries)
    except UserError:
        raise
    except MALFORMED as error:
        raise explained(error, []) from error


def _node(registries: Sequence[Registry], group: str, saved: dict[str, Any]) -> Any:
    """The options of one part of a saved configuration, with defaults for those that it lacks."""
    registry = find(registries, group, saved["kind"])
    if registry is None:
        raise unknown_kind(group, choices(group, registries), saved["kind"])
    return OmegaConf.merge(OmegaConf.structured(registry.config_class(saved["kind"])), values.as_typed(saved))


def _made(composed: DictConfig, registries: Iterable[Registry]) -> Any:
    """The configuration object. Raises UserError for infinite floats, NaN, and integers of more than 63 bits."""
    for registry in registries:
        if registry.usual:  # errors should name the group as typed, such as critic_surgery
            with typed_as({registry.usual: registry.group}):
                OmegaConf.to_object(composed[registry.group] or OmegaConf.create())
    config = OmegaConf.to_object(composed)
    for name, value in leaves("", plain(config)):
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise expected(f"Option `{name}`", "a finite number", number)
            if isinstance(number, int) and abs(number) >= 2**63:
                raise expected(f"Option `{name}`", "below 2^63", number)
    return config


def _check_override(override: str, registries: Sequence[Registry], optional: Sequence[str]) -> None:
    """Raise UserError where Hydra's message would not help, as for a missing `=` or an unknown kind of a group.

    optional: the groups that may be empty (null).
    """
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"An option should read key=value. Found {override!r}.")
    if key[:1] in ("+", "~"):
        raise expected("An option", f"without {key[0]!r}: options are never added or removed", override)
    known = choices(key, registries)
    many = any(registry.many for registry in registries if registry.group == key)
    if not known or (value == "null" and key in optional):
        return
    if many and value[:1] == "[" and "null" in (name.strip() for name in value[1:-1].split(",")):
        raise unknown_kind(key, known, "null", many)
    for kind in presets.listed(value) if many else [value]:
        if kind not in known:
            raise unknown_kind(key, known, kind, many)


def _check_option(
    key: str, root: type[Any], registries: Sequence[Registry], chosen: Mapping[str, Sequence[str]]
) -> None:
    """Raise UserError for an option that no chosen kind has, or for `<group>.kind`, before any kind is imported."""
    group, dot, option = key.partition(".")
    kinds = chosen.get(group, [])
    many = any(registry.many for registry in registries if registry.group == group)
    if kinds and option in ([f"{kind}.kind" for kind in kinds] if many else ["kind"]):
        raise expected(f"Option `{key}`", f"left out, as `{group}=...` chooses the kind", key)
    if not dot:
        names, name = [field.name for field in fields(root)], key
    elif many:
        kind, _, option = option.partition(".")
        names, name = list(kinds), kind
        if kind in kinds and (registry := find(registries, group, kind)):
            group, names, name = f"{group}.{kind}", registry.options(kind), option.partition(".")[0]
    elif kinds and (registry := find(registries, group, kinds[0])):
        names, name = registry.options(kinds[0]), option.partition(".")[0]
    else:
        return
    if name not in names:
        raise unknown_option(f"{group}.{name}" if dot else key, names)
