"""Replay of goals, against a plain list of what was added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtrl.core.subset import SomeTasks
from mtrl.core.types import Transitions
from mtrl.data.goal_replay import GoalReplay, HindsightReplay

G, T, N, CAPACITY, O, A = 8, 3, 2, 5, 4, 2
GOALS = torch.arange(G * 3.0).view(G, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(task: list[int], number: int) -> Transitions:
    """Transitions whose every number tells the goal and the step, and which copy it was."""
    mark = torch.tensor(task).view(-1, 1) * 1000.0 + number * 10 + torch.arange(N)
    goals = SomeTasks(torch.tensor(task), GOALS[task])
    spread = mark.unsqueeze(-1)
    return Transitions(
        spread.expand(-1, -1, O), spread.expand(-1, -1, A), mark, spread.expand(-1, -1, O) + 0.5, mark * 0, goals
    )


def filled() -> tuple[GoalReplay, dict[int, list[float]]]:
    """A replay, and the marks that each ring should hold: its last CAPACITY."""
    replay, marks = GoalReplay(GOALS, CAPACITY, O, A, T), {g: [] for g in range(G)}
    for number, task in enumerate([[0, 3, 5], [5, 0, 6], [5, 2, 0], [5, 1, 6]]):
        added = step(task, number)
        replay.add(added)
        for goal, found in zip(task, added.reward.tolist(), strict=True):
            marks[goal] = [*marks[goal], *found][-CAPACITY:]
    return replay, marks


def test_each_ring_keeps_its_own_newest_and_nothing_else_is_drawn() -> None:
    replay, marks = filled()
    assert replay.sizes.tolist() == [len(marks[g]) for g in range(G)]
    seen: dict[int, set[float]] = {g: set() for g in range(G)}
    for seed in range(60):
        batch = replay.sample(16, generator(seed))
        assert isinstance(batch.subset, SomeTasks)
        task = batch.subset.task.tolist()
        assert len(set(task)) == T
        for row, goal in enumerate(task):
            seen[goal] |= set(batch.reward[row].tolist())
    assert seen == {goal: set(found) for goal, found in marks.items()}


def test_a_row_holds_one_goal_with_its_code() -> None:
    replay, _ = filled()
    batch = replay.sample(16, generator())
    assert isinstance(batch.subset, SomeTasks)
    torch.testing.assert_close(batch.subset.code, GOALS[batch.subset.task])
    assert (batch.reward // 1000 == batch.subset.task.unsqueeze(1)).all()
    torch.testing.assert_close(batch.observation[..., 0], batch.reward)
    torch.testing.assert_close(batch.next_observation[..., 0], batch.reward + 0.5)


def test_a_second_batch_has_the_same_goals() -> None:
    replay, _ = filled()
    source = generator()
    first = replay.sample(4, source)
    second = replay.sample(4, source, first.subset)
    assert isinstance(first.subset, SomeTasks)
    assert isinstance(second.subset, SomeTasks)
    assert torch.equal(first.subset.task, second.subset.task)
    assert not torch.equal(first.reward, second.reward)


def test_a_saved_replay_goes_on_exactly() -> None:
    replay, _ = filled()
    again = GoalReplay(GOALS, CAPACITY, O, A, T)
    again.load_state_dict(replay.state_dict())
    for buffer in (replay, again):
        buffer.add(step([5, 7, 0], 9))
    for one, other in zip(replay.sample(9, generator())[:5], again.sample(9, generator())[:5], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(ValueError, match="should fit"):
        GoalReplay(GOALS, 2, O, A, T).load_state_dict(replay.state_dict())


def test_full_rings_go_on_in_larger_ones() -> None:
    """The oldest transitions are the first to be overwritten, and nothing but what was stored is drawn."""
    replay, marks = filled()
    larger = GoalReplay(GOALS, CAPACITY + 2, O, A, T)
    larger.load_state_dict(replay.state_dict())
    assert larger.sizes.tolist() == replay.sizes.tolist() and len(larger) == len(replay)
    for number in (7, 8):
        added = step([5, 0, 7], number)
        larger.add(added)
        for goal, found in zip([5, 0, 7], added.reward.tolist(), strict=True):
            marks[goal] = [*marks[goal], *found][-CAPACITY - 2 :]
    drawn = larger.sample(400, generator(), SomeTasks(torch.tensor([5, 0, 7]), GOALS[[5, 0, 7]])).reward
    assert [set(row) for row in drawn.tolist()] == [set(marks[goal]) for goal in (5, 0, 7)]


def test_memory_is_what_the_documentation_says() -> None:
    assert GoalReplay(GOALS, CAPACITY, O, A, T).bytes == 4 * (2 * O + A + 2) * G * CAPACITY


def test_hindsight_relabels_whole_goals_with_what_was_reached() -> None:
    def relabel(batch: Transitions, reached: Tensor) -> Transitions:
        assert isinstance(batch.subset, SomeTasks)
        subset = SomeTasks(batch.subset.task, -reached[:, :3])
        return batch._replace(reward=batch.reward - 1e6, subset=subset)

    replay = HindsightReplay(GOALS, CAPACITY, O, A, T, relabel=relabel)
    for number in range(3):
        replay.add(step([0, 3, 5], number))
    relabelled = 0
    for seed in range(40):
        batch = replay.sample(4, generator(seed))
        assert isinstance(batch.subset, SomeTasks)
        changed = batch.reward < -1e5
        assert (changed.all(1) == changed.any(1)).all()
        expected = torch.where(changed[:, :1], batch.subset.code, GOALS[batch.subset.task])
        torch.testing.assert_close(batch.subset.code, expected)
        assert (batch.subset.code[changed[:, 0]] < 0).all()
        relabelled += int(changed[:, 0].sum())
    assert 40 <= relabelled <= 80


def test_a_second_batch_has_the_goals_of_the_first_in_hindsight_and_their_rewards() -> None:
    def reward(batch: Transitions, code: Tensor) -> Tensor:
        return batch.next_observation[..., 0] - code[:, :1]

    def relabel(batch: Transitions, reached: Tensor) -> Transitions:
        assert isinstance(batch.subset, SomeTasks)
        code = reached[:, :3]
        return batch._replace(reward=reward(batch, code), subset=SomeTasks(batch.subset.task, code))

    replay, own = HindsightReplay(GOALS, CAPACITY, O, A, T, relabel=relabel), SomeTasks(torch.arange(G), GOALS)
    for number in range(3):
        added = step(list(range(G)), number)
        replay.add(added._replace(reward=reward(added, GOALS)))
    for seed in range(20):
        source = generator(seed)
        first = replay.sample(4, source)
        second = replay.sample(4, source, first.subset)
        assert isinstance(first.subset, SomeTasks) and isinstance(second.subset, SomeTasks)
        assert torch.equal(first.subset.code, second.subset.code)
        for batch in (first, second):
            torch.testing.assert_close(batch.reward, reward(batch, first.subset.code))
        whole = replay.sample(4, source, own)
        assert isinstance(whole.subset, SomeTasks) and torch.equal(whole.subset.code, GOALS)
