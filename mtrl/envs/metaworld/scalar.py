"""Array functions turned into plain Python for one copy at a time.

A task's arithmetic is some hundred operations on arrays. With a few copies, each operation costs about 1 µs whatever
it does, against 0.04 µs for the same on Python floats. So for few copies the engine runs the functions once on arrays
that note down each numpy operation (`Tracer`), and writes the same operations, element by element and in the same
order, as a Python function of one copy. Sums over an axis may differ in the last bit.

What can be traced: ufuncs, ``where``, ``stack``, basic indexing, assignments to slices, ``astype``, ``reshape``, and
the two places where `kernels` asks for it (``branch``, ``call``). Anything else raises `Untraceable`.
"""

from __future__ import annotations

import ctypes
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl.envs.metaworld.lines import Line, alive, flattened, names_in, nest, split, text

Array = Any


class Untraceable(TypeError):
    """The function does something that cannot be written as scalar code."""


def _exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def _log(a: float) -> float:
    return math.log(a) if a > 0.0 else (-math.inf if a == 0.0 else math.nan)


def _single(a: float) -> float:
    return ctypes.c_float(a).value


_INFIX = {
    np.add: "+", np.subtract: "-", np.multiply: "*", np.less: "<", np.less_equal: "<=", np.greater: ">",
    np.greater_equal: ">=", np.equal: "==", np.not_equal: "!=", np.bitwise_and: "and", np.bitwise_or: "or",
    np.logical_and: "and", np.logical_or: "or",
}  # fmt: skip
_FORMS = {
    np.divide: "{0} / {1} if {1} else {0} * inf", np.negative: "-{0}", np.absolute: "abs({0})", np.square: "{0} * {0}",
    np.sqrt: "sqrt({0}) if {0} >= 0.0 else nan", np.exp: "_exp({0})", np.log: "_log({0})", np.sin: "sin({0})",
    np.cos: "cos({0})", np.invert: "not {0}", np.logical_not: "not {0}", np.isnan: "{0} != {0}",
    np.maximum: "{1} if {1} > {0} else {0}", np.minimum: "{1} if {1} < {0} else {0}",
}  # fmt: skip
_ATOM = re.compile(r"\w+|\([^()]*\)")
_EXACT_IN_SINGLE = {np.add, np.subtract, np.multiply, np.divide, np.sqrt, np.negative, np.absolute}
"""In double precision and then rounded, these give the single-precision result. `maximum` rounds nothing."""
_NAMES = {
    "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos, "nan": math.nan, "inf": math.inf,
    "_exp": _exp, "_log": _log, "_single": ctypes.c_float,
}  # fmt: skip


class Scalar(NamedTuple):
    """The code of one copy, in two parts."""

    name: str

    prepare: Callable[[Sequence[float]], tuple[float, ...]]
    """Run once an episode: from the constants, what `function` takes in their place."""
    function: Callable[..., tuple[float, ...]]
    """Called with a sequence of floats for each input, in their order; returns the outputs one after the other."""
    constants: int
    """How many numbers `prepare` returns."""
    size: int
    """How many numbers `function` returns."""
    source: str
    """The text of `function`, and of what it calls that is not Python's own: {name: text}."""
    helpers: dict[str, str]


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]


def _elements(array: Array, shape: tuple[int, ...]) -> Iterator[int]:
    """The addresses of an array's elements, as broadcast to ``shape``."""
    view = np.broadcast_to(array, shape)
    start, strides = _address(view), view.strides
    for index in np.ndindex(shape):
        yield start + sum(i * stride for i, stride in zip(index, strides, strict=True))


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, _Traced) else value


