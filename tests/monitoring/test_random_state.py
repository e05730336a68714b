"""After a restore every source of randomness draws again what it drew."""

import random

import numpy as np
import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.monitoring import checkpoints
from mtrl.monitoring.random_state import random_state, restore_random_state, seed_process


def draws(generator: torch.Generator) -> list:
    return [
        random.random(), random.gauss(), np.random.rand(), np.random.randn(),
        torch.rand(()).item(), torch.randn((), generator=generator).item(),
    ]  # fmt: skip


def test_all_states_follow_from_the_seed() -> None:
    found = []
    for seed in (2**40 + 1, 2**40 + 1, 7):
        seed_process(seed)
        found.append([random.random(), np.random.rand()])
    assert found[0] == found[1] and not {*found[0]} & {*found[2]}


def test_draws_repeat_after_a_round_trip_through_a_checkpoint(tmp_path):
    generator = torch.Generator().manual_seed(3)
    draws(generator)
    path = checkpoints.save(tmp_path, 1, random_state({"noise": generator}), {})
    first = draws(generator)
    other = torch.Generator()
    assert draws(other) != first
    restore_random_state(checkpoints.load(path), {"noise": other})
    assert draws(other) == first


def test_other_generators_are_refused_and_nothing_is_restored():
    state = random_state({"noise": torch.Generator()})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(UserError, match="noise"):
        restore_random_state(state, {"batch": torch.Generator()})
    assert torch.equal(torch.get_rng_state(), before)


def test_generator_of_another_device_goes_on_from_a_seed_of_its_own_state():
    generator = torch.Generator().manual_seed(3)
    seeds = []
    for _ in range(2):
        state = random_state({"noise": generator})
        state["generators"]["noise"]["device"] = "cuda"
        torch.rand((), generator=generator)
        for _ in range(2):
            restored = torch.Generator()
            restore_random_state(state, {"noise": restored})
            seeds.append(restored.initial_seed())
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
