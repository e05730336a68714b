"""Simulator quantities by name, copied into one row of a preallocated array per copy.

`ProbeLayout` resolves the names of `tasks.base` once per model; `ProbeLayout.bind` captures the memory of one
``MjData``, where MuJoCo keeps all of them in one block, so that a gather after each step is a single ``take``. Rows of
several copies form ``(N, width)``, of which `ProbeLayout.views` gives the named columns without copying. Constants are
read once after a reset.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]

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


class ProbeLayout:
    """Where each probe lies in a row of ``width`` float64 numbers.

    Args:
        model: a compiled ``mujoco.MjModel``.
        probes: {our name: probe, or a tuple of probes of one kind to be stacked}; see `tasks.base`.
    """

    def __init__(self, model: Any, probes: Mapping[str, str | Sequence[str]]) -> None:
        self._ids: dict[tuple[str, int], list[int]] = {}
        self._touching: list[int] = []
        self._pads = (model.geom("leftpad_geom").id, model.geom("rightpad_geom").id)
        places: dict[str, tuple[tuple[str, int], int, int | None]] = {}
        for name, probe in probes.items():
            parts = (probe,) if isinstance(probe, str) else tuple(probe)
            resolved = [self._resolve(model, part) for part in parts]
            kind = resolved[0][0]
            ids = self._touching if kind[0] == "touching" else self._ids.setdefault(kind, [])
            places[name] = (kind, len(ids), None if isinstance(probe, str) else len(parts))
            ids.extend(identifier for _, identifier in resolved)
        starts, column = {}, 0
        for kind, ids in self._ids.items():
            starts[kind] = column
            column += kind[1] * len(ids)
        starts[("touching", 1)] = column
        self.width = column + len(self._touching)
        self._columns = {
            name: (starts[kind] + kind[1] * position, kind[1], stacked)
            for name, (kind, position, stacked) in places.items()
        }

    @staticmethod
    def _resolve(model: Any, probe: str) -> tuple[tuple[str, int], int]:
        scope, _, rest = probe.partition(".")
        if scope == "touching":
            return ("touching", 1), model.geom(rest).id
        name, _, quantity = rest.rpartition(".")
        if (scope, quantity) not in _KINDS:
            allowed = ", ".join(f"{a}.<name>.{b}" for a, b in _KINDS)
            raise ValueError(f"A probe should be one of {allowed} or touching.<geom>. Found `{probe}`.")
        element = getattr(model, scope)(name)
        return _KINDS[scope, quantity], int(element.qposadr.item()) if scope == "joint" else element.id

    def bind(self, data: Any, row: Row) -> Callable[[], None]:
        """A function that copies the current values of ``data`` into ``row (width,)``, a contiguous view."""
        parts = [
            getattr(data, source).reshape(-1)[size * identifier : size * (identifier + 1)]
            for (source, size), ids in self._ids.items()
            for identifier in ids
        ]
        memory, where = places_of(parts)
        near, touched = row[: len(where)], row[len(where) :]
        touching, (left, right) = self._touching, self._pads
        if not touching:
            return functools.partial(memory.take, where, 0, near, "clip")

        def gather() -> None:
            memory.take(where, 0, near, "clip")
            for index, geom in enumerate(touching):
                touched[index] = is_touching(data, geom, left, right)

        return gather

    def views(self, rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """{name: view} of ``rows (..., width)``: ``(..., k)``, scalars ``(...)``, stacked ``(..., parts, k)``."""
        named = {}
        for name, (start, size, stacked) in self._columns.items():
            if stacked is not None:
                block = rows[..., start : start + size * stacked]
                named[name] = block.reshape(*block.shape[:-1], stacked, size)
            else:
                named[name] = rows[..., start] if size == 1 else rows[..., start : start + size]
        return named


def address_of(array: NDArray[Any]) -> int:
    return array.__array_interface__["data"][0]


def places_of(parts: Sequence[Row]) -> tuple[Row, NDArray[np.intp]]:
    """One array over the memory of all parts and what lies between them, and where in it their elements are.

    The caller keeps the parts' owners alive, and touches nothing but these elements.
    """
    addresses = np.concatenate([address_of(part) + 8 * np.arange(part.size) for part in parts])
    start = int(addresses.min())
    where = (addresses - start) // 8
    block: Any = (ctypes.c_double * (int(where.max()) + 1)).from_address(start)
    return np.frombuffer(block, dtype=np.float64), where


def is_touching(data: Any, geom: int, left_pad: int, right_pad: int) -> bool:
    """Whether both finger pads press on ``geom``, from the forces of the last ``mj_forward``.

    A contact without a constraint has the address -1 and so counts the last constraint's force, as in the package.
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
    """A copy of an attribute of the package's environment, or of ``model.<kind>.<name>.<field>``, as float64."""
    if source.startswith("model."):
        _, kind, rest = source.split(".", 2)
        name, _, field = rest.rpartition(".")
        value = getattr(getattr(environment.model, kind)(name), field)
    else:
        value = getattr(environment, source)
    return np.array(value, dtype=np.float64)
