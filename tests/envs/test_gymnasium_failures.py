"""Gymnasium environments that cannot be used, or break during a run, are named in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from mtrl import cli
from mtrl.core.errors import UserError
from tests.support.gymnasium_toys import GYMNASIUM, Quick, register, suite

register("mtrl-test/Endless-v0", Quick, steps=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("benchmark.ids=[NoSuch-v0]", "`benchmark.ids` should be ids registered with Gymnasium"),
        ("benchmark.ids=['this:Pendulum-v1']", "`benchmark.ids` should be ids registered with Gymnasium"),
        (
            "benchmark.ids=[CartPole-v1]",
            "Actions of CartPole-v1 should be a vector of .* with bounds, each .*Found 'Discrete",
        ),
        ("benchmark.ids=[Pendulum-v1,MountainCarContinuous-v0]", r"\(3, 1\), like those of Pendulum-v1. Found .2, 1"),
        ("benchmark.ids=[mtrl-test/Endless-v0]", "`benchmark.horizon` should be a number of steps, as mtrl-test/End"),
        ("benchmark.ids=[InvertedPendulum-v2]", "InvertedPendulum-v2 should be one that can be made here"),
        ("benchmark.ids=[]", "`benchmark.ids` should be a list of ids"),
        ("benchmark.solved_at=inf", "`benchmark.solved_at` should be a finite number"),
        ("benchmark.ids=[Pendulum-1]", r"Found 'Pendulum-1'\. Did you mean Pendulum-v1\?"),
        ("tasks=[Pendulum-v2]", "should name some of Pendulum-v1, the tasks that `benchmark.ids` lists. Found"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    assert cli.main(["train", *GYMNASIUM, options]) == 2
    found = capsys.readouterr().err
    assert re.search(message, found) and found.count("\n") == 1
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("bounds", [(0, 10, (2,), np.int64), (np.zeros(2, np.float32), np.eye(2, dtype=np.float32)[0])])
def test_actions_that_cannot_be_scaled_are_refused(bounds: tuple[Any, ...]) -> None:
    class Unscalable(Quick):
        action_space = gymnasium.spaces.Box(*bounds)

    name = f"mtrl-test/Unscalable{len(bounds)}-v0"
    register(name, Unscalable)
    with pytest.raises(UserError, match="floating-point numbers with bounds, each low bound below the high one"):
        suite(ids=[name])


class OldReset(Quick):
    def reset(self, **options: Any) -> Any:
        return {"a": np.zeros(2), "b": np.zeros(1), "c": super().reset(**options)}


class NoSeed(Quick):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class NoStep(Quick):
    step = gymnasium.Env.step


class FourValues(Quick):
    def step(self, action: Any) -> Any:
        return super().step(action)[:4]


class Longer(Quick):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,))

    def _observation(self) -> Any:
        return np.zeros(4, np.float32)


class NoNumber(Quick):
    def step(self, action: Any) -> Any:
        return (super().step(action)[0], float("nan"), False, False, {})


class Vector(Quick):
    def step(self, action: Any) -> Any:
        return (super().step(action)[0], np.ones(1), False, False, {})


class Mistaken(Quick):
    def step(self, action: Any) -> Any:
        raise KeyError("mine")


class Spaceless(Quick):
    def __init__(self) -> None:
        self.action_space = undefined  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (OldReset, r"reset\(seed=..., options=...\) gives \(observation, info\)\. Found 'ValueError: too many values"),
        (NoSeed, r"reset\(seed=.* Found .*TypeError: .*reset\(\) got an unexpected keyword argument 'seed'"),
        (NoStep, r"step\(action\) gives \(observation, .*, info\)\. Found 'NotImplementedError'"),
        (FourValues, r"step\(action\) gives .* Found 'ValueError: not enough values to unpack \(expected 5, got 4\)"),
        (Longer, r"observations of the shape of its space, \(3,\) when flattened\. Found \(4,\)"),
        (NoNumber, r"one whose rewards are finite numbers\. Found nan"),
        (Vector, r"one whose rewards are finite numbers\. Found array\(\[1\.\]\)"),
        (Mistaken, r"Found .KeyError: 'mine' \(.*test_gymnasium_failures\.py, line \d+\)"),
        (
            Spaceless,
            r"one that can be made here\. Found .NameError: .*'undefined'.*_failures\.py, line \d+\)",
        ),
    ],
)
def test_an_environment_is_tried_and_what_is_wrong_is_said_in_one_line(
    env: type[gymnasium.Env[Any, Any]], found: str
) -> None:
    name = f"mtrl-test/{env.__name__}-v0"
    register(name, env)
    with pytest.raises(UserError, match=f"Environment {name} should be .*{found}") as error:
        suite(ids=[name])
    assert "\n" not in str(error.value)


class Breaking(Quick):
    """It fails in its third step."""

    def step(self, action: Any) -> Any:
        if self.count == 2:
            raise KeyError("mine")
        return super().step(action)


class BreakingReset(Quick):
    """It fails when an episode begins after another."""

    def reset(self, **options: Any) -> Any:
        if getattr(self, "count", 0):
            raise ValueError("again")
        return super().reset(**options)


class Growing(Quick):
    """Its observations have another size from the third step on."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    size = 4

    def _observation(self) -> Any:
        return np.zeros(self.size if self.count == 3 else 3, np.float32)


class Shrinking(Growing):
    size = 1  # NumPy would spread it over all three


class Vague(Quick):
    """Its success is not one truth value from the third step on."""

    def step(self, action: Any) -> Any:
        *found, _ = super().step(action)
        return *found, {"is_success": np.array([True, False]) if self.count == 3 else True}


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (Vague, r"step\(action\) gives .* Found .TypeError: info's success is .*, not one truth value"),
        (Breaking, r"step\(action\) gives .* Found .KeyError: 'mine' \(.*test_gymnasium_failures\.py, line \d+\)"),
        (BreakingReset, r"reset\(seed=.* Found .ValueError: again \(.*test_gymnasium_failures\.py, line \d+\)"),
        (Growing, r"observations of the shape of its space, \(3,\) when flattened\. Found \(4,\)"),
        (Shrinking, r"observations of the shape of its space, \(3,\) when flattened\. Found \(1,\)"),
    ],
)
def test_an_environment_that_breaks_later_is_named_in_one_line(env: type[gymnasium.Env[Any, Any]], found: str) -> None:
    name = f"mtrl-test/{env.__name__}-v0"
    register(name, env)
    envs = suite(ids=[name]).make_envs(0, 2)
    with pytest.raises(UserError, match=f"Environment {name} should be .*{found}") as error:
        for _ in range(6):
            envs.step(np.zeros((1, 2, 1), np.float32))
    assert "\n" not in str(error.value)
