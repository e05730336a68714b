"""Steps in C: the same bits as from Python."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from mtrl.core.native import compiled
from mtrl.envs.metaworld import engine
from mtrl.envs.metaworld.native import CompiledSteps
from mtrl.envs.metaworld.suite import BENCHMARKS, Config, MetaWorldSuite
from tests.support.metaworld_rollouts import assert_same, draw_actions, run

compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
NAMES = sorted(BENCHMARKS["mt50"])
SAMPLE = ["pick-place-v3", "drawer-open-v3", "hammer-v3", "basketball-v3", "door-open-v3", "assembly-v3"]


@compiler
@pytest.mark.parametrize("version", ["v2", "v1"])
@pytest.mark.parametrize(
    ("names", "steps"), [(SAMPLE, 30), pytest.param(NAMES, 600, marks=pytest.mark.parity)], ids=["sample", "all"]
)
def test_both_ways_give_the_same_bits(
    names: list[str], steps: int, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = MetaWorldSuite(Config("custom", tasks=names, reward_version=version, horizon=min(500, steps // 2)))
    made, compile_steps = list[Any](), engine.compiled_steps

    def recorded(*arguments: Any) -> Any:
        made.append(compile_steps(*arguments))
        return made[-1]

    monkeypatch.setattr(engine, "compiled_steps", recorded)
    one = suite.batched_envs(5, 3, threads=2, with_info=True)
    monkeypatch.setattr(engine, "compiled_steps", lambda *_: None)
    two = suite.batched_envs(5, 3, threads=2, with_info=True)
    assert [type(steps) for steps in made] == [CompiledSteps], "the first is not stepped in C"
    assert np.array_equal(one.reset(), two.reset())
    for action in draw_actions(steps, len(names), 3):
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
