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


@compiler
@pytest.mark.parametrize(
    "rules",
    [
        {"horizon": [70, 9]},
        {"horizon": 70, "steps_after_success": 2},
        {"horizon": 70, "terminate_on_success": True},
        {"horizon": 70, "schedule": np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])},
    ],
    ids=["horizon", "after success", "at success", "schedule"],
)
def test_episodes_end_alike_in_both_ways(rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for actions beyond their limits, those that are not numbers, and copies whose episodes are all played."""
    suite = MetaWorldSuite(Config("custom", tasks=["reach-v3", "hand-insert-v3", "drawer-open-v3"]))
    one = suite.batched_envs(5, 2, threads=2, **rules)
    monkeypatch.setattr(engine, "compiled_steps", lambda *_: None)
    two = suite.batched_envs(5, 2, threads=2, **rules)
    seen, ended, successes = one.reset(), 0, 0
    two.reset()
    actions = draw_actions(170, 3, 2) * 3
    actions[5, 0, 1], actions[11, 2, 0], actions[80, 1, 1] = np.nan, np.inf, np.nan
    for action in actions:
        action[0] += 10 * np.pad(seen[0, :, -3:] - seen[0, :, :3], ((0, 0), (0, 1)))  # towards the goal
        (found,), (expected,) = run(one, action[None]), run(two, action[None])
        assert_same([found], [expected])
        assert np.array_equal(one.faults, two.faults)
        seen, successes = found["observation"], successes + found["success"].sum()
        ended += np.count_nonzero(found["terminated"] | found["truncated"])
    assert successes and ended > 6 and one.faults.any() and (ended == 9 or "schedule" not in rules)
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
