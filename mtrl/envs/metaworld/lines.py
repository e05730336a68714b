"""Scalar code as a list of lines, and what makes it shorter before Python compiles it.

Each pass keeps every operation and its operands, and so every bit of the results: lines that nobody reads go, lines of
constants alone are run once an episode, and a value that is read once moves to where it is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field

_NAME = re.compile(r"\b[a-z]+\d+\b")
_LONGEST = 400
"""Characters of a nested expression; Python's parser allows for 200 open brackets."""


@dataclass
class Line:
    """``names = code``; a branch, ``if condition:``, has lines inside that give its names."""

    names: list[str]
    code: str
    inside: list[Line] = field(default_factory=list)

    @property
    def reads(self) -> set[str]:
        return {name for line in (self, *flattened(self.inside)) for name in names_in(line.code)}


def names_in(code: str) -> list[str]:
    return _NAME.findall(code)


def flattened(lines: Iterable[Line]) -> Iterator[Line]:
    for line in lines:
        yield line
        yield from flattened(line.inside)


def alive(lines: Sequence[Line], needed: Set[str]) -> list[Line]:
    """The lines that ``needed`` follows from."""
    kept, wanted = [], set(needed)
    for line in reversed(lines):
        if wanted.intersection(line.names):
            wanted |= line.reads
            kept.append(line)
    return kept[::-1]


def split(lines: Sequence[Line], constants: Set[str]) -> tuple[list[Line], list[Line]]:
    """The lines that follow from constants and numbers alone, and the rest."""
    known, fixed, rest = set(constants), [], []
    branched = _assigned_twice(lines)
    for line in lines:
        if line.reads <= known and not line.inside and not branched.intersection(line.names):
            known.update(line.names)
            fixed.append(line)
        else:
            rest.append(line)
    return fixed, rest


def nest(lines: Sequence[Line], outputs: Sequence[str]) -> list[Line]:
    """Each value that is read once is computed where it is read."""
    uses = Counter(outputs)
    for line in flattened(lines):
        uses.update(names_in(line.code))
    single = {name for name, count in uses.items() if count == 1} - set(outputs) - _assigned_twice(lines)
    return _nest(lines, single, {})


def _nest(lines: Sequence[Line], single: Set[str], waiting: dict[str, str]) -> list[Line]:
    kept = []
    for line in lines:
        code = _NAME.sub(lambda found: waiting.pop(found[0], found[0]), line.code)
        if len(line.names) == 1 and line.names[0] in single and not line.inside and len(code) < _LONGEST:
            waiting[line.names[0]] = f"({code})"
        else:
            kept.append(Line(line.names, code, _nest(line.inside, single, waiting)))
    return kept


def _assigned_twice(lines: Sequence[Line]) -> set[str]:
    """The results of branches."""
    return {name for line in flattened(lines) if line.inside for name in line.names}


def text(lines: Sequence[Line], indent: str) -> list[str]:
    written = []
    for line in lines:
        written.append(indent + line.code if line.inside else f"{indent}{', '.join(line.names)} = {line.code}")
        written += text(line.inside, indent + "    ")
    return written
