"""The common part of off-policy actor-critic learners: Q ensembles, target networks, and how updates are executed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mtrl.agents.actor_critic import ActorCritic, ActorCriticConfig
from mtrl.core.config import option, runtime_option
from mtrl.core.specs import ControlSpec, GoalSpec, Spec
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions
from mtrl.execution import precision, runners
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.networks import TaskNetwork

Draw = Callable[[], Sequence[Transitions]]
"""Returns the batch of one update, or two batches if `ActorCritic.needs_second_batch`."""


@dataclass
class OffPolicyConfig(ActorCriticConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec, GoalSpec)
    trainings: ClassVar[tuple[str, ...]] = ("off_policy", "goal_conditioned")
    tau: float = option(0.005, "in (0, 1]")
    """τ: share of the way that each update of the target networks moves them towards the trained networks."""
    n_step: int = option(1, "a positive integer")
    """Number of rewards in a target before it bootstraps from the target critics."""
    batch_size: int = option(128, "a positive integer")
    """B: transitions per task and update."""
    num_critics: int = option(2, "a positive integer")
    """E: number of critics. SAC's and TD3's targets use the smallest of their values."""
    reward_scale: float = option(1.0, "positive")
    """Factor by which rewards are multiplied in the critics' targets."""
    updates_per_launch: int = runtime_option(8, "a positive integer")
    """(SAC) Updates in one launch of a CUDA graph, where at least that many follow a step of the environments."""


class CriticBatch(NamedTuple):
    inputs: Tensor
    """(T, B, O + A)"""
    target: Tensor
    """(T, B)"""
    subset: TaskSubset = ALL_TASKS


