"""Shell completion. argcomplete completes commands and flags; this module adds the key=value options.

It does not import the methods that it offers, so it answers as fast as `mtrl list`.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import argcomplete
from argcomplete.completers import FilesCompleter
from argcomplete.shell_integration import shellcode

from mtrl import configs
from mtrl.core.errors import UserError
from mtrl.core.registry import find
from mtrl.experiment.config import REGISTRIES, SHORT, ExperimentConfig, completed

_GROUPS = (*dict.fromkeys(registry.group for registry in REGISTRIES), "recipe")


def script(shell: str) -> str:
    """The code for a shell to evaluate once. From then on, the shell calls mtrl for completions (see `answer`)."""
    return shellcode(["mtrl"], shell=shell)


def answer(parser: argparse.ArgumentParser) -> None:
    """Print the completions at the cursor for the shell, and end the process."""
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=_Completer())


class _Completer(FilesCompleter):
    """Completes files and folders, except where key=value options are expected."""

    def __call__(self, prefix: str, *, action: Any = None, parsed_args: Any = None, **context: Any) -> list[str]:
        if getattr(action, "dest", "") != "options":
            return super().__call__(prefix, **context)
        given = getattr(parsed_args, "options", None) or []
        return [*options(prefix, [word for word in given if "=" in word])]


def options(prefix: str, given: Sequence[str] = ()) -> Iterator[str]:
    """The completions of `prefix`: names of options, or the kinds of a group. given: the options typed before."""
    key, equals, value = prefix.partition("=")
    if equals:
        before = "".join(re.findall(r"^.*[,\[]", value))  # commas separate several kinds, and the last one is completed
        found = (f"{key}={before}{kind}" for kind in (configs.choices(key, REGISTRIES) if key in _GROUPS else ()))
    else:
        group, dot, _ = key.partition(".")
        found = itertools.chain(_names(), _groups() if not dot else _parts(group, given))
    yield from (word for word in found if word.startswith(prefix))


def _names() -> Iterator[str]:
    """The short forms, and the experiment's own options."""
    return (f"{name}=" for name in ["task", *SHORT, *(field.name for field in fields(ExperimentConfig))])


def _groups() -> Iterator[str]:
    """The groups, whose options follow a dot."""
    return (f"{group}." for group in _GROUPS if group != "recipe")


def _parts(group: str, given: Sequence[str]) -> Iterator[str]:
    """The options of the kind chosen in a group."""
    try:
        kinds = configs.selected(ExperimentConfig, completed(given)).get(group, [])
    except UserError:
        return
    for kind in kinds:
        if registry := find(REGISTRIES, group, kind):
            prefix = f"{group}.{kind}" if registry.many else group
            yield from (f"{prefix}.{name}=" for name in registry.options(kind) if name != "kind")
