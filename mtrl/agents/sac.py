"""Multi-task soft actor-critic: twin critics, a tanh-Gaussian actor, one temperature per task.

Haarnoja et al. 2018 ("Soft Actor-Critic Algorithms and Applications"), with a task axis: every loss is one
per task, and `MultiTaskOptimizer` decides what becomes of the T gradients of actor and critic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mtrl.agents.state import Stateful
from mtrl.core import execution, precision
from mtrl.core.config import check, check_choice
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions
from mtrl.gradients import Methods, MultiTaskOptimizer
from mtrl.networks import NETWORKS, TaskNetwork

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
Draw = Callable[[], Sequence[Transitions]]
"""The batch of one update, or two where `SAC.needs_second_batch`."""


@dataclass
class Config:
    trainings: ClassVar[tuple[str, ...]] = ("off_policy", "goal_conditioned")
    kind: str = "sac"
    discount: float = 0.99
    """γ."""
    target_rate: float = 0.005
    """τ: how far the target critics move towards the critics at each update."""
    batch_size: int = 128
    """B: transitions per task and update."""
    learning_rate: float = 3e-4
    """Adam's, for actor, critics and temperatures."""
    adam_eps: float = 1e-8
    """Adam's ε."""
    initial_temperature: float = 1.0
    """α of every task at the start."""
    shared_temperature: bool = False
    """One temperature for all tasks instead of one for each: where tasks are many goals, each is seldom drawn."""
    target_entropy: float | None = None
    """Entropy that each temperature holds, in nats; −A if not given."""
    num_critics: int = 2
    """E: critics whose minimum is the target."""
    critic_layer_norm: bool | None = None
    """Layer normalisation in the critics; as in the network if not given."""
    critic_width: int | None = None
    """Units of the critics' hidden layers; as in the network if not given."""
    reward_scale: float = 1.0
    """Factor of every reward in the critics' targets."""
    max_grad_norm: float | None = None
    """Clip the norm of each network's final gradient."""
    reduction: str = "mean"
    """How weighted task losses become one: mean or sum."""
    precision: str = "tf32"
    """Of the networks' products: tf32 (on a GPU that has it, else float32), float32 or bfloat16. Parameters, gradients,
    the tasks' inner products and what follows from them are float32 or float64 in any case."""
    execution: str = "auto"
    """How updates run: plain, captured (one CUDA graph), compiled (by PyTorch in half a minute; on a GPU captured too),
    or auto: where the methods allow it, captured on a GPU and compiled after 50,000 updates, compiled after 5,000 on a
    CPU with a compiler."""
    updates_per_launch: int = 8
    """Updates of one captured graph, where a step of the environments earns so many."""

    def __post_init__(self) -> None:
        check_choice("agent.precision", self.precision, precision.CHOICES)
        check_choice("agent.execution", self.execution, execution.CHOICES)
        check(self.updates_per_launch >= 1, "agent.updates_per_launch", "a positive integer", self.updates_per_launch)
        check(0 < self.discount <= 1, "agent.discount", "in (0, 1]", self.discount)
        check(0 < self.target_rate <= 1, "agent.target_rate", "in (0, 1]", self.target_rate)
        check(self.batch_size >= 1, "agent.batch_size", "a positive integer", self.batch_size)
        check(self.learning_rate > 0, "agent.learning_rate", "positive", self.learning_rate)
        check(self.adam_eps > 0, "agent.adam_eps", "positive", self.adam_eps)
        check(self.initial_temperature > 0, "agent.initial_temperature", "positive", self.initial_temperature)
        check(self.num_critics >= 1, "agent.num_critics", "a positive integer", self.num_critics)
        check(self.reward_scale > 0, "agent.reward_scale", "positive", self.reward_scale)
        check(self.reduction in ("mean", "sum"), "agent.reduction", "mean or sum", self.reduction)
        check(self.critic_width is None or self.critic_width >= 1, "agent.critic_width", "positive", self.critic_width)
        check(
            self.max_grad_norm is None or self.max_grad_norm > 0, "agent.max_grad_norm", "positive", self.max_grad_norm
        )


class CriticBatch(NamedTuple):
    inputs: Tensor
    """(T, B, O + A)"""
    target: Tensor
    """(T, B)"""


class ActorBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    noise: Tensor
    """(T, B, A) standard normal."""
    temperature: Tensor
    """(T, 1)"""
    subset: TaskSubset = ALL_TASKS