class OffPolicyActorCritic(ActorCritic):
    """A learner with an ensemble of E critics Q(s, a) and their targets."""

    critic_sees_action: ClassVar[bool] = True
    counting: ClassVar[tuple[str, ...]] = ("critic_optimizer",)
    """Optimisers whose steps add up to the updates of `learn`, for checkpoints without the number of updates."""

    def __init__(self, config: Any, **context: Any) -> None:
        self.ensemble = config.num_critics
        super().__init__(config, **context)
        self.target = self._target_of(self.critic)
        self._move = get_ema_multi_avg_fn(1 - config.tau)
        self.execution = self._choose_execution([self.critic_optimizer, self.actor_optimizer])
        self._learner: tuple[Draw, Callable[[int], Metrics]] | None = None
        self._built: list[runners.Runner] = []
        self._updates = 0  # those of `learn`, counted on the host, since `step_count` is on the device

    def _choose_execution(self, optimizers: Sequence[MultiTaskOptimizer]) -> str:
        """The execution of updates that take steps with these optimisers."""
        host_bound = next((o.host_bound for o in optimizers if o.host_bound), None)
        return runners.choose(self.config.execution, self.device, host_bound)

    def equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """Take the optimiser steps of one update, and return its metrics.

        batches: one from `prepare`, or two if `needs_second_batch`.
        """
        raise NotImplementedError

    def _target_of(self, network: TaskNetwork) -> TaskNetwork:
        return copy.deepcopy(network).requires_grad_(False)

    @property
    def value_networks(self) -> Sequence[TaskNetwork]:
        return [self.critic, self.target]

    def prepare(self, batch: Transitions) -> Transitions:
        """The batch with normalised observations and rewards."""
        observed = [
            self._normalised("observation", x, batch.subset) for x in (batch.observation, batch.next_observation)
        ]
        reward = self._normalised("reward", batch.reward, batch.subset)
        return batch._replace(observation=observed[0], next_observation=observed[1], reward=reward)

    def learn(self, draw: Draw, count: int) -> Metrics:
        """Make `count` updates, each on a batch from `draw`, as `execution` says. Returns the last one's metrics.

        Compiled and captured updates call `draw` only while they are recorded. So it should read tensors that change in
        place, and draw random numbers from `generator`. The next call may then overwrite the metrics.
        """
        if self._learner is None or self._learner[0] != draw:
            self._learner = draw, self._runner(draw)
        metrics = self._learner[1](count)
        self._updates += count
        return metrics

    @property
    def fell_back(self) -> bool:
        """Whether updates go on in a slower way than `execution` says, since a faster one failed."""
        return any(isinstance(runner, runners.Auto) and runner.failed for runner in self._built)

    def _runner(self, draw: Draw) -> Callable[[int], Metrics]:
        return self._executed(lambda: self.update(*draw()))

    def _executed(self, update: runners.Update) -> runners.Runner:
        built = runners.build(
            self.execution,
            update,
            self._state,
            self.generator,
            self.config.updates_per_launch,
            done=lambda: self._updates,
            announce=lambda text: self.announce(text),
            products=precision.network_level(self.config.precision, self.device),
        )
        self._built.append(built)
        return built

    def update(self, batch: Transitions, second_batch: Transitions | None = None) -> Metrics:
        """One update of all networks on a batch (T, B, ..), and only methods that work on the host wait for the device.

        If `batch.subset` selects some of the tasks, metrics are means over them. second_batch: of the same tasks.
        If several processes train together, each gets the whole batch and learns from its share.
        """
        return self._take(self.equations, batch, second_batch)

    def _take(
        self, steps: Callable[..., Metrics], batch: Transitions, second_batch: Transitions | None = None
    ) -> Metrics:
        with precision.network_products(self.config.precision, self.device):
            batches = [self.prepare(self.processes.share(b)) for b in (batch, second_batch) if b is not None]
            metrics = steps(batches, batch.subset)
        return batch.subset.summary(metrics)

    def imitate(self, batch: Transitions, action: Tensor, value: Tensor) -> None:
        """Take one step towards another policy.

        The critics move towards `value` (T, B), the other policy's values of `action` (T, B, A) for rewards neither
        scaled nor normalised. The actor's actions without exploration move towards `batch.action`, which the
        other policy took, by the squared error.
        """
        batch = self.prepare(batch)
        value = self._normalised("reward", value, batch.subset) * self.config.reward_scale
        extras = {name: torch.zeros(self.num_tasks, device=self.device) for name in self.extras}
        inputs, count = torch.cat([batch.observation, action], -1), 2 if self.needs_second_batch else 1
        self.step_critics([CriticBatch(inputs, value, batch.subset)] * count, batch.subset, extras=extras)
        self.actor_optimizer.step(self._imitation_losses, *[batch] * count, subset=batch.subset, extras=extras)
        self.move_targets()

    def _imitation_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Transitions
    ) -> tuple[Tensor, Metrics]:
        output = self.actor.call(shared, own, own_buffers, batch.observation)
        return (self.greedy(output) - batch.action).square().mean((1, 2)), {}

    def move_targets(self) -> None:
        """Move all target networks towards the trained ones."""
        self.move_target(self.target, self.critic)

    def move_target(self, target: TaskNetwork, network: TaskNetwork) -> None:
        """θ' ← θ' + τ (θ − θ')"""
        self._move(list(target.parameters()), list(network.parameters()), None)

    def bootstrapped(self, batch: Transitions, future: Tensor) -> CriticBatch:
        """The batch with the target c r + γ (1 − terminated) future. future (T, B): the next observations' values.

        c is `reward_scale`. For n-step returns, r is the discounted sum of n rewards and `batch.discount` replaces γ.
        """
        discount = self.config.gamma if batch.discount is None else batch.discount
        target = batch.reward * self.config.reward_scale + discount * (1 - batch.terminated) * future
        return CriticBatch(torch.cat([batch.observation, batch.action], -1), target, batch.subset)

    def target_q(self, batch: Transitions, action: Tensor) -> Tensor:
        """min_e Q'_e(s', a'), (T, B)."""
        output = self.target.at(batch.subset)(torch.cat([batch.next_observation, action], -1))
        return self.head.value(output, batch.subset).amin(0)

    def fixed_q(self, observation: Tensor, action: Tensor, subset: TaskSubset, members: int | None = None) -> Tensor:
        """Q_e(s, a), (E, T, B), of all critics or of the first `members`. Gradients flow only to the actions."""
        shared, own, buffers = ({n: t.detach() for n, t in table.items()} for table in self.critic.at(subset).tensors)
        if members is not None:
            shared = {n: t[:members] for n, t in shared.items()}
            own, buffers = ({n: t[:, :members] for n, t in table.items()} for table in (own, buffers))
        output = self.critic.call(shared, own, buffers, torch.cat([observation, action], -1))
        return self.head.value(output, subset)

    def critic_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: CriticBatch
    ) -> tuple[Tensor, Metrics]:
        """Σ_e mean_B loss(Q_e(s, a), y), (T,), with the value head's loss. Metric: q (T,), the mean value."""
        output = self.critic.call(shared, own, own_buffers, batch.inputs)
        losses = self.head.loss(output, batch.target, batch.subset).mean(-1).sum(0)
        return losses, {"q": self.head.value(output.detach(), batch.subset).mean((0, 2))}

    def _parts(self) -> dict[str, Any]:
        return super()._parts() | {"target": self.target}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"updates": self._updates}

    def _state(self) -> dict[str, Any]:
        """All tensors that an update changes."""
        fixed = ("generator", *(f"{name}_normalisation" for name in self._normalisers))
        return {name: part for name, part in self.state_dict().items() if name not in fixed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._learner = None  # a graph would continue with the old tensors
        counted = sum(int(getattr(self, name).step_count) for name in self.counting)
        self._updates = state.get("updates", counted)  # early checkpoints do not tell
