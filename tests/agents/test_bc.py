"""Behaviour cloning of keyframes: the losses, the network's parts, and per-task gradients of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtrl.agents import AGENTS
from mtrl.core.errors import UserError
from mtrl.core.specs import KeyframeSpec
from mtrl.data.depth import point_cloud
from mtrl.gradients import Methods
from mtrl.networks import TaskNetwork
from mtrl.networks.keyframes import KEYFRAME_NETWORKS
from tests.support.cloning import B, C, H, T, agent, batch


def test_the_losses_are_the_formula() -> None:
    made, given = agent(position_weight=3.0, rotation_weight=0.5, gripper_weight=2.0), batch(0)
    losses, errors = made.losses(*made.network.tensors, given)
    found = made.act(given.observation)
    logit = made.predict(*made.network.tensors, given.observation).gripper
    for t in range(T):
        total, distances, angles = [], [], []
        for b in range(B):
            xyz, q, goal = found[t, b, :3], found[t, b, 3:7], given.target_pose[t, b]
            distances.append((xyz - goal[:3]).norm().item())
            dot = min(abs(float(q @ goal[3:])), 1.0)
            angles.append(np.degrees(2 * np.arccos(dot)))
            p = torch.sigmoid(logit[t, b]).item()
            entropy = -np.log(p if given.target_gripper[t, b] else 1 - p)
            sample = 3 * distances[-1] + 0.5 * (1 - dot**2) + 2 * entropy
            total.append(sample * given.importance[t, b].item())
        assert losses[t].item() == pytest.approx(np.mean(total), rel=1e-4)
        assert errors["position_error"][t].item() == pytest.approx(np.mean(distances), rel=1e-4)
        assert errors["rotation_error"][t].item() == pytest.approx(np.mean(angles), rel=1e-3)


def test_the_position_is_the_mean_point_under_the_attention_plus_the_stages_offset() -> None:
    made, given = agent(patch=2), batch(0)
    with torch.no_grad():
        made.network.own["offset/rows"].copy_(torch.randn(T, 3, 3))
    seen = given.observation
    prediction = made.predict(*made.network.tensors, seen)
    points = point_cloud(seen.depth, seen.intrinsics, seen.extrinsics)[..., 1::2, 1::2]
    assert prediction.attention.shape == (T, B, C, 4, 4)
    assert torch.allclose(prediction.attention.sum((-1, -2, -3)), torch.ones(T, B))
    mean = torch.einsum("tbchw,tbcxhw->tbx", prediction.attention, points)
    offset = torch.stack([made.network.own["offset/rows"][t, seen.stage[t].clamp(max=2)] for t in range(T)])
    assert torch.allclose(prediction.position, mean + offset, atol=1e-5)
    assert torch.allclose(prediction.quaternion.norm(dim=-1), torch.ones(T, B), atol=1e-5)


def test_tasks_own_embeddings_and_offsets_and_nothing_else() -> None:
    made = agent()
    assert set(made.network.own) == {"embedding/rows", "offset/rows"} and not made.network.own_buffers
    given = batch(0)
    stage = given.observation.stage.clone()
    stage[0] = (stage[0] + 1) % 3
    other = given.observation._replace(stage=stage)
    before, after = made.act(given.observation), made.act(other)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_blind_is_blind_and_seeing_sees() -> None:
    given, other = batch(0), batch(1)
    other = other._replace(observation=other.observation._replace(stage=given.observation.stage))
    for blind in (True, False):
        made = agent(blind=blind)
        assert torch.equal(made.act(given.observation), made.act(other.observation)) is blind


@pytest.mark.parametrize("patch", [1, 2])
def test_per_task_gradients_are_those_of_each_loss_alone(patch: int) -> None:
    made, given = agent(patch=patch), batch(0)
    shared, own, buffers = made.network.tensors
    leaves = made.network.per_task_leaves()
    losses, _ = made.losses(leaves, own, buffers, given)
    found = torch.autograd.grad(losses.sum(), list(leaves.values()))
    joint, _ = made.losses(shared, own, buffers, given)
    assert torch.allclose(losses, joint, rtol=1e-5)
    for t in range(T):
        alone = torch.autograd.grad(joint[t], list(shared.values()), retain_graph=True)
        for name, ours, theirs in zip(leaves, found, alone, strict=True):
            assert torch.allclose(ours[t], theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max())), name


def test_one_tasks_samples_leave_the_others_losses_alone() -> None:
    made, given = agent(), batch(0)
    rgb = given.observation.rgb.clone()
    rgb[1] = 255 - rgb[1]
    changed = given._replace(observation=given.observation._replace(rgb=rgb))
    one, other = (made.losses(*made.network.tensors, g)[0] for g in (given, changed))
    assert torch.equal(one[[0, 2]], other[[0, 2]]) and one[1] != other[1]


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
def test_a_restored_agent_goes_on_alike(surgery: str, tmp_path: Any) -> None:
    one, other = agent("uncertainty", surgery), agent("uncertainty", surgery, seed=9)
    for k in range(3):
        one.update(batch(k))
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    first, second = (a.update(batch(7)) for a in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_single_task_is_multi_task_with_one() -> None:
    made = agent(tasks=1, learning_rate=1e-2)
    losses = [made.update(batch(0, 1))["loss"].item() for _ in range(100)]
    assert losses[-1] < 0.7 * losses[0]


def test_picture_sizes_that_do_not_fit_the_levels_are_refused() -> None:
    factory = {"cameras": C, "image_size": 10}
    with pytest.raises(UserError, match="image_size` should be a multiple of 4"):
        TaskNetwork(KEYFRAME_NETWORKS.build(KEYFRAME_NETWORKS.config_class("keyframe")(channels=[4, 8]), **factory), T)


def test_the_mean_pose_control_is_the_mean_of_the_targets_it_saw() -> None:
    made = AGENTS.build(
        AGENTS.config_class("mean_pose")(stages=3),
        methods=Methods(),
        spec=KeyframeSpec(tuple(map(str, range(T))), ("front",), H),
    )
    batches = [batch(k) for k in range(4)]
    for given in batches:
        made.update(given)
    seen = batches[0].observation._replace(stage=torch.full((T, B), 1))
    for t in range(T):
        rows = torch.cat([g.target_pose[t][g.observation.stage[t] == 1] for g in batches])
        assert torch.allclose(made.act(seen)[t, 0, :3], rows[:, :3].mean(0), atol=1e-6)


def test_the_mean_pose_control_repeats_the_last_stage_that_has_targets() -> None:
    """A task's demonstrations may have fewer stages than the control."""
    spec = KeyframeSpec(tuple(map(str, range(T))), ("front",), H)
    made = AGENTS.build(AGENTS.config_class("mean_pose")(stages=4), methods=Methods(), spec=spec)
    given = batch(0)
    made.update(given._replace(observation=given.observation._replace(stage=torch.full((T, B), 1))))
    poses = [made.act(given.observation._replace(stage=torch.full((T, B), stage)))[:, 0] for stage in (1, 2, 9)]
    assert torch.equal(poses[0], poses[1]) and torch.equal(poses[0], poses[2])
    torch.testing.assert_close(poses[0][:, 3:7].norm(dim=-1), torch.ones(T))


@pytest.mark.parametrize(("method", "option"), [("pcgrad", "surgery"), ("uncertainty", "weighting")])
def test_the_mean_pose_control_refuses_methods_that_it_cannot_use(method: str, option: str) -> None:
    spec = KeyframeSpec(("a", "b"), ("front",), H)
    with pytest.raises(UserError, match=f"`{option}` should be .* for agent=mean_pose"):
        AGENTS.build(AGENTS.config_class("mean_pose")(), methods=Methods.of(method), spec=spec)
