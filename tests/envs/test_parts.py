"""Environments that are divided into parts do what they do undivided."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from mtrl.envs.gymnasium import Config as GymnasiumConfig
from mtrl.envs.gymnasium import GymnasiumSuite
from mtrl.envs.metaworld.suite import Config as MetaWorldConfig
from mtrl.envs.metaworld.suite import MetaWorldSuite
from mtrl.envs.toy import Config as ToyConfig
from mtrl.envs.toy import ToySuite

SEED, COPIES, STEPS = 5, 5, 9
PARTS = [range(0, 2), range(2, 3), range(3, 5)]
FIELDS = ("observation", "reward", "terminated", "truncated", "next_observation", "success")


def suites() -> dict[str, Any]:
    short: dict[str, Any] = {"horizon": 4, "training_horizons": [2, 3, 4]}
    tasks = ["reach-v3", "push-v3"]
    return {
        "toy": ToySuite(ToyConfig(horizon=4, shuffled_rewards=True)),
        "gymnasium": GymnasiumSuite(GymnasiumConfig(horizon=4)),
        "batched": MetaWorldSuite(MetaWorldConfig("custom", tasks=tasks, **short)),
        "package": MetaWorldSuite(MetaWorldConfig("custom", tasks=tasks, engine="package", **short)),
    }


@pytest.mark.parametrize("name", ["toy", "gymnasium", "batched", "package"])
def test_copies_do_the_same_in_parts_and_together(name: str) -> None:
    suite = suites()[name]
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(contextlib.closing(suite.make_envs(SEED, COPIES)))
        parts = [stack.enter_context(contextlib.closing(suite.make_envs(SEED, COPIES, part))) for part in PARTS]
        assert [part.envs_per_task for part in parts] == [2, 1, 2]
        assert np.array_equal(whole.reset(), np.concatenate([part.reset() for part in parts], 1))
        ended = 0
        for _ in range(STEPS):
            action = rng.uniform(-1, 1, (whole.num_tasks, COPIES, suite.spec.action_size)).astype(np.float32)
            expected = whole.step(action)
            found = [
                part.step(action[:, numbers.start : numbers.stop]) for part, numbers in zip(parts, PARTS, strict=True)
            ]
            for field in FIELDS:
                together = np.concatenate([getattr(one, field) for one in found], 1)
                assert np.array_equal(getattr(expected, field), together), field
            ended += int(expected.truncated.sum())
        assert ended >= 2 * COPIES * whole.num_tasks, "goals were drawn anew, several times"
