"""Simulator quantities by name, copied into one row of a preallocated array per copy.

`ProbeLayout` resolves the names of `tasks.base` once per model; `ProbeLayout.bind` captures the memory of one
``MjData``, where MuJoCo keeps all of them in one block, so that a gather after each step is a single ``take``. Rows of
several copies form ``(N, width)``, of which `ProbeLayout.views` gives the named columns without copying. Constants are
read once after a reset.
"""

from __future__ import annotations

import ctypes
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
        arrays = [np.asarray(getattr(data, source)) for source, _ in self._ids]
        start = min((address_of(array) for array in arrays), default=0)
        places = [
            (address_of(array) - start) // array.itemsize + size * identifier + offset
            for array, ((_, size), ids) in zip(arrays, self._ids.items(), strict=True)
            for identifier in ids
            for offset in range(size)
        ]
        memory, where = view_from(start, max(places, default=0) + 1), np.array(places, dtype=np.intp)
        near, touched = row[: len(places)], row[len(places) :]
        touching, (left, right) = self._touching, self._pads

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


def view_from(address: int, size: int) -> Row:
    """``size`` float64 numbers of memory from ``address`` on, which the caller keeps alive."""
    block: Any = (ctypes.c_double * size).from_address(address)
    return np.frombuffer(block, dtype=np.float64)


def is_touching(data: Any, geom: int, left_pad: int, right_pad: int) -> bool:
    """Whether both finger pads press on ``geom``, from the forces of the last ``mj_forward``.

    A contact without a constraint has the address -1 and so counts the last constraint's force, as in the package.
    """
    sums = {left_pad: 0.0, right_pad: 0.0}
    contact = data.contact
    for (first, second), address in zip(contact.geom.tolist(), contact.efc_address.tolist(), strict=True):
        pad = first if second == geom else second if first == geom else -1
        if pad in sums:
            sums[pad] += float(data.efc_force[address])
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
