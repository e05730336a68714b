"""Data sets are read and written as Minari itself does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from mtrl.core.errors import UserError
from mtrl.data import minari_files
from mtrl.data.minari_files import Episode

minari = pytest.importorskip("minari", reason="the extra `minari` is not installed")
EpisodeBuffer = minari.data_collector.EpisodeBuffer
SIZES = (3, 2)


def episodes(lengths: list[int], seed: int = 0) -> list[Episode]:
    rng = np.random.default_rng(seed)
    found = []
    for number, length in enumerate(lengths):
        ended = np.zeros(length, bool)
        ended[-1] = number % 2 == 1
        parts = (rng.normal(size=(length + 1, 3)), rng.uniform(-1, 1, (length, 2)), rng.normal(size=length), ended)
        found.append(Episode(*parts))
    return found


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    return tmp_path / "sets"


def test_minari_finds_what_is_written(root: Path) -> None:
    given = episodes([4, 1, 7])
    minari_files.write(root, "toy", "turn-0", given, {"algorithm_name": "sac", "description": "three"})
    assert list(minari.list_local_datasets()) == ["toy/turn-0-v0"]
    found = minari.load_dataset("toy/turn-0-v0")
    assert (found.total_episodes, found.total_steps) == (3, 12)
    assert found.storage.metadata["description"] == "three"
    for number, (ours, theirs) in enumerate(zip(given, found.iterate_episodes(), strict=True)):
        np.testing.assert_allclose(theirs.observations, ours.observations, rtol=1e-6)
        np.testing.assert_allclose(theirs.actions, ours.actions, rtol=1e-6)
        np.testing.assert_allclose(theirs.rewards, ours.rewards)
        assert theirs.terminations.tolist() == ours.terminated.tolist()
        assert theirs.truncations.tolist() == [*[False] * (len(ours.rewards) - 1), number % 2 == 0]


def test_no_transition_joins_two_episodes(root: Path) -> None:
    given = {task: episodes(lengths, seed=len(lengths)) for task, lengths in (("a", [3, 5]), ("b", [2, 2, 6]))}
    for task, each in given.items():
        minari_files.write(root, "toy", task, each, {})
    for (_, each), found in zip(given.items(), minari_files.read(root, "toy", ["a", "b"], SIZES, None), strict=True):
        observation, action, reward, successor, terminated = (part[0].numpy() for part in found.transitions[:5])
        assert observation.dtype == np.float32
        np.testing.assert_allclose(observation, np.concatenate([e.observations[:-1] for e in each]), rtol=1e-6)
        np.testing.assert_allclose(successor, np.concatenate([e.observations[1:] for e in each]), rtol=1e-6)
        np.testing.assert_allclose(action, np.concatenate([e.actions for e in each]), rtol=1e-6)
        assert terminated.tolist() == np.concatenate([e.terminated for e in each]).tolist()
        assert found.mean_return == pytest.approx(np.mean([e.rewards.sum() for e in each]), rel=1e-5)
        assert len(reward) == sum(len(e.rewards) for e in each)


def test_data_sets_that_minari_made_are_read(root: Path) -> None:
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    given = episodes([6, 3])[0]
    rows: dict[str, Any] = {"observations": given.observations.reshape(7, 3, 1), "actions": given.actions}
    ends: dict[str, Any] = {"terminations": given.terminated, "truncations": ~given.terminated}
    buffer = EpisodeBuffer(rewards=given.rewards, **rows, **ends)  # type: ignore[arg-type]
    spaces = {"observation_space": Box(-9, 9, (3, 1)), "action_space": Box(-1, 1, (2,))}
    with pytest.warns(UserWarning):
        minari.create_dataset_from_buffers("toy/made-v0", [buffer], **spaces)
    found = minari_files.read(root, "toy", ["made"], SIZES, None)[0].transitions
    np.testing.assert_allclose(found.next_observation[0].numpy(), given.observations[1:], rtol=1e-6)


def test_a_part_of_the_episodes_is_spread_over_all(root: Path) -> None:
    given = episodes([10] * 20)
    minari_files.write(root, "toy", "a", given, {})
    found = minari_files.read(root, "toy", ["a"], SIZES, 50)[0].transitions
    wanted = np.concatenate([given[i].rewards for i in (0, 4, 9, 14, 19)])
    np.testing.assert_allclose(found.reward[0].numpy(), wanted, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # minari asks for an author, among others
def test_actions_of_other_limits_are_scaled_as_environments_scale_them_back(root: Path) -> None:
    """gymnasium's RescaleAction turns what is read into what was stored. Sets of mtrl's own stay as they are."""
    space = gym.spaces.Box(np.array([-0.4, 1.0], np.float32), np.array([0.4, 5.0], np.float32))
    stored = np.stack([space.low, space.high, [0.1, 2.0]]).astype(np.float32)
    buffer = EpisodeBuffer(
        observations=list(np.zeros((4, 3), np.float32)), actions=list(stored), rewards=[0.0] * 3,
        terminations=[False] * 3, truncations=[False, False, True],
    )  # fmt: skip
    ours = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    minari.create_dataset_from_buffers("toy/other-v0", [buffer], observation_space=ours, action_space=space)
    found = minari_files.read(root, "toy", ["other"], SIZES, None)[0].transitions.action[0].numpy()
    np.testing.assert_allclose(found[:2], [[-1, -1], [1, 1]], atol=1e-6)
    np.testing.assert_allclose(space.low + (found + 1) / 2 * (space.high - space.low), stored, atol=1e-6)
    tiny = episodes([3])[0]
    minari_files.write(root, "toy", "own", [tiny._replace(actions=np.full_like(tiny.actions, 1e-9))], {})
    own = minari_files.read(root, "toy", ["own"], SIZES, None)[0].transitions.action.numpy()
    assert np.array_equal(own, np.full_like(own, 1e-9))


def test_what_cannot_be_used_is_refused_in_one_line(root: Path) -> None:
    minari_files.write(root, "toy", "a", episodes([3]), {})
    minari_files.write(root, "toy", "bad", [episodes([3])[0]._replace(rewards=np.array([0.0, np.nan, 1.0]))], {})
    wide = episodes([3])[0]
    minari_files.write(root, "toy", "wide", [wide._replace(actions=np.full_like(wide.actions, 5))], {})
    minari_files.write(root, "toy", "torn", episodes([3]), {})
    file = minari_files.place(root, "toy", "torn") / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:600])
    cases: dict[str, Any] = {
        "should be new": lambda: minari_files.write(root, "toy", "a", episodes([3]), {}),
        "at least one episode": lambda: minari_files.write(root, "toy", "none", [], {}),
        "Found no .*other-v0; `mtrl data collect": lambda: minari_files.read(root, "toy", ["other"], SIZES, None),
        "within the limits of its action space, scaled to ±1. Found 5": lambda: minari_files.read(
            root, "toy", ["wide"], SIZES, None
        ),
        r"of sizes \(4, 2\)": lambda: minari_files.read(root, "toy", ["a"], (4, 2), None),
        "should be finite": lambda: minari_files.read(root, "toy", ["bad"], SIZES, None),
        "torn-v0 should be a data set": lambda: minari_files.read(root, "toy", ["torn"], SIZES, None),
    }
    for message, call in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (root / "toy" / "none-v0").exists()
