"""Joint multi-head SAC in ordinary layers, as an independent reference for speed and results.

Nothing here uses mtrl's layers, `TaskNetwork` or `MultiTaskOptimizer`. The B rows of each of T tasks go through trunks
of `nn.Linear`, and each task's rows through its own output layer. The actor, the critics and the temperatures have one
optimiser each.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl.core.types import Transitions

DISCOUNT, RATE = 0.99, 0.005

Backward = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], None]
"""Called with losses (T,), shared parameters and owned parameters. Writes the update's gradients to `.grad`."""


def joint(losses: Tensor, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
    """A `Backward`: the gradient of the mean loss."""
    losses.mean().backward()


class MultiHead(nn.Module):
    """A ReLU trunk and one linear output per task: (T, B, in) -> (T, B, out)."""

    def __init__(self, num_tasks: int, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        layers = [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU(inplace=True))]
        self.trunk = nn.Sequential(*layers)
        self.weight = nn.Parameter(torch.randn(num_tasks, width, outputs) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(num_tasks, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, self.trunk(x.flatten(0, 1)).unflatten(0, x.shape[:2]), self.weight)


class PlainSAC:
    """SAC with twin critics, target networks, a tanh-Gaussian actor, and one temperature per task.

    backward: turns the tasks' losses into gradients; by default into the gradient of their mean.
    """

    def __init__(
        self, num_tasks: int, observation: int, action: int, width: int, depth: int, backward: Backward = joint
    ) -> None:
        self.backward = backward
        sizes = {"width": width, "depth": depth}
        self.actor = MultiHead(num_tasks, observation, 2 * action, **sizes)
        self.critics = nn.ModuleList([MultiHead(num_tasks, observation + action, 1, **sizes) for _ in range(2)])
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.zeros(num_tasks, requires_grad=True)
        self.entropy = -float(action)
        parts = (self.actor.parameters(), self.critics.parameters(), [self.log_alpha])
        self.optimizers = [torch.optim.Adam(p, lr=3e-4, fused=True) for p in parts]

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """observation (T, B, O) -> random actions (T, B, A) and their log-densities (T, B)."""
        mean, log_std = self.actor(observation).chunk(2, -1)
        noise, log_std = torch.randn_like(mean), log_std.clamp(-20, 2)
        u = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.9189385 - 2 * (0.6931472 - u - F.softplus(-2 * u))
        return u.tanh(), log_prob.sum(-1)

    def update(self, batch: Transitions) -> None:
        actor_optimizer, critic_optimizer, alpha_optimizer = self.optimizers
        alpha = self.log_alpha.detach().exp().unsqueeze(1)
        with torch.no_grad():
            action, log_prob = self.sample(batch.next_observation)
            inputs = torch.cat([batch.next_observation, action], -1)
            q = torch.minimum(*[target(inputs)[..., 0] for target in self.targets])
            y = batch.reward + DISCOUNT * (1 - batch.terminated) * (q - alpha * log_prob)
        inputs = torch.cat([batch.observation, batch.action], -1)
        losses = torch.stack([(critic(inputs)[..., 0] - y).square().mean(1) for critic in self.critics]).sum(0)
        self._step(critic_optimizer, self.critics, losses)
        self.critics.requires_grad_(False)
        action, log_prob = self.sample(batch.observation)
        inputs = torch.cat([batch.observation, action], -1)
        q = torch.minimum(*[critic(inputs)[..., 0] for critic in self.critics])
        self._step(actor_optimizer, self.actor, (alpha * log_prob - q).mean(1))
        self.critics.requires_grad_(True)
        alpha_optimizer.zero_grad(set_to_none=True)
        (-self.log_alpha * (log_prob.detach().mean(1) + self.entropy)).mean().backward()
        alpha_optimizer.step()
        with torch.no_grad():
            for target, critic in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.lerp_(critic, RATE)

    def _step(self, optimizer: torch.optim.Optimizer, network: nn.Module, losses: Tensor) -> None:
        heads = [m for m in network.modules() if isinstance(m, MultiHead)]
        own = [p for head in heads for p in (head.weight, head.bias)]
        optimizer.zero_grad(set_to_none=True)
        self.backward(losses, [p for head in heads for p in head.trunk.parameters()], own)
        optimizer.step()
