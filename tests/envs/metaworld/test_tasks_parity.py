"""The tasks' arithmetic, as Python and compiled, gives the numbers of Meta-World's own environments.

`make test` runs one policy for each task over two shortened episodes, and states drawn at random. `make test-parity`
runs every policy, several seeds and goals, over whole episodes across a reset.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mtrl.envs.metaworld.tasks import TASKS
from mtrl.envs.metaworld.tasks.base import RewardVersion
from tests.support.metaworld_mutations import Term, remove, terms
from tests.support.metaworld_parity import POLICIES, VERSIONS, WAYS, Episode, Policy, check, compute, record

NAMES = sorted(TASKS)
CASES = [(name, policy, seed) for name in NAMES for policy in POLICIES for seed in range(3)]
GOALS = (0, 17, 40)
IDLE = {
    "a[1] - b[1]",  # two numbers of the quaternion of every level pose, which are 0
    "a[2] - b[2]",
    "-reach + 0.1",  # coffee-pull's reward for reaching, which no place of the mug earns
    "-reach + 0.1 + closing",
    "obj[1] - 0.01",  # handle-pull's comparison of y with a height
}
"""Terms in Meta-World's formulas that make no difference to any reward."""


@cache
def _sample(name: str) -> list[Episode]:
    policy: Policy = ("scripted", "noisy")[NAMES.index(name) % 2]
    return [*record(name, policy, steps=100), *record(name, "scattered", steps=200)]


@pytest.mark.parametrize("name", NAMES)
def test_sample_equals_the_package(name: str) -> None:
    for episode in _sample(name):
        for version in VERSIONS:
            for way in WAYS:
                check(episode, version, way)


@pytest.mark.skipif(len(WAYS) < 2, reason="no C compiler")
@pytest.mark.parametrize("name", NAMES)
def test_both_ways_give_the_same_bits(name: str) -> None:
    for episode in _sample(name):
        for version in VERSIONS:
            python, compiled = (compute(episode, version, way) for way in WAYS)
            assert all(map(np.array_equal, python, compiled))


@pytest.mark.parity
@pytest.mark.timeout(1800)
def test_the_sample_notices_a_reward_without_any_one_of_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each term is taken out of its function, which one task at least should notice; but see `IDLE`."""
    missed: dict[Term, str] = {}
    noticed: set[Term] = set()
    for name in NAMES:
        assert all(_sample_agrees(name, version) for version in VERSIONS)
        for version in VERSIONS:
            for term in (term for term in terms(name, version) if term not in noticed):
                with monkeypatch.context() as patch:
                    missed[term] = term.text
                    remove(term, patch)
                    if not _sample_agrees(name, version):
                        noticed.add(term)
                        del missed[term]
    assert set(missed.values()) == IDLE and len(noticed) > 20 * len(IDLE)


def _sample_agrees(name: str, version: RewardVersion) -> bool:
    try:
        for episode in reversed(_sample(name)):  # the states at random notice most
            with np.errstate(all="ignore"):
                check(episode, version, "python")
    except AssertionError:
        return False
    return True


@pytest.mark.parity
@pytest.mark.parametrize(("name", "policy", "seed"), CASES)
def test_equals_the_package(name: str, policy: Policy, seed: int) -> None:
    for episode in record(name, policy, seed, GOALS[seed]):
        for version in VERSIONS:
            for way in WAYS:
                check(episode, version, way)
