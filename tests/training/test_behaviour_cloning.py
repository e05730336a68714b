"""Learning from demonstrations: solves what can be seen, resumes exactly, and looks where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtrl.agents import AGENTS
from mtrl.core.errors import UserError
from mtrl.gradients import Methods
from mtrl.networks.keyframes import KEYFRAME_NETWORKS
from mtrl.training import TRAININGS
from mtrl.training.behaviour_cloning import CloningTrainer
from tests.support.keyframe_toys import CAMERAS, SIZE, TASKS, ToySuite, write_cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demos")
    write_cache(folder / "discs", 40)
    return folder


def agent(weighting: str = "equal", kind: str = "bc", seed: int = 0, **network: Any) -> Any:
    torch.manual_seed(seed)
    small = {"channels": [8, 16], "patch": 1, "embedding": 8, "rotation_width": 32, "rotation_channels": 4}
    return AGENTS.build(
        AGENTS.config_class(kind)(batch_size=16),
        network=KEYFRAME_NETWORKS.config_class("keyframe")(**{**small, **network}),
        methods=Methods.of(weighting),
        spec=ToySuite().spec,
        seed=seed,
    )


def trainer(cache: Path, learner: Any, seed: int = 1, **options: Any) -> CloningTrainer:
    config = TRAININGS.config_class("behaviour_cloning")(cache=str(cache), **options)
    return TRAININGS.build(config, agent=learner, suite=ToySuite(), seed=seed, steps=10).start()


def solved(learner: Any, episodes: int = 20) -> np.ndarray:
    return evaluated(learner, episodes).success_rate


def evaluated(learner: Any, episodes: int, **options: Any) -> Any:
    """By a trainer that was not started: an evaluation needs no demonstrations."""
    config = TRAININGS.config_class("behaviour_cloning")(**options)
    return TRAININGS.build(config, agent=learner, suite=ToySuite(), seed=3, steps=1).evaluate(episodes, "goals")


def trained(cache: Path, learner: Any, updates: int, **options: Any) -> Any:
    made = trainer(cache, learner, **options)
    for _ in range(updates):
        made.advance()
    made.close()
    return learner


def test_it_reaches_the_disc_of_the_task_and_blindly_does_not(cache: Path) -> None:
    """The demonstrations differ by where the discs are: only who sees them, and knows the task, can reach them."""
    assert (solved(trained(cache, agent(), 200)) >= 0.8).all()
    assert (solved(trained(cache, agent(blind=True), 60)) <= 0.2).all()
    assert (solved(trained(cache, agent(kind="mean_pose"), 20)) <= 0.2).all()


@pytest.mark.parametrize("options", [{}, {"priority": True}, {"shift": 2}], ids=["plain", "priority", "shift"])
@pytest.mark.parametrize("weighting", ["equal", "auto_lambda"])
def test_a_resumed_run_goes_on_bit_for_bit(
    cache: Path, options: dict[str, Any], weighting: str, tmp_path: Path
) -> None:
    whole = trainer(cache, agent(weighting), **options)
    for _ in range(3):
        whole.advance()
    torch.save(whole.state_dict(), tmp_path / "state")
    rest = [{k: v.clone() for k, v in whole.advance().items()} for _ in range(3)]
    again = trainer(cache, agent(weighting, seed=5), seed=9, **options)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again.step == 3
    for ours in rest:
        theirs = again.advance()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    whole.close()
    again.close()


def test_where_it_looks_is_drawn_over_what_it_sees(cache: Path) -> None:
    made = trainer(cache, agent())
    made.advance()
    pictures = made.pictures()
    assert set(pictures) == {f"attention/{task}" for task in TASKS}
    assert all(p.shape == (SIZE, len(CAMERAS) * SIZE, 3) and p.dtype == np.uint8 for p in pictures.values())
    made.close()


def test_episodes_are_the_same_whatever_is_played_side_by_side(cache: Path) -> None:
    learner = trained(cache, agent(kind="mean_pose"), 5)
    found = [evaluated(learner, 7, evaluation_copies=copies) for copies in (1, 3, 5)]
    assert all(result.success.shape == (2, 7) for result in found)
    assert all(np.array_equal(result.lengths, found[0].lengths) for result in found)
    assert all(np.array_equal(result.success, found[0].success) for result in found)


def test_a_missing_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Demonstrations of red should lie in .*discs.* Found none"):
        trainer(tmp_path, agent())
