"""The ten tasks: experts solve them, nothing less does, and scenes vary as far as is said."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest

from mtrl.data.demos import canonical_quaternion, keyframes, rotation_matrix
from mtrl.envs.keyframes.collect import demonstrate
from mtrl.envs.keyframes.episode import Episode
from mtrl.envs.keyframes.poses import Pose, down, yaw_of
from mtrl.envs.keyframes.scene import TABLE
from mtrl.envs.keyframes.tasks import TASKS

EACH_TASK = pytest.mark.parametrize("task", TASKS)
PLACED = {
    "reach_target": ("ball",),
    "push_button": ("button",),
    "pick_and_lift": ("block", "ball"),
    "pick_up_cup": ("cup",),
    "put_knife_on_chopping_board": ("knife", "board"),
    "take_money_out_safe": ("safe",),
    "put_money_in_safe": ("safe", "money"),
    "take_umbrella_out_of_umbrella_stand": ("stand",),
    "stack_wine": ("bottle", "rack"),
    "slide_block_to_target": ("block",),
}
"""The bodies that an expert has to find."""
ROUND = {("reach_target", "ball"), ("pick_and_lift", "ball"), ("stack_wine", "bottle")}
"""Those without an orientation about the vertical."""


def demo_actions(episode: Episode, number: int) -> list[np.ndarray] | None:
    """The keyframes of a demonstration as actions, as a policy is trained to give them."""
    demo = demonstrate(episode, number, (), None)
    if demo is None:
        return None
    made = []
    for index in keyframes(demo):
        pose = demo.frames[index].gripper_pose
        made.append(np.array([*pose[:3], *canonical_quaternion(pose[3:]), demo.frames[index].gripper_open]))
    return made


def success_rate(task: str, scenes: int, policy: Callable[[Episode, int], list[np.ndarray]]) -> float:
    episode = Episode(task, 3, "evaluation")
    solved = 0
    for number in range(scenes):
        episode.begin(number)
        for action in policy(episode, number):
            episode.act(action)
        solved += episode.success
    return solved / scenes


def test_the_names_are_those_of_the_paper() -> None:
    assert list(TASKS) == [
        "reach_target",
        "push_button",
        "pick_and_lift",
        "pick_up_cup",
        "put_knife_on_chopping_board",
        "take_money_out_safe",
        "put_money_in_safe",
        "take_umbrella_out_of_umbrella_stand",
        "stack_wine",
        "slide_block_to_target",
    ]


@EACH_TASK
def test_what_a_demonstration_shows_solves_its_scene(task: str) -> None:
    """A demonstration has the task's number of keyframes, and going from one to the next solves the scene again."""
    episode = Episode(task, 5, "demos")
    solved = shown = 0
    for number in range(3):
        actions = demo_actions(episode, number)
        if actions is None:
            continue
        assert len(actions) == TASKS[task].keyframes
        shown += 1
        episode.begin(number)
        assert not episode.task.solved(episode.world)
        for action in actions:
            assert not episode.success
            episode.act(action)
        assert episode.over
        solved += episode.success
    assert shown >= 2 and solved == shown


@EACH_TASK
def test_nothing_short_of_every_keyframe_is_a_success(task: str) -> None:
    assert success_rate(task, 3, lambda episode, _: episode.expert()[:-1]) == 0


@EACH_TASK
def test_keyframes_are_apart_and_their_quaternions_have_a_sign(task: str) -> None:
    """Short moves would hide stops from the keyframe heuristic; w near 0 would leave the sign of a target to noise."""
    episode = Episode(task, 7, "demos")
    for number in range(20):
        episode.begin(number)
        actions = [np.array([*episode.world.gripper.position, *episode.world.gripper.quaternion, 1.0])]
        actions += episode.expert()
        for before, action in itertools.pairwise(actions):
            assert np.linalg.norm(action[:3] - before[:3]) > 0.055
            assert action[6] > 0.05


@EACH_TASK
def test_scenes_are_numbered_and_evaluation_has_its_own(task: str) -> None:
    def state(seed: int, stream: str, number: int) -> np.ndarray:
        episode = Episode(task, seed, stream)
        episode.begin(number)
        return np.concatenate([episode.world.data.qpos, episode.world.data.mocap_pos.ravel()])

    reference = state(1, "demos", 4)
    assert (state(1, "demos", 4) == reference).all()
    others = [state(1, "demos", 5), state(2, "demos", 4), state(1, "evaluation", 4)]
    assert all(np.abs(other - reference).max() > 1e-3 for other in others)


@EACH_TASK
def test_objects_lie_over_the_stated_ranges(task: str) -> None:
    """Positions over at least 20 × 20 cm (15 cm and more reached in 150 draws), rotations over ±45°."""
    episode, world = Episode(task, 1, "demos"), Episode(task, 1, "demos").world
    sides = [sorted(map(int, pair)) for pair in re.findall(r"(\d+) x (\d+) cm", TASKS[task].ranges)]
    assert all(side >= 20 for pair in sides for side in pair)
    poses: dict[str, list[Pose]] = {name: [] for name in PLACED[task]}
    rng = np.random.default_rng(0)
    for _ in range(150):
        world.reset()
        episode.task.place(world, rng)
        world.settle(1)
        for name, seen in poses.items():
            seen.append(world.pose(name))
    for name, seen in poses.items():
        spread = np.ptp([pose.position[:2] for pose in seen], axis=0)
        assert (spread > 0.16).all(), name
        if (task, name) not in ROUND:
            yaws = np.rad2deg([yaw_of(pose.quaternion) for pose in seen])
            assert yaws.min() < -40 and yaws.max() > 40 and np.abs(yaws).max() < 46, name


def test_a_grasp_is_held_by_friction_alone() -> None:
    """The lifted block is in the air between the fingers; it falls when they open."""
    episode = Episode("pick_and_lift", 1, "demos")
    episode.begin(0)
    actions = episode.expert()
    for action in actions:
        episode.act(action)
    world = episode.world
    assert episode.success and world.pose("block").position[2] > TABLE + 0.1
    world.settle(500)
    assert world.held("block") and world.pose("block").position[2] > TABLE + 0.1
    world.act(world.gripper, True)
    world.settle(500)
    assert not world.held("block") and world.pose("block").position[2] < TABLE + 0.06


def test_the_gripper_goes_where_it_is_told_inside_the_workspace() -> None:
    episode = Episode("reach_target", 1, "demos")
    episode.begin(0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        pose = Pose(rng.uniform([0.0, -0.4, 0.9], [0.5, 0.4, 1.4]), down(float(rng.uniform(-2, 2))))
        episode.world.act(pose, True)
        reached = episode.world.gripper
        assert np.abs(reached.position - pose.position).max() < 1e-3
        assert np.abs(rotation_matrix(reached.quaternion) - rotation_matrix(pose.quaternion)).max() < 5e-3
    episode.world.act(Pose(np.array([0.3, 0.0, -5.0]), down()), True)
    assert TABLE < episode.world.gripper.position[2] < TABLE + 0.02


@pytest.mark.slow
@EACH_TASK
def test_the_expert_solves_nearly_every_scene_and_a_fixed_motion_hardly_any(task: str) -> None:
    """At least 95 % of 100 held-out scenes; the mean of the expert's actions over other scenes: at most 20 %."""
    assert success_rate(task, 100, lambda episode, _: episode.expert()) >= 0.95
    episode = Episode(task, 4, "demos")
    plans = []
    for number in range(50):
        episode.begin(number)
        plans.append(episode.expert())
    mean = list(np.mean(plans, axis=0))
    assert success_rate(task, 50, lambda *_: mean) <= 0.2
