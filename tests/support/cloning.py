"""A small behaviour-cloning agent and random batches for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mtrl.agents import AGENTS
from mtrl.agents.bc import BC
from mtrl.data.demo_cache import KeyframeBatch, KeyframeObservation
from mtrl.gradients import SURGERIES, WEIGHTINGS
from mtrl.networks.keyframes import KEYFRAME_NETWORKS
from tests.support.gradient_toys import config

T, B, C, H = 3, 4, 2, 8
NETWORK = {"channels": [4, 8], "embedding": 5, "stages": 3, "rotation_width": 8, "rotation_channels": 4}


def batch(seed: int, tasks: int = T) -> KeyframeBatch:
    g = torch.Generator().manual_seed(seed)
    lead = (tasks, B, C)
    poses = torch.eye(4).repeat(*lead, 1, 1)
    poses[..., :3, 3] = torch.randn(*lead, 3, generator=g)
    intrinsics = torch.tensor([[-9.0, 0, 4], [0, -9.0, 4], [0, 0, 1]]).repeat(*lead, 1, 1)
    rgb = torch.randint(256, (*lead, H, H, 3), generator=g, dtype=torch.uint8)
    depth = torch.rand(*lead, H, H, generator=g) + 0.5
    pose = F.normalize(torch.randn(tasks, B, 7, generator=g), dim=-1)
    gripper = torch.randint(2, (tasks, B), generator=g).float()
    stage = torch.randint(4, (tasks, B), generator=g)
    seen = KeyframeObservation(rgb, depth, intrinsics, poses, pose, gripper, stage)
    quaternion = F.normalize(torch.randn(tasks, B, 4, generator=g), dim=-1)
    target = torch.cat([torch.randn(tasks, B, 3, generator=g), quaternion], -1)
    return KeyframeBatch(seen, target, gripper.flip(0), torch.rand(tasks, B, generator=g))


def agent(weighting: str = "equal", surgery: str = "none", seed: int = 0, tasks: int = T, **options: Any) -> BC:
    torch.manual_seed(seed)
    watching = {k: options.pop(k) for k in ("diagnostics", "affinity") if k in options}
    network = {k: options.pop(k) for k in [*NETWORK, "patch", "blind"] if k in options}
    return AGENTS.build(
        AGENTS.config_class("bc")(batch_size=B, **options),
        network=KEYFRAME_NETWORKS.config_class("keyframe")(**{**NETWORK, **network}),
        weighting=config(WEIGHTINGS, weighting, **({"window": 2} if weighting == "dwa" else {})),
        surgery=config(SURGERIES, surgery),
        num_tasks=tasks,
        cameras=["front", "wrist"][:C],
        image_size=H,
        seed=seed,
        **watching,
    )
