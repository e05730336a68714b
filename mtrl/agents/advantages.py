"""Advantages of an on-policy learner (Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized
Advantage Estimation")."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    ended: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Â_t = Σ_k (γλ)^k δ_(t+k), (T, R, N), with δ_t = r_t + γ (1 − terminated_t) V(s_(t+1)) − V(s_t).

    The sum ends with the episode or after step R. All tensors are (T, R, N), for R steps of N environments per task.

    Args:
        next_value: V of the state that the step reached, also where a new episode has begun.
        terminated: 1 where the episode terminated, 0 elsewhere.
        ended: 1 where it terminated or was truncated, 0 elsewhere.
    """
    delta = reward + gamma * (1 - terminated) * next_value - value
    decay = gamma * gae_lambda * (1 - ended)
    advantage = torch.empty_like(delta)
    last = torch.zeros_like(delta[:, 0])
    for step in reversed(range(delta.shape[1])):
        last = delta[:, step] + decay[:, step] * last
        advantage[:, step] = last
    return advantage
