"""Steps in C: the same bits as from Python, for all tasks, and for whatever numbers the scalar code may meet."""

from __future__ import annotations

import ctypes
import itertools
import math
import shutil
from typing import Any

import numpy as np
import pytest

from mtrl.core.native import compiled
from mtrl.envs.metaworld import engine, native, scalar
from mtrl.envs.metaworld.suite import BENCHMARKS, Config, MetaWorldSuite
from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.translation import Untranslatable, translated
from tests.support.metaworld_rollouts import assert_same, draw_actions, run

compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
NAMES = sorted(BENCHMARKS["mt50"])
SAMPLE = ["pick-place-v3", "drawer-open-v3", "hammer-v3", "basketball-v3", "door-open-v3", "assembly-v3"]
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.1, -3.7, 1e-320, 1e-30, 1e30, 700.0, 710.0, math.inf, -math.inf, math.nan)


def _works(task: str, version: str) -> bool:
    return version == "v2" or not isinstance(TASKS[task].reward_v1, str)


@compiler
@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize(
    ("names", "steps"), [(SAMPLE, 30), pytest.param(NAMES, 600, marks=pytest.mark.parity)], ids=["sample", "all"]
)
def test_both_ways_give_the_same_bits(
    names: list[str], steps: int, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task for task in names if _works(task, version)]
    suite = MetaWorldSuite(Config("custom", tasks=tasks, reward_version=version, horizon=min(500, steps // 2)))
    made, compile_steps = list[Any](), engine.compiled_steps

    def recorded(tasks: Any) -> Any:
        made.append(compile_steps(tasks))
        return made[-1]

    monkeypatch.setattr(engine, "compiled_steps", recorded)
    one = suite.batched_envs(5, 3, threads=2, with_info=True)
    monkeypatch.setattr(engine, "compiled_steps", lambda tasks: None)
    two = suite.batched_envs(5, 3, threads=2, with_info=True)
    assert [len(steps) for steps in made] == [len(tasks)], "the first is not stepped in C"
    assert np.array_equal(one.reset(), two.reset())
    for action in draw_actions(steps, len(tasks), 3):
        assert_same(run(one, action[None]), run(two, action[None]))
        found, expected = one.info(), two.info()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    one.close()
    two.close()


def test_without_a_compiler_steps_are_pythons(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    suite = MetaWorldSuite(Config("mt1", tasks=["reach-v3"]))
    caplog.set_level("INFO")
    for name in ("no-such-compiler", "false"):
        monkeypatch.setenv("CC", name)
        compiled.cache_clear()
        envs = suite.batched_envs(0, 1, threads=1)
        assert name in caplog.text
        envs.reset()
        assert np.isfinite(run(envs, draw_actions(1, 1, 1))[0]["reward"]).all()
        envs.close()


def _exported(source: str, name: str, types: dict[str, str], parameters: str, arguments: str) -> Any:
    code = f"#include <math.h>\n{translated(source, types)}\nvoid run({parameters}) {{ {name}({arguments}); }}\n"
    function = compiled(code, *native._FLAGS).run
    function.restype = None
    return function


@compiler
def test_each_operation_has_pythons_bits() -> None:
    signs = sorted(set(scalar._INFIX.values()) - {"and", "or"})
    values = [form.format("a", "b") for form in (*scalar._FORMS.values(), *(f"{{0}} {sign} {{1}}" for sign in signs))]
    values += ["_single(a).value", "(_single(a * b).value) + a", "1.0 if a < b and b > 0.0 or a == b else 0.0"]
    source = f"def every(a, b):\n    return ({', '.join(f'({value})' for value in values)},)\n"
    space: dict[str, Any] = dict(scalar._NAMES)
    exec(source, space)
    run_c = _exported(source, "every", {}, "double a, double b, double *out", "a, b, out")
    run_c.argtypes = [ctypes.c_double, ctypes.c_double, ctypes.c_void_p]
    found = np.zeros(len(values))
    for a, b in itertools.product(NUMBERS, NUMBERS):
        run_c(a, b, found.ctypes.data)
        for value, got in zip(values, found, strict=True):
            try:
                expected = float(eval(value, {**space, "a": a, "b": b}))
            except ValueError:  # the sine of infinity, which C makes a NaN
                expected = math.nan
            same = np.float64(expected).tobytes() == got.tobytes() or (math.isnan(expected) and math.isnan(got))
            assert same, (value, a, b, expected, got)


@compiler
def test_branches_tuples_and_arrays_are_pythons() -> None:
    source = (
        "def mix(row, a):\n"
        '    """Of two numbers and one."""\n'
        "    x, y, = row\n"
        "    x, y = y, x\n"
        "    if x > a and not y > a:\n"
        "        z, w = x + a, -y\n"
        "    elif x == a or True:\n"
        "        z, w = x, math.sqrt(y * y)\n"
        "    else:\n"
        "        z, w = nan, inf\n"
        "    return x, y, z, w\n"
    )
    space: dict[str, Any] = {**scalar._NAMES, "math": math}
    exec(source, space)
    types = {"row": "const double *"}
    run_c = _exported(source, "mix", types, "const double *row, double a, double *out", "row, a, out")
    run_c.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p]
    found = np.zeros(4)
    for x, y, a in itertools.product((-1.5, 0.0, 2.0), repeat=3):
        run_c(np.array([x, y]).ctypes.data, a, found.ctypes.data)
        assert found.tolist() == list(space["mix"]((x, y), a))


@pytest.mark.parametrize("line", ["b = [a]", "b = a ** 2", "b = a < 1 < 2", "b = f(a, a)", "while a: pass", "b = 'a'"])
def test_what_is_not_known_is_refused(line: str) -> None:
    with pytest.raises(Untranslatable, match="a"):
        translated(f"def f(a):\n    {line}\n    return (a,)\n", {})
