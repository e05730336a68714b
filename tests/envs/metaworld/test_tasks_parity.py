"""The batched tasks give the numbers of the package's own environments.

`make test` runs one policy a task over two shortened episodes; `make test-parity` every policy, several seeds and
goals, over whole episodes across a reset.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.tasks.base import RewardVersion
from tests.support.metaworld_parity import POLICIES, VERSIONS, Episode, Policy, check, compute, difference, record

NAMES = sorted(TASKS)
CASES = [(name, policy, seed) for name in NAMES for policy in POLICIES for seed in range(3)]
GOALS = (0, 17, 40)


@cache
def _sample(name: str) -> list[Episode]:
    return record(name, ("scripted", "noisy")[NAMES.index(name) % 2], steps=100)


@pytest.mark.parametrize("name", NAMES)
def test_sample_equals_the_package(name: str) -> None:
    for episode in _sample(name):
        for version in VERSIONS:
            check(episode, version)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "policy", "seed"), CASES)
def test_equals_the_package(name: str, policy: Policy, seed: int) -> None:
    for episode in record(name, policy, seed, GOALS[seed]):
        for version in VERSIONS:
            check(episode, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_copies_do_not_mix(name: str, version: RewardVersion) -> None:
    if isinstance(TASKS[name].reward_v1, str) and version == "v1":
        pytest.skip("the package's own v1 fails")
    whole = _sample(name)[1]
    episode = replace(whole, rows=whole.rows[:40], actions=whole.actions[:40])
    _, together = compute(episode, version)
    if TASKS[name].state:
        return
    for step in range(0, 40, 7):
        one = replace(
            episode,
            first_frame=episode.observations[step, 18:36],
            rows=episode.rows[step : step + 1],
            actions=episode.actions[step : step + 1],
        )
        _, alone = compute(one, version)
        assert difference(alone[0], together[step]) <= 1e-12
