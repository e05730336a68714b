"""Translated functions compute what Python computes, to the last bit; what has no translation is refused."""

from __future__ import annotations

import ctypes
import itertools
import math
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy import float32

from mtrl.core.native import compiled
from mtrl.envs.metaworld.arithmetic import FLAGS
from mtrl.envs.metaworld.compiler import DOUBLE, Object, Program, Tuple, Untranslatable, Value, c_name

compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.1, -3.7, 1e-320, 1e-30, 1e30, 700.0, math.inf, -math.inf, math.nan)
OFFSET = (0.5, -1.5)


class Pair(NamedTuple):
    first: float
    second: float


def _in_c(function: Callable[..., Any], size: int) -> Callable[[float, float], list[float]]:
    """A function of two numbers that returns ``size`` of them."""
    program = Program()
    call = program.call(function, [Value(DOUBLE, "a"), Value(DOUBLE, "b")], {})
    parts = "; ".join(f"out[{i}] = r.a{i}" for i in range(size))
    body = f"{c_name(call.type)} r = {call.code}; {parts};"
    source = f"{program.source()}\nvoid run(double a, double b, double *out) {{ {body} }}"
    run = compiled(source, *FLAGS).run
    run.argtypes, run.restype = [ctypes.c_double, ctypes.c_double, ctypes.c_void_p], None

    def called(a: float, b: float) -> list[float]:
        out = np.zeros(size)
        run(a, b, out.ctypes.data)
        return out.tolist()

    return called


def _operators(a: float, b: float) -> Any:
    return a + b, a - b, a * b, a / (b * b + 1.0), -a, abs(a), min(a, b), max(a, b), 3 * a + 0.1, a if a < b else b


def _conditions(a: float, b: float) -> Any:
    both, either = a < b and b > 0.0, a >= b or not a < b
    return (
        float(both), float(either), float(a <= b), float(a != b), float(-1.0 < a <= b), 1.0 if both else 0.0,
        float(math.isnan(a)), 2.0 if both and True else -2.0, float(bool(a)),
    )  # fmt: skip


def _mathematics(a: float, b: float) -> Any:
    small = min(max(a, -700.0), 700.0)
    return math.sqrt(abs(a)), math.exp(small), math.log(abs(b) + 1.0), math.sin(small), math.cos(small)


def _rounded(a: Any, b: Any) -> Any:
    return (a * b + 0.1) / (abs(a) + 1.0) - 0.7 if a < 0.3 else min(max(a, -1.0), b)


def _single(a: float, b: float) -> Any:
    small, other = min(max(a, -1e3), 1e3), min(max(b, -1e3), 1e3)
    return float(_rounded(float32(small), float32(other))), _rounded(small, other), float(2.0 * float32(small)) + other


def _sum(pair: Any, scale: float = 1.0, *rest: float, twice: bool = False) -> float:
    total = (pair[0] + pair[1]) * scale
    if twice:
        return _sum((total, total))
    return total if len(rest) == 0 else total + rest[-1]


BOUND = partial(_sum, OFFSET, 3.0)


def _calls(a: float, b: float) -> Any:
    pair = Pair(second=a, first=b)
    return (
        _sum((a, b)),
        BOUND(a, b),
        _sum(OFFSET, b, twice=True),
        pair.first,
        _sum((*pair, a)[1:]),
        _sum(scale=a, pair=pair),
    )


def _statements(a: float, b: float) -> Any:
    """With a docstring."""
    x, y = a, b
    x, y = y, x
    if x > 0.0 and not y > a:
        z, found = x + a, True
    elif x == a:
        return x, y, 0.0
    else:
        z, found = y, False
    name = "z" if True else None
    z = z + abs(-1.0)
    if name is None:
        return 1.0, 2.0, 3.0
    return (*(-x for x in (z,)), x, y if found else -y)


@compiler
@pytest.mark.parametrize(
    ("function", "size"),
    [(_operators, 10), (_conditions, 9), (_mathematics, 5), (_single, 3), (_calls, 6), (_statements, 3)],
)
def test_the_bits_are_pythons(function: Callable[..., Any], size: int) -> None:
    run = _in_c(function, size)
    for a, b in itertools.product(NUMBERS, NUMBERS):
        with np.errstate(all="ignore"):
            expected = np.array(function(a, b), dtype=np.float64)
        found = np.array(run(a, b))
        same = (found.view(np.int64) == expected.view(np.int64)) | (np.isnan(found) & np.isnan(expected))
        assert same.all(), (a, b, expected, found)


def _latch(s: Any) -> float:
    s.count = s.count + 1.0
    s.place = (s.count, 2.0)
    return s.place[0] + s.count