class Tracer:
    """Notes operations on traced arrays as lines of scalar code.

    Args:
        inputs: {name: array (1, size)}: parameters of the function to be written, sequences of ``size`` floats.
    """

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._inputs = dict(inputs)
        self._names: dict[int, str] = {}
        self._lines: list[Line] = []
        self._known: dict[str, str] = {}
        self._squares: set[str] = set()
        self._functions: dict[str, Callable[..., Any]] = {}
        self._alive: list[Array] = []
        self._count = 0
        for name, array in self._inputs.items():
            self._names.update({a: f"{name}{i}" for i, a in enumerate(_elements(array, array.shape))})

    def wrap(self, array: Array) -> Array:
        self._alive.append(array)
        view: Any = array.view(_Traced)
        view.tracer = self
        return view

    def ufunc(self, ufunc: Any, inputs: Sequence[Any], out: Array | None) -> Array:
        result = np.asarray(ufunc(*inputs)) if out is None else out
        kind = np.result_type(*inputs)
        single = kind == np.float32
        if single and result.dtype == np.float32 and ufunc not in (*_EXACT_IN_SINGLE, np.maximum, np.minimum):
            raise Untraceable(ufunc.__name__)
        if ufunc is np.vecdot:
            self._dot(inputs[0], inputs[1], result)
        else:
            operands = [self._read(value, result.shape, single) for value in inputs]
            rounds = result.dtype == np.float32 and ufunc in _EXACT_IN_SINGLE
            names = [self._emit(self._expression(ufunc, parts), rounds) for parts in zip(*operands, strict=True)]
            self._write(result, names)
        return self.wrap(result)

    def _dot(self, a: Array, b: Array, out: Array) -> None:
        shape = (*out.shape, a.shape[-1])
        pairs = list(zip(self._read(a, shape), self._read(b, shape), strict=True))
        products = [self._emit(f"{x} * {y}") for x, y in pairs]
        parts = [products[i : i + shape[-1]] for i in range(0, len(products), shape[-1])]
        names = [self._emit(" + ".join(part)) for part in parts]
        if all(x == y for x, y in pairs):
            self._squares.update(names)
        self._write(out, names)

    def reduce(self, ufunc: Any, array: Array, axis: int) -> Array:
        if ufunc not in _INFIX or axis not in (-1, array.ndim - 1):
            raise Untraceable(f"{ufunc.__name__}.reduce over axis {axis}")
        result = ufunc.reduce(array, axis=-1)
        parts = np.reshape(np.array(self._read(array, array.shape), dtype=object), (-1, array.shape[-1]))
        names = [self._emit(f" {_INFIX[ufunc]} ".join(part)) for part in parts]
        self._write(result, names)
        return self.wrap(result)

    def where(self, condition: Array, one: Any, other: Any) -> Array:
        result = np.where(condition, one, other)
        operands = [self._read(value, result.shape, result.dtype == np.float32) for value in (condition, one, other)]
        self._write(result, [self._emit(f"{a} if {c} else {b}") for c, a, b in zip(*operands, strict=True)])
        return self.wrap(result)

    def assign(self, value: Any, out: Array) -> None:
        """``out[...] = value``, with a change of type where they differ."""
        kind = np.asarray(value).dtype
        names = self._read(value, out.shape)
        if out.dtype == np.float32 and kind != np.float32:
            names = [self._emit(name, True) for name in names]
        elif out.dtype != np.bool_ and kind == np.bool_:
            names = [self._emit(f"1.0 if {name} else 0.0") for name in names]
        np.copyto(out, value, casting="unsafe")
        self._write(out, names)

    def call(self, function: Callable[..., Any], argument: Array, result: Array) -> Array:
        """``function`` of an array's elements, which returns as many numbers as ``result`` has."""
        name = f"f_{function.__name__}"
        self._functions[name] = function
        width, size = argument.shape[-1], result.shape[-1]
        reads = self._read(argument, argument.shape)
        names = []
        for i in range(result.size // size):
            part = reads[i * width : (i + 1) * width]
            fresh = [self._fresh() for _ in range(size)]
            self._lines.append(Line(fresh, f"{name}({', '.join(part)})"))
            names += fresh
        self._write(result, names)
        return self.wrap(result)

    def branch(self, condition: Array, function: Callable[[], Array], otherwise: Array) -> Array:
        """``function()`` where the condition holds, else ``otherwise``."""
        (decision,) = self._read(condition, condition.shape)
        outer, known = self._lines, dict(self._known)
        self._lines = []
        results = self._read(_plain(function()), otherwise.shape)
        inner, self._lines, self._known = self._lines, outer, known
        others = self._read(otherwise, otherwise.shape)
        names = [self._fresh() for _ in others]
        inner += [Line([name], result) for name, result in zip(names, results, strict=True)]
        self._lines += [Line([name], other) for name, other in zip(names, others, strict=True)]
        self._lines.append(Line(names, f"if {decision}:", inner))
        result = np.array(otherwise)
        self._write(result, names)
        return self.wrap(result)

    def function(self, name: str, outputs: Sequence[Array]) -> Scalar:
        """The code that gives the outputs (1, size); what follows from the input ``constant`` alone is a part apart."""
        results = [part for array in outputs for part in self._read(array, array.shape)]
        constants = self._parameters("constant")
        fixed, lines = split(alive(self._lines, set(results)), set(constants))
        lines = nest(lines, results)
        reads = {read for line in flattened(lines) for read in names_in(line.code)}.union(results)
        kept = [part for part in (*constants, *(part for line in fixed for part in line.names)) if part in reads]
        once = [_unpacked("constant", constants), *text(nest(fixed, kept), "    ")]
        code = [_unpacked("constant", kept)]
        found = {key for key in self._inputs if key != "constant" and reads.intersection(self._parameters(key))}
        code += [_unpacked(key, self._parameters(key)) for key in self._inputs if key in found]
        code += text(lines, "    ")
        space: dict[str, Any] = {**_NAMES, **self._functions}
        prepare, _ = _define("prepare", ["constant"], once, kept, space)
        function, source = _define(name, list(self._inputs), code, results, space)
        helpers = {key: _renamed(value, key) for key, value in self._functions.items()}
        return Scalar(name, prepare, function, len(kept), len(results), source, helpers)

    def _parameters(self, key: str) -> list[str]:
        return [f"{key}{i}" for i in range(self._inputs[key].size)]

    def _expression(self, ufunc: Any, parts: Sequence[str]) -> str:
        return f"sqrt({parts[0]})" if ufunc is np.sqrt and parts[0] in self._squares else _expression(ufunc, parts)

    def _read(self, value: Any, shape: tuple[int, ...], single: bool = False) -> list[str]:
        """An expression for each element: a name, or a number."""
        if isinstance(value, np.ndarray):
            broadcast = np.broadcast_to(value, shape)
            numbers = (broadcast[index] for index in np.ndindex(shape))
            return [
                self._names.get(address) or _literal(number.item())
                for address, number in zip(_elements(value, shape), numbers, strict=True)
            ]
        number = _single(float(value)) if single else value
        return [_literal(number)] * int(np.prod(shape))

    def _write(self, out: Array, names: Sequence[str]) -> None:
        self._alive.append(out)
        self._names.update(zip(_elements(out, out.shape), names, strict=True))

    def _emit(self, code: str, rounds: bool = False) -> str:
        code = f"_single({code}).value" if rounds else code
        if _ATOM.fullmatch(code):
            return code
        if code not in self._known:
            self._known[code] = self._fresh()
            self._lines.append(Line([self._known[code]], code))
        return self._known[code]

    def _fresh(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _literal(number: Any) -> str:
    return repr(number) if isinstance(number, bool) else f"({float(number)!r})"


def _expression(ufunc: Any, parts: Sequence[str]) -> str:
    if (ufunc, parts[-1]) in ((np.maximum, "(-inf)"), (np.minimum, "(inf)")):
        return parts[0]
    if ufunc is np.divide and parts[1].startswith("(") and parts[1] != "(0.0)":
        return f"{parts[0]} / {parts[1]}"
    if ufunc in _INFIX:
        return f"{parts[0]} {_INFIX[ufunc]} {parts[1]}"
    if ufunc not in _FORMS:
        raise Untraceable(ufunc.__name__)
    return _FORMS[ufunc].format(*parts)


def _unpacked(key: str, names: Sequence[str]) -> str:
    return f"    {', '.join(names)}, = {key}" if names else ""


def _define(
    name: str, parameters: Sequence[str], code: Sequence[str], results: Sequence[str], space: dict[str, Any]
) -> tuple[Callable[..., tuple[float, ...]], str]:
    returned = f"({', '.join(results)},)" if results else "()"
    source = "\n".join([f"def {name}({', '.join(parameters)}):", *code, f"    return {returned}", ""])
    exec(compile(source, f"<scalar code of {name}>", "exec"), space)
    return space[name], source


def _renamed(function: Callable[..., Any], name: str) -> str:
    return inspect.getsource(function).replace(f"def {function.__name__}(", f"def {name}(", 1)


class _Traced(np.ndarray):
    """An array that tells its tracer what is done to it."""

    tracer: Tracer

    def __array_finalize__(self, source: Any) -> None:
        self.tracer = getattr(source, "tracer", None)  # pyright: ignore

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        outs = kwargs.pop("out", None) or ()
        tracer = next(value for value in (*inputs, *outs) if isinstance(value, _Traced)).tracer
        inputs = tuple(_plain(value) for value in inputs)
        if method == "reduce":
            return tracer.reduce(ufunc, inputs[0], kwargs.get("axis", -1))
        if method != "__call__" or kwargs:
            raise Untraceable(f"{ufunc.__name__}.{method}")
        return tracer.ufunc(ufunc, inputs, _plain(outs[0]) if outs else None)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.where:
            return self.tracer.where(*(_plain(value) for value in args))
        if function is not np.stack:
            raise Untraceable(function.__name__)
        parts = [_plain(value) for value in args[0]]
        axis = args[1] if len(args) > 1 else kwargs.get("axis", 0)
        result = np.stack(parts, axis)
        for part, place in zip(parts, np.moveaxis(result, axis, 0), strict=True):
            self.tracer.assign(part, place)
        return self.tracer.wrap(result)

    def __getitem__(self, index: Any) -> Any:
        plain = self.view(np.ndarray)
        found = plain[index]
        if not isinstance(found, np.ndarray) or not np.may_share_memory(found, plain):
            raise Untraceable("indexing by an array")
        return self.tracer.wrap(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.assign(_plain(value), self.view(np.ndarray)[index])

    def __bool__(self) -> bool:
        raise Untraceable("a decision on an array")

    def astype(self, dtype: Any, **_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        result = np.empty(self.shape, dtype)
        self.tracer.assign(self.view(np.ndarray), result)
        return self.tracer.wrap(result)

    def reshape(self, *shape: Any, **_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        plain = self.view(np.ndarray)
        found = plain.reshape(*shape)
        if not np.may_share_memory(found, plain):
            raise Untraceable("reshape of a slice")
        return self.tracer.wrap(found)

    def branch(self, function: Callable[[], Any], otherwise: Any) -> Any:
        return self.tracer.branch(self.view(np.ndarray), function, _plain(otherwise))

    def call(self, function: Callable[..., Any], size: int) -> Any:
        """``function`` of this array's last axis as single numbers, which returns ``size`` of them."""
        return self.tracer.call(function, self.view(np.ndarray), np.zeros((*self.shape[:-1], size)))
