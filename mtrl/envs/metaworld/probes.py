"""Reads simulator quantities by name (probes) into an array with one row per copy.

`ProbeLayout` resolves the names, whose forms `tasks.base` lists, once per model. `ProbeLayout.gatherer` finds
the quantities' addresses in each copy's ``MjData``, so that one ``take`` after each step gathers all but the contacts.
`read_constant` reads a task's constants after a reset.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Rows = NDArray[np.float64]
_KINDS: dict[tuple[str, str], tuple[str, int]] = {
    ("body", "xpos"): ("xpos", 3),
    ("body", "xquat"): ("xquat", 4),
    ("body", "xmat"): ("xmat", 9),
    ("geom", "xpos"): ("geom_xpos", 3),
    ("geom", "xmat"): ("geom_xmat", 9),
    ("site", "xpos"): ("site_xpos", 3),
    ("site", "xmat"): ("site_xmat", 9),
    ("joint", "qpos"): ("qpos", 1),
}
"""(kind of element, quantity) -> (array of ``MjData``, numbers per element)"""


class ProbeLayout:
    """The places of probes in a row of ``width`` float64 numbers: `columns` is {our name: (first, size)}, where size 0
    means a single number.

    Args:
        model: a compiled ``mujoco.MjModel``.
        probes: {our name: probe}; see `tasks.base`.

    Raises:
        ValueError: a probe has none of the known forms.
        KeyError: the model lacks an element.
    """

    def __init__(self, model: Any, probes: Mapping[str, str]) -> None:
        self._pads = (model.geom("leftpad_geom").id, model.geom("rightpad_geom").id)
        self._near: list[tuple[str, int, int]] = []
        self._touching: list[int] = []
        self.columns: dict[str, tuple[int, int]] = {}
        self.width = 0
        # The probes `touching` come last.
        for name, probe in sorted(probes.items(), key=lambda item: item[1].startswith("touching.")):
            source, size, identifier = _resolve(model, probe)
            self.columns[name] = (self.width, size if size > 1 else 0)
            self.width += size
            if source:
                self._near.append((source, size * identifier, size * identifier + size))
            else:
                self._touching.append(identifier)

    def gatherer(self, datas: Sequence[Any], rows: Rows) -> Callable[[], None]:
        """A function that copies the current probes of each of N ``MjData`` into its row of ``rows (N, width)``."""
        memory, near = places_of(
            [getattr(data, source).reshape(-1)[first:end] for data in datas for source, first, end in self._near]
        )
        # The probes `touching` at the end of a row are filled in afterwards.
        places, last = np.zeros(rows.shape, np.intp), self.width - len(self._touching)
        places[:, :last] = near.reshape(len(datas), -1)
        touching, (left, right) = list(enumerate(self._touching, last)), self._pads

        def gather() -> None:
            memory.take(places, None, rows, "clip")
            for column, geom in touching:
                for data, row in zip(datas, rows, strict=True):
                    row[column] = is_touching(data, geom, left, right)

        return gather

    def in_c(self, data: str) -> list[str]:
        """A C expression for each number of a row, given the name of a pointer to ``mjData``."""
        left, right = self._pads
        read = [f"{data}->{source}[{at}]" for source, first, end in self._near for at in range(first, end)]
        return read + [f"touching({data}, {geom}, {left}, {right})" for geom in self._touching]


def _resolve(model: Any, probe: str) -> tuple[str, int, int]:
    """(array of ``MjData``, numbers per element, index of the element) of a probe. The array is "" for ``touching``."""
    scope, _, rest = probe.partition(".")
    if scope == "touching":
        return "", 1, model.geom(rest).id
    name, _, quantity = rest.rpartition(".")
    if (scope, quantity) not in _KINDS:
        allowed = ", ".join(f"{a}.<name>.{b}" for a, b in _KINDS)
        raise ValueError(f"A probe should be one of {allowed} or touching.<geom>. Found `{probe}`.")
    element = getattr(model, scope)(name)
    return *_KINDS[scope, quantity], int(element.qposadr.item()) if scope == "joint" else element.id


def address_of(array: NDArray[Any]) -> int:
    """The address of an array's first element."""
    return array.__array_interface__["data"][0]


def places_of(parts: Sequence[Row]) -> tuple[Row, NDArray[np.intp]]:
    """One float64 array over the memory that spans all parts, and the indices of the parts' elements in it.

    The caller must keep the parts' owners alive, and use only these elements: other objects own the memory
    between the parts.
    """
    addresses = np.concatenate([address_of(part) + 8 * np.arange(part.size) for part in parts])
    start = int(addresses.min())
    where = (addresses - start) // 8
    block: Any = (ctypes.c_double * (int(where.max()) + 1)).from_address(start)
    return np.frombuffer(block, dtype=np.float64), where


def is_touching(data: Any, geom: int, left_pad: int, right_pad: int) -> bool:
    """Whether both finger pads press on ``geom``, according to the forces of the last ``mj_forward``.

    A contact without a constraint has the address −1. As in Meta-World, such a contact is given the last constraint's
    force.
    """
    if not data.ncon:
        return False
    contact = data.contact
    sums = {left_pad: 0.0, right_pad: 0.0}
    for i, (first, second) in enumerate(contact.geom.tolist()):
        pad = first if second == geom else second if first == geom else -1
        if pad in sums:
            sums[pad] += float(data.efc_force[contact.efc_address[i]])
    return sums[left_pad] > 0 and sums[right_pad] > 0


def read_constant(environment: Any, source: str) -> NDArray[np.float64]:
    """A copy of an attribute of Meta-World's environment, or of ``model.<kind>.<name>.<field>``, as float64."""
    if source.startswith("model."):
        _, kind, rest = source.split(".", 2)
        name, _, field = rest.rpartition(".")
        value = getattr(getattr(environment.model, kind)(name), field)
    else:
        value = operator.attrgetter(source)(environment)
    return np.array(value, dtype=np.float64)
