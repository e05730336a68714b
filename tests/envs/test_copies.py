"""Copies of mtrl's Gymnasium environments continue exactly."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

import mtrl.envs.keyframes
import mtrl.envs.metaworld
import mtrl.envs.pushing  # noqa: F401
from mtrl.envs.metaworld.suite import Config as MetaWorldConfig
from mtrl.envs.metaworld.suite import MetaWorldSuite
from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable

NAMES: dict[str, dict[str, Any]] = {
    "mtrl/MT1-v3": {"task": "push-v3"},
    "mtrl/GoalPush-v0": {},
    "mtrl/GoalPushDict-v0": {},
    "mtrl/Keyframes-stack_wine-v0": {},
}
HOW: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
}


def flat(observation: Any) -> bytes:
    parts = observation.values() if isinstance(observation, dict) else [observation]
    return b"".join(np.asarray(part).tobytes() for part in parts)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_goes_on_as_its_original(name: str, how: str) -> None:
    if "Keyframes" in name:
        try:
            offscreen_backend()
        except RenderingUnavailable as error:
            pytest.skip(str(error))
    env: Any = gymnasium.make(name, **NAMES[name])
    env.action_space.seed(0)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    twin = HOW[how](env)
    for _ in range(2):
        action = env.action_space.sample()
        assert np.array_equal(action, twin.action_space.sample())
        first, second = env.step(action), twin.step(action)
        assert flat(first[0]) == flat(second[0]) and first[1:] == second[1:]
    assert flat(env.reset()[0]) == flat(twin.reset()[0])
    env.close()
    twin.close()


def test_an_engine_refuses_to_be_copied() -> None:
    envs = MetaWorldSuite(MetaWorldConfig("mt1", tasks=["reach-v3"])).make_envs(0, 1)
    for make_copy in HOW.values():
        with pytest.raises(TypeError, match="state_dict"):
            make_copy(envs)
    envs.close()