@compiler
def test_the_state_is_read_and_written() -> None:
    state = Object("State", {"count": DOUBLE})
    program = Program(state)
    call = program.call(_latch, [Value(state, "s")], {})
    assert state.fields["place"] == Tuple((DOUBLE, DOUBLE))
    source = (
        f"{program.source()}\ndouble run(double count) {{ State state = {{count}}, *s = &state; return {call.code}; }}"
    )
    run = compiled(source, *FLAGS).run
    run.argtypes, run.restype = [ctypes.c_double], ctypes.c_double
    assert run(3.0) == 8.0


def _list(a: float) -> Any:
    return [a]


def _power(a: float) -> Any:
    return a**2


def _loop(a: float) -> Any:
    while a:
        a = a - 1.0
    return a


def _mixture(a: float) -> Any:
    return float32(a) + a


def _unknown_index(a: float) -> Any:
    return (a, a)[a]  # pyright: ignore


def _beyond(a: float) -> Any:
    return (a, a)[2]  # pyright: ignore


def _two_types(a: float) -> Any:
    x = a
    x = (a, a)
    return x


def _branch(a: float) -> Any:
    name = "other"
    if a > 0.0:
        name = "positive"
    return a if name == "other" else -a


def _late(a: float) -> Any:
    x = None
    if a > 0.0:
        x = a
    return a if x is None else x


def _unknown_function(a: float) -> Any:
    return math.gamma(a)


def _three_values(a: float) -> Any:
    return max(a, 1.0, 2.0)


def _named_argument(a: float) -> Any:
    return max(a, 1.0, key=abs)


def _ends_without_return(a: float) -> Any:
    if a > 0.0:
        return a


def _unpacked_names(a: float) -> Any:
    return _late(**{"a": a})


@pytest.mark.parametrize(
    "function",
    [
        _three_values,
        _ends_without_return,
        _named_argument,
        _unpacked_names,
        _list,
        _power,
        _loop,
        _mixture,
        _unknown_index,
        _beyond,
        _two_types,
        _branch,
        _late,
        _unknown_function,
    ],
)
def test_what_has_no_translation_is_refused_with_its_place(function: Callable[..., Any]) -> None:
    with pytest.raises(Untranslatable, match=function.__name__):
        Program().call(function, [Value(DOUBLE, "a")], {})


def test_a_name_has_one_type() -> None:
    state = Object("State", {"count": Tuple((DOUBLE, DOUBLE))})
    with pytest.raises(Untranslatable, match="count"):
        Program(state).call(_latch, [Value(state, "s")], {})
    state = Object("State", {"a": DOUBLE})
    with pytest.raises(Untranslatable, match="`a` of State"):
        state.declare("a", Tuple((DOUBLE,)))


SCALE = 1.0


def _enclosing(SCALE: float) -> Callable[[float, float], Any]:
    def scaled(a: float, b: float) -> Any:
        return SCALE * a, b

    return scaled


def _endless(a: float, b: float) -> Any:
    return (a, b) if a < 1.0 else _endless(a - 1.0, b)


def _operand(a: float, b: float) -> Any:
    return 3.0 * (a < b and 2.0), b


def _retyped(a: float, b: float) -> Any:
    x = a
    y = x + 0.0
    x = None
    x = a > b
    return y, float(x)


@pytest.mark.parametrize("function", [_enclosing(2.0), _endless, _operand, _retyped])
def test_what_c_would_compute_differently_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(Untranslatable):
        Program().call(function, [Value(DOUBLE, "a"), Value(DOUBLE, "b")], {})


def _chosen(rule: Any, a: float) -> float:
    return min(rule[1], a) if rule[0] == "min" else max(rule[1], a)


def _defaulted(a: float, pair: Any = (1.0, 2.0)) -> float:
    return a * pair[0] + pair[1]


def _tuples(a: float, b: float) -> Any:
    both = max(a < b, b < 0.0)
    return _chosen(("min", 1.0), a) + _chosen(("max", 2.0), a), _defaulted(b), float(both), float(max(2, 3)) + a


@compiler
def test_tuples_that_look_alike_are_told_apart() -> None:
    run = _in_c(_tuples, 4)
    for a, b in ((0.5, -1.0), (3.0, 4.0), (-2.0, 0.5)):
        assert run(a, b) == list(_tuples(a, b))


def _swap(s: Any) -> float:
    s.x, s.y = s.y, s.x
    s.x, a = s.y + 1.0, s.x
    return s.y + 10.0 * a + 100.0 * s.x


@compiler
def test_attributes_are_swapped_as_in_python() -> None:
    state = Object("State", {"x": DOUBLE, "y": DOUBLE})
    program = Program(state)
    call = program.call(_swap, [Value(state, "s")], {})
    body = f"State state = {{3.0, 5.0}}, *s = &state; return {call.code};"
    run = compiled(f"{program.source()}\ndouble run(void) {{ {body} }}", *FLAGS).run
    run.argtypes, run.restype = [], ctypes.c_double
    plain = type("State", (), {"x": 3.0, "y": 5.0})()
    assert run() == _swap(plain)
