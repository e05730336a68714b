"""N-step returns against a loop over each copy's own history."""

from __future__ import annotations

import pytest
import torch

from mtrl.core.types import Transitions
from mtrl.data.n_step import NStepReplay
from mtrl.data.replay import ReplayBuffer

T, O, A, GAMMA = 2, 3, 1, 0.5


def step(number: int, copies: int, ends: float = 0.15) -> Transitions:
    """Observation (task, copy, number) leads to (task, copy, number + 1) whatever happens: ends are in the flags."""
    g = torch.Generator().manual_seed(number)
    task, copy = torch.meshgrid(torch.arange(T), torch.arange(copies), indexing="ij")
    here = torch.stack([task, copy, torch.full_like(task, number)], -1).float()
    there = here + torch.tensor([0, 0, 1])
    terminated, truncated = torch.rand(2, T, copies, generator=g) < ends
    reward = torch.randn(T, copies, generator=g)
    return Transitions(here, here[..., :1], reward, there, terminated.float(), truncated=truncated)


def expected(history: list[Transitions], first: int, t: int, n: int, steps: int) -> tuple[float, float, float, float]:
    """(reward, number of the successor, terminated, discount), by walking through one copy's history."""
    reward, discount, number, now = 0.0, 1.0, first, history[first]
    for number in range(first, min(first + steps, len(history))):
        now = history[number]
        assert now.truncated is not None
        reward += discount * now.reward[t, n].item()
        discount *= GAMMA
        if now.terminated[t, n] or now.truncated[t, n]:
            break
    return reward, number + 1, now.terminated[t, n].item(), discount


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("capacity", "total"), [(30, 4), (10, 10), (10, 23), (11, 40), (30, 40)])
def test_batches_are_those_of_a_walk_through_each_copys_history(
    copies: int, steps: int, capacity: int, total: int
) -> None:
    """Across terminations, truncations, the ring's end (whatever its size) and the newest transition."""
    replay = NStepReplay(T, capacity, O, A, steps=steps, discount=GAMMA, copies=copies)
    history = [step(number, copies) for number in range(total)]
    for transitions in history:
        replay.add(transitions)
    batch = replay.sample(300, torch.Generator().manual_seed(0))
    assert batch.discount is not None
    seen = set()
    for t in range(T):
        for b in range(300):
            task, n, first = map(int, batch.observation[t, b])
            reward, successor, terminated, discount = expected(history, first, t, n, steps)
            assert task == t and batch.action[t, b].item() == t
            assert batch.reward[t, b].item() == pytest.approx(reward, abs=1e-6)
            assert batch.next_observation[t, b].tolist() == [t, n, successor]
            assert (batch.terminated[t, b].item(), batch.discount[t, b].item()) == (terminated, discount)
            seen.add((t, first * copies + n))
    kept = range(max(0, total * copies - capacity), total * copies)
    assert seen == {(t, place) for t in range(T) for place in kept}


def test_one_step_is_the_plain_replay_bit_for_bit() -> None:
    plain, one = ReplayBuffer(T, 20, O, A), NStepReplay(T, 20, O, A, steps=1, discount=GAMMA, copies=3)
    for number in range(9):
        plain.add(step(number, 3))
        one.add(step(number, 3))
    first, second = (r.sample(50, torch.Generator().manual_seed(1)) for r in (plain, one))
    assert all(torch.equal(a, b) for a, b in zip(first[:5], second[:5], strict=True))
    assert second.discount is not None and (second.discount == GAMMA).all()


def test_a_saved_replay_goes_on_exactly() -> None:
    made = [NStepReplay(T, 10, O, A, steps=3, discount=GAMMA, copies=3) for _ in range(2)]
    for number in range(7):
        made[0].add(step(number, 3))
    made[1].load_state_dict(made[0].state_dict())
    for number in (7, 8):
        draws = [r.sample(50, torch.Generator().manual_seed(1)) for r in made]
        assert all(a is b or torch.equal(a, b) for a, b in zip(*draws, strict=True))
        for replay in made:
            replay.add(step(number, 3))


def test_other_numbers_of_copies_are_refused() -> None:
    with pytest.raises(ValueError, match="should add 3 transitions"):
        NStepReplay(T, 10, O, A, steps=3, discount=GAMMA, copies=3).add(step(0, 2))
