"""Per-task rings: what goes in comes out, and nothing else."""

from __future__ import annotations

import pytest
import torch

from mtrl.core.types import Transitions
from mtrl.data.replay import ReplayBuffer, draw_below

T, O, A = 3, 4, 2


def transitions(first: int, count: int) -> Transitions:
    """Every number of transition k of task t is 1000 t + k + 1, so that a row tells where it came from."""
    value = 1000.0 * torch.arange(T).unsqueeze(1) + torch.arange(first, first + count) + 1
    wide = value.unsqueeze(-1)
    return Transitions(wide.expand(-1, -1, O), wide.expand(-1, -1, A), value, wide.expand(-1, -1, O), value % 2)


def contents(buffer: ReplayBuffer) -> list[set[float]]:
    batch = buffer.sample(2000, torch.Generator().manual_seed(0))
    return [set(rewards.tolist()) for rewards in batch.reward]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [1, 4, 5, 6, 23])
def test_holds_exactly_the_newest(chunk: int, total: int) -> None:
    """Neither an unwritten row nor an overwritten one is ever drawn, and every task keeps to itself."""
    buffer = ReplayBuffer(T, 5, O, A)
    added = 0
    while added < total:
        count = min(chunk, total - added)
        buffer.add(transitions(added, count))
        added += count
    newest = range(max(0, total - 5), total)
    assert contents(buffer) == [{1000.0 * t + k + 1 for k in newest} for t in range(T)]
    assert len(buffer) == min(total, 5)


def test_a_row_stays_together() -> None:
    buffer = ReplayBuffer(T, 8, O, A)
    buffer.add(transitions(0, 8))
    batch = buffer.sample(64)
    assert batch.observation.shape == (T, 64, O) and batch.action.shape == (T, 64, A)
    for field in (batch.observation, batch.action, batch.next_observation):
        assert torch.equal(field, batch.reward.unsqueeze(-1).expand_as(field))
    assert torch.equal(batch.terminated, batch.reward % 2)


def test_sampling_is_uniform() -> None:
    buffer = ReplayBuffer(1, 10, 1, 1)
    value = torch.arange(10.0).unsqueeze(0)
    buffer.add(Transitions(value.unsqueeze(-1), value.unsqueeze(-1), value, value.unsqueeze(-1), value))
    counts = buffer.sample(100_000, torch.Generator().manual_seed(0)).reward.flatten().long().bincount(minlength=10)
    assert (counts - 10_000).abs().max() < 500


@pytest.mark.parametrize("limit", [1, 3, 999_983, 2**40 + 1])
def test_draws_below_a_limit_are_uniform(limit: int) -> None:
    """All within it, and spread evenly: counts in sixteen bins, and among neighbours, where float32 would skip some."""
    drawn = draw_below(torch.tensor(limit), (200_000,), torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64 and drawn.min() >= 0 and drawn.max() < limit
    if limit >= 16:
        counts = (drawn.double() / limit * 16).long().bincount(minlength=16)
        assert (counts - 12_500).abs().max() < 600
        assert ((drawn % 16).bincount(minlength=16) - 12_500).abs().max() < 600


def test_draws_have_a_limit_each() -> None:
    limits = torch.tensor([[2], [5], [1]])
    drawn = draw_below(limits, (3, 400), torch.Generator().manual_seed(0))
    assert [len(row.unique()) for row in drawn] == [2, 5, 1]


def test_nothing_can_be_drawn_from_an_empty_buffer() -> None:
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(T, 5, O, A).sample(1)


def test_a_step_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 5"):
        ReplayBuffer(T, 5, O, A).add(transitions(0, 6))


@pytest.mark.parametrize("total", [3, 5, 8])
@pytest.mark.parametrize("old", [False, True])
def test_state_goes_on_exactly(total: int, old: bool) -> None:
    """Also from the form that the first checkpoints have."""
    buffer, copy = ReplayBuffer(T, 5, O, A), ReplayBuffer(T, 5, O, A)
    for k in range(total):
        buffer.add(transitions(k, 1))
    state = buffer.state_dict()
    rows = torch.cat(list(state["blocks"].values()), 1)
    copy.load_state_dict({"rows": rows, "position": state["position"]} if old else state)
    for b in (buffer, copy):
        b.add(transitions(total, 2))
    draws = [b.sample(50, torch.Generator().manual_seed(1)) for b in (buffer, copy)]
    assert all(a is b or torch.equal(a, b) for a, b in zip(*draws, strict=True))


def test_a_young_buffer_saves_only_what_it_holds() -> None:
    buffer = ReplayBuffer(T, 1000, O, A)
    buffer.add(transitions(0, 2))
    assert sum(block.nbytes for block in buffer.state_dict()["blocks"].values()) == T * 2 * (2 * O + A + 2) * 4


@pytest.mark.parametrize("capacity", [7, 12, 40])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_blocks_of_one_name_are_the_same_and_hold_all(
    capacity: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a checkpoint need not write them again, over laps of the ring, whatever comes between two checkpoints."""
    buffer, seen = ReplayBuffer(T, capacity, O, A), dict[str, torch.Tensor]()
    monkeypatch.setattr(ReplayBuffer, "block_bytes", 4 * T * (2 * O + A + 2) * 4)
    for step in range(30):
        buffer.add(transitions(step * count, count))
        blocks = buffer.state_dict()["blocks"]
        for name, block in blocks.items():
            assert torch.equal(seen.setdefault(name, block.clone()), block)
        rewards = torch.cat([block[..., -2] for block in blocks.values()], 1)
        assert [set(row.tolist()) for row in rewards] == contents(buffer)
    kept = list(buffer.state_dict()["blocks"])
    buffer.add(transitions(30 * count, 1))
    changed = set(buffer.state_dict()["blocks"]) - set(kept)
    assert len(changed) == 1 and len(kept) == -(-min(capacity, 30 * count) // 4)


def test_memory_is_as_stated() -> None:
    assert ReplayBuffer(1, 1000, 39, 4).bytes == 336_000


def test_a_replay_of_another_shape_is_refused() -> None:
    saved = ReplayBuffer(T, 5, O, A)
    saved.add(transitions(0, 5))
    for other in (ReplayBuffer(T, 4, O, A), ReplayBuffer(T + 1, 5, O, A), ReplayBuffer(T, 5, O + 1, A)):
        with pytest.raises(ValueError, match="should fit"):
            other.load_state_dict(saved.state_dict())


@pytest.mark.parametrize("capacity", [4, 6])
def test_filled_rings_go_on_where_they_end(capacity: int) -> None:
    buffer = ReplayBuffer(1, capacity, O, A)
    buffer.fill([transitions(0, 4).map(lambda part: part[:1])])
    assert buffer.ordered().reward.tolist() == [[1, 2, 3, 4]]
    buffer.add(transitions(4, 2).map(lambda part: part[:1]))
    assert buffer.ordered().reward.tolist() == [[1, 2, 3, 4, 5, 6][-capacity:]]


@pytest.mark.parametrize("total", [3, 5, 8])
def test_a_saved_ring_goes_on_in_a_larger_one(total: int) -> None:
    saved, larger = ReplayBuffer(T, 5, O, A), ReplayBuffer(T, 7, O, A)
    for k in range(total):
        saved.add(transitions(k, 1))
    larger.load_state_dict(saved.state_dict())
    assert torch.equal(larger.ordered().reward, saved.ordered().reward)
    larger.add(transitions(total, 3))
    newest = range(max(0, total - 5), total + 3)[-7:]
    assert larger.ordered().reward[0].tolist() == [k + 1 for k in newest]
