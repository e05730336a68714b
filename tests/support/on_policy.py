"""A small PPO agent and rollouts of random numbers for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtrl.agents import AGENTS
from mtrl.agents.ppo import PPO
from mtrl.core.specs import ControlSpec
from mtrl.core.types import StepResult
from mtrl.data.rollout import Rollout
from mtrl.gradients import Methods
from mtrl.networks import NETWORKS

T, R, N, O, A = 3, 12, 4, 5, 2


def make(network: str = "multi_head", methods: Methods | None = None, seed: int = 0, **options: Any) -> PPO:
    torch.manual_seed(seed)
    return AGENTS.build(
        AGENTS.config_class("ppo")(**{"epochs": 2, "minibatches": 3, **options}),
        network=NETWORKS.config_class(network)(width=16, depth=2),
        methods=methods or Methods(),
        spec=ControlSpec(tuple(map(str, range(T))), O, A, horizon=10),
        seed=seed,
    )


def rollout(agent: PPO, seed: int = 0, ends: float = 0.1) -> Rollout:
    rng, made = np.random.default_rng(seed), Rollout(T, R, N, O, A)
    observation = rng.normal(size=(T, N, O))
    for _ in range(R):
        now = torch.tensor(observation, dtype=torch.get_default_dtype())
        action = agent.explore(now, agent.noise(now.shape[:-1]))
        successor: Any = rng.normal(size=(T, N, O))
        ended: Any = rng.random((2, T, N)) < ends
        observation = np.where(ended.any(0)[..., None], rng.normal(size=(T, N, O)), successor)
        reward = rng.normal(size=(T, N)) * 10.0 ** np.arange(T)[:, None]
        made.add(now, action, StepResult(observation, reward, ended[0], ended[1], successor, ended[0]))
    return made


def state(agent: PPO) -> list[Tensor]:
    return [t for module in (agent.actor, agent.critic, agent.head) for t in module.state_dict().values()]