def tanh_gaussian(output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(u) and their log-densities, u ~ N(mean, std), from a network's output (.., 2A) and noise (.., A).

    log π = Σ_a [log N(u_a) − log(1 − tanh² u_a)], the last term as 2 (log 2 − u − softplus(−2u)).
    """
    mean, log_std = output.chunk(2, -1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    u = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_prob = (log_normal - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)
    return u.tanh(), log_prob


class SAC(Stateful):
    """The agent of T tasks with one network for the actor and one ensemble of E for the critics."""

    def __init__(
        self,
        config: Config,
        *,
        network: Any,
        methods: Methods,
        num_tasks: int,
        observation_size: int,
        action_size: int,
        goals: Tensor | None = None,
        tasks_per_batch: int | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """
        Args:
            network: the configuration of the architecture of actor and critics.
            goals: (T, G) of tasks that are goals: the codes by which networks know them.
            tasks_per_batch: S, where a batch holds only some of the tasks; its `subset` then says which.
        """
        self.config = config
        network = network if goals is None else network.for_goals()
        self.action_size = action_size
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        actor_factory = NETWORKS.build(network, input_size=observation_size, output_size=2 * action_size)
        critic_factory = NETWORKS.build(
            self._critic_network(network), input_size=observation_size + action_size, output_size=1
        )
        self.actor = TaskNetwork(actor_factory, num_tasks, codes=goals).to(self.device)
        self.critic = TaskNetwork(critic_factory, num_tasks, config.num_critics, goals).to(self.device)
        if config.precision == "bfloat16":
            self.actor.computed_in = self.critic.computed_in = torch.bfloat16
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self._move_target = get_ema_multi_avg_fn(1 - config.target_rate)
        alphas = 1 if config.shared_temperature else num_tasks
        self.log_alpha = torch.full((alphas,), math.log(config.initial_temperature), device=self.device)
        self.log_alpha.requires_grad_()
        self.target_entropy = -float(action_size) if config.target_entropy is None else config.target_entropy
        self.alpha_optimizer = self._adam([self.log_alpha])
        methods = replace(methods, tasks_per_batch=tasks_per_batch)
        self.critic_optimizer = self._optimizer(methods, self.critic, "critic")
        self.actor_optimizer = self._optimizer(methods, self.actor, "actor", critic=self.critic_optimizer)
        host_bound = self.critic_optimizer.host_bound or self.actor_optimizer.host_bound
        self.execution = execution.choose(config.execution, self.device, host_bound)
        self._learner: tuple[Draw, execution.Runner] | None = None
        self._updates = 0  # as `critic_optimizer.step_count`, without asking the device
        self.announce: Callable[[str], None] = lambda _: None

    def _critic_network(self, network: Any) -> Any:
        changes = {"layer_norm": self.config.critic_layer_norm, "width": self.config.critic_width}
        return replace(network, **{k: v for k, v in changes.items() if v is not None})

    def _adam(self, parameters: Any) -> torch.optim.Optimizer:
        options: dict[str, Any] = {"fused": True, "capturable": self.device.type == "cuda"}
        return torch.optim.Adam(parameters, lr=self.config.learning_rate, eps=self.config.adam_eps, **options)

    def _optimizer(
        self, methods: Methods, network: TaskNetwork, part: str, critic: MultiTaskOptimizer | None = None
    ) -> MultiTaskOptimizer:
        return methods.optimizer(
            network,
            self._adam(network.parameters()),
            part=part,
            critic=critic,
            reduction=self.config.reduction,
            max_grad_norm=self.config.max_grad_norm,
            generator=self.generator,
        ).to(self.device)

    @property
    def needs_second_batch(self) -> bool:
        """Whether `update` is to be given a second batch, for a weighting that looks ahead."""
        return self.critic_optimizer.needs_second_batch or self.actor_optimizer.needs_second_batch

    @torch.no_grad()
    def act(self, observation: Tensor, explore: bool, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """observation (S, N, O) of the tasks of `subset` -> action (S, N, A) in [-1, 1]: a sample, or tanh(mean)."""
        output = self.actor.at(subset.to(self.device))(observation.to(self.device, torch.float32))
        if not explore:
            return output.chunk(2, -1)[0].tanh()
        return tanh_gaussian(output, self._noise(output.shape[:-1]))[0]

    def _noise(self, leading: tuple[int, ...]) -> Tensor:
        return torch.randn(*leading, self.action_size, device=self.device, generator=self.generator)

    def learn(self, draw: Draw, count: int) -> Metrics:
        """`count` updates, each on what `draw` gives, as `Config.execution` says; the metrics of the last.

        Compiled or captured, `draw` runs only at first: what it reads should be tensors that are changed in place, and
        its randomness that of `generator`. The metrics are then tensors that the next call may overwrite.
        """
        if self._learner is None or self._learner[0] != draw:
            runner = execution.build(
                self.execution,
                lambda: self.update(*draw()),
                self._state,
                self.generator,
                self.config.updates_per_launch,
                done=lambda: self._updates,
                announce=lambda text: self.announce(text),
                products=precision.network_level(self.config.precision, self.device),
            )
            self._learner = draw, runner
        metrics = self._learner[1](count)
        self._updates += count
        return metrics

    def update(self, batch: Transitions, second_batch: Transitions | None = None) -> Metrics:
        """One step of critics, actor, temperatures and targets on a batch (T, B, ..). Nothing is read back.

        Where `batch.subset` is some of the tasks the metrics are means over them. A second batch is of the same tasks.
        """
        with precision.network_products(self.config.precision, self.device):
            return self._update(batch, second_batch)

    def _update(self, batch: Transitions, second_batch: Transitions | None) -> Metrics:
        batches, subset = [batch] if second_batch is None else [batch, second_batch], batch.subset
        log_alpha = self.log_alpha.detach().expand(self.actor.num_tasks)
        alpha = subset.gather(log_alpha).exp().unsqueeze(-1)
        settings: dict[str, Any] = {"extras": {"log_alpha": log_alpha}, "subset": subset}
        critic_batches: list[Any] = [self._critic_batch(b, alpha) for b in batches]
        critic = self.critic_optimizer.step(self.critic_losses, *critic_batches, **settings)
        actor_batches: list[Any] = [
            ActorBatch(b.observation, self._noise(b.reward.shape), alpha, subset) for b in batches
        ]
        actor = self.actor_optimizer.step(self.actor_losses, *actor_batches, **settings)
        self._move_temperature(actor.pop("log_prob"), subset)
        self._move_target(list(self.target.parameters()), list(self.critic.parameters()), None)
        metrics = {f"critic/{k}": v for k, v in critic.items()} | {f"actor/{k}": v for k, v in actor.items()}
        return subset.summary(metrics | {"temperature": alpha.squeeze(-1)})

    def _move_temperature(self, log_prob: Tensor, subset: TaskSubset) -> None:
        """log_prob (S,): the mean log π of each task. One that is not in the batch has a gradient of zero."""
        gradient = -(log_prob + self.target_entropy)
        shared = self.config.shared_temperature
        self.log_alpha.grad = gradient.mean().unsqueeze(0) if shared else subset.scatter(gradient, self.log_alpha)
        self.alpha_optimizer.step()

    @torch.no_grad()
    def _critic_batch(self, batch: Transitions, alpha: Tensor) -> CriticBatch:
        target = self._target(batch, alpha, self._noise(batch.reward.shape))
        return CriticBatch(torch.cat([batch.observation, batch.action], -1), target)

    def _target(self, batch: Transitions, alpha: Tensor, noise: Tensor) -> Tensor:
        """y = r + γ (1 − terminated) (min_e Q'_e(s', a') − α log π(a'|s')), a' ~ π(·|s'), (T, B)."""
        action, log_prob = tanh_gaussian(self.actor.at(batch.subset)(batch.next_observation), noise)
        q = self.target.at(batch.subset)(torch.cat([batch.next_observation, action], -1)).squeeze(-1).amin(0)
        future = self.config.discount * (1 - batch.terminated) * (q - alpha * log_prob)
        return batch.reward * self.config.reward_scale + future

    def critic_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: CriticBatch
    ) -> tuple[Tensor, Metrics]:
        """Σ_e mean_B (Q_e(s, a) − y)², (T,)."""
        q = self.critic.call(shared, own, own_buffers, batch.inputs).squeeze(-1)
        losses = (q - batch.target).square().mean(-1).sum(0)
        return losses, {"q": q.detach().mean((0, 2))}

    def actor_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: ActorBatch
    ) -> tuple[Tensor, Metrics]:
        """mean_B (α log π(a|s) − min_e Q_e(s, a)), (T,), a a reparametrised sample."""
        output = self.actor.call(shared, own, own_buffers, batch.observation)
        action, log_prob = tanh_gaussian(output, batch.noise)
        critic_shared, critic_own, buffers = (
            {n: t.detach() for n, t in tensors.items()} for tensors in self.critic.at(batch.subset).tensors
        )
        q = (
            self.critic.call(critic_shared, critic_own, buffers, torch.cat([batch.observation, action], -1))
            .squeeze(-1)
            .amin(0)
        )
        return (batch.temperature * log_prob - q).mean(-1), {"log_prob": log_prob.detach().mean(-1)}

    def _parts(self) -> dict[str, Any]:
        parts = {"actor": self.actor, "critic": self.critic, "target": self.target}
        for name, optimizer in (("actor", self.actor_optimizer), ("critic", self.critic_optimizer)):
            parts |= {f"{name}_method": optimizer, f"{name}_optimizer": optimizer.optimizer}
        return parts | {"alpha_optimizer": self.alpha_optimizer}

    def _state(self) -> dict[str, Any]:
        """All tensors that an update changes."""
        return {name: part for name, part in self.state_dict().items() if name != "generator"}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"log_alpha": self.log_alpha.detach()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for optimizer in (self.actor_optimizer.optimizer, self.critic_optimizer.optimizer, self.alpha_optimizer):
            for group in optimizer.param_groups:  # the state may come from another device
                group["capturable"] = self.device.type == "cuda"
        self._learner = None  # a graph would go on with the old tensors
        self._updates = int(self.critic_optimizer.step_count)
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])


def build(config: Config, **context: Any) -> SAC:
    return SAC(config, **context)
