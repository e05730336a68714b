"""After a restore every source of randomness draws again what it drew."""

import random

import numpy as np
import torch

from mtrl.monitoring import checkpoints
from mtrl.monitoring.random_state import random_state, restore_random_state, seed_process


def draws() -> list:
    return [
        random.random(), random.gauss(), np.random.rand(), np.random.randn(),
        torch.rand(()).item(), torch.randn(()).item(),
    ]  # fmt: skip


def test_all_states_follow_from_the_seed() -> None:
    found = []
    for seed in (2**40 + 1, 2**40 + 1, 7):
        seed_process(seed)
        found.append([random.random(), np.random.rand()])
    assert found[0] == found[1] and not {*found[0]} & {*found[2]}


def test_draws_repeat_after_a_round_trip_through_a_checkpoint(tmp_path):
    random.gauss()
    np.random.randn()
    path = checkpoints.save(tmp_path, 1, random_state(), {})
    first = draws()
    assert draws() != first
    restore_random_state(checkpoints.load(path))
    assert draws() == first
