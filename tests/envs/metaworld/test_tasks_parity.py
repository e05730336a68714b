"""The tasks' arithmetic, as Python and compiled, gives the numbers of the package's own environments.

`make test` runs one policy a task over two shortened episodes; `make test-parity` every policy, several seeds and
goals, over whole episodes across a reset.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mtrl.envs.metaworld.tasks import TASKS
from tests.support.metaworld_mutations import remove, terms
from tests.support.metaworld_parity import POLICIES, VERSIONS, WAYS, Episode, Policy, check, compute, record

NAMES = sorted(TASKS)
CASES = [(name, policy, seed) for name in NAMES for policy in POLICIES for seed in range(3)]
GOALS = (0, 17, 40)


@cache
def _sample(name: str) -> list[Episode]:
    return record(name, ("scripted", "noisy")[NAMES.index(name) % 2], steps=100)


def _check_sample(name: str) -> None:
    for episode in _sample(name):
        for version in VERSIONS:
            for way in WAYS:
                check(episode, version, way)


@pytest.mark.parametrize("name", NAMES)
def test_sample_equals_the_package(name: str) -> None:
    _check_sample(name)


@pytest.mark.skipif(len(WAYS) < 2, reason="no C compiler")
@pytest.mark.parametrize("name", NAMES)
def test_both_ways_give_the_same_bits(name: str) -> None:
    for episode in _sample(name):
        for version in VERSIONS:
            python, compiled = (compute(episode, version, way) for way in WAYS)
            assert all(map(np.array_equal, python, compiled))


@pytest.mark.parity
@pytest.mark.parametrize("case", range(10))
def test_the_sample_notices_a_reward_without_one_of_its_terms(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(case)
    name, version = str(rng.choice(NAMES)), VERSIONS[case % 2]
    found = terms(name, version)
    term = found[rng.integers(len(found))]
    _check_sample(name)
    text = term.text
    remove(term, monkeypatch)
    with pytest.raises(AssertionError, match=f"{name} "):
        _check_sample(name)
        pytest.fail(f"{name} {version} is the same without the last term of `{text}`")


@pytest.mark.parity
@pytest.mark.parametrize(("name", "policy", "seed"), CASES)
def test_equals_the_package(name: str, policy: Policy, seed: int) -> None:
    for episode in record(name, policy, seed, GOALS[seed]):
        for version in VERSIONS:
            for way in WAYS:
                check(episode, version, way)
