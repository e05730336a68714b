"""What actor-critic learners have in common: networks, optimisers, targets, execution, normalisation and state.

A learner is a subclass with its equations: what actions follow from the actor's outputs, what the critics' target and
the actor's loss are, and in which order an update takes its steps (see `sac` and `td3`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mtrl.agents.base import Agent, AgentConfig
from mtrl.agents.normalisation import NormalisationConfig, ObservationNormaliser, RewardNormaliser
from mtrl.agents.value_heads import ValueConfig, build_head
from mtrl.core.config import check, check_choice, runtime_option
from mtrl.core.specs import ControlSpec, GoalSpec, Spec
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions
from mtrl.execution import precision, runners
from mtrl.gradients import Methods, MultiTaskOptimizer
from mtrl.networks import NETWORKS, TaskNetwork

Draw = Callable[[], Sequence[Transitions]]
"""The batch of one update, or two where `ActorCritic.needs_second_batch`."""


@dataclass
class ActorCriticConfig(AgentConfig, ValueConfig, NormalisationConfig):
    specs: ClassVar[tuple[type[Spec], ...]] = (ControlSpec, GoalSpec)
    trainings: ClassVar[tuple[str, ...]] = ("off_policy", "goal_conditioned")
    gamma: float = 0.99
    """γ."""
    tau: float = 0.005
    """τ: how far target networks move towards the networks at each update."""
    n_step: int = 1
    """Rewards of so many steps in a row, then the critics' value of what they lead to, make a target."""
    batch_size: int = 128
    """B: transitions per task and update."""
    learning_rate: float = 3e-4
    """Adam's, for everything that is trained."""
    adam_eps: float = 1e-8
    """Adam's ε."""
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
    execution: str = runtime_option("auto")
    """How updates run: plain, captured (one CUDA graph), compiled (by PyTorch in half a minute; on a GPU captured too),
    or auto: where the methods allow it, captured on a GPU and compiled after 50,000 updates, compiled after 5,000 on a
    CPU with a compiler."""
    updates_per_launch: int = runtime_option(8)
    """Updates of one captured graph, where a step of the environments earns so many."""

    def __post_init__(self) -> None:
        ValueConfig.__post_init__(self)
        NormalisationConfig.__post_init__(self)
        check_choice("agent.precision", self.precision, precision.CHOICES)
        check_choice("agent.execution", self.execution, runners.CHOICES)
        check_choice("agent.reduction", self.reduction, ("mean", "sum"))
        for name in ("gamma", "tau"):
            check(0 < getattr(self, name) <= 1, f"agent.{name}", "in (0, 1]", getattr(self, name))
        for name in ("n_step", "batch_size", "num_critics", "updates_per_launch", "critic_width"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"agent.{name}", "a positive integer", value)
        for name in ("learning_rate", "adam_eps", "reward_scale", "max_grad_norm"):
            value = getattr(self, name)
            check(value is None or value > 0, f"agent.{name}", "positive", value)

    def for_acting(self) -> Self:
        return replace(self, execution="plain")


class CriticBatch(NamedTuple):
    inputs: Tensor
    """(T, B, O + A)"""
    target: Tensor
    """(T, B)"""
    subset: TaskSubset = ALL_TASKS


class ActorCritic(Agent):
    """The agent of T tasks with one network for the actor and one ensemble of E for the critics."""

    outputs_per_action: ClassVar[int]
    """Outputs of the actor for each entry of an action."""

    def __init__(
        self,
        config: Any,
        *,
        network: Any,
        methods: Methods,
        spec: ControlSpec,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        """network: the configuration of the architecture of actor and critics.

        spec: of a `GoalSpec`, networks know tasks by their goals, and a batch says which it holds (`SomeTasks`).
        """
        num_tasks, goals = spec.num_tasks, None
        if isinstance(spec, GoalSpec):
            goals, methods = spec.goals, replace(methods, tasks_per_batch=spec.goals_per_batch)
        self.config, self.num_tasks, self.action_size = config, num_tasks, spec.action_size
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.head = build_head(config, num_tasks).to(self.device)
        network = network if goals is None else network.for_goals()
        sizes = (spec.observation_size, spec.observation_size + spec.action_size)
        actor = NETWORKS.build(network, input_size=sizes[0], output_size=self.outputs_per_action * spec.action_size)
        critic = NETWORKS.build(self._critic_network(network), input_size=sizes[1], output_size=self.head.output_size)
        self.actor = TaskNetwork(actor, num_tasks, codes=goals).to(self.device)
        self.critic = TaskNetwork(self.head.wrap(critic), num_tasks, config.num_critics, goals).to(self.device)
        if config.precision == "bfloat16":
            self.actor.computed_in = self.critic.computed_in = torch.bfloat16
        self.target = self._target_of(self.critic)
        self._move = get_ema_multi_avg_fn(1 - config.tau)
        self._normalisers = self._build_normalisers(spec.observation_size)
        self.critic_optimizer = self._optimizer(methods, self.critic, "critic")
        self.actor_optimizer = self._optimizer(methods, self.actor, "actor", critic=self.critic_optimizer)
        host_bound = self.critic_optimizer.host_bound or self.actor_optimizer.host_bound
        self.execution = runners.choose(config.execution, self.device, host_bound)
        self._learner: tuple[Draw, runners.Runner] | None = None
        self._updates = 0  # as `critic_optimizer.step_count`, without asking the device

    def policy(self, output: Tensor, explore: bool, subset: TaskSubset) -> Tensor:
        """The actor's output (T, N, outputs) -> actions (T, N, A) in [-1, 1]."""
        raise NotImplementedError

    def actor_losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any) -> tuple[Tensor, Metrics]:
        """The actor's `TaskLoss`."""
        raise NotImplementedError

    def equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """The steps of one update on normalised batches: one, or two where `needs_second_batch`."""
        raise NotImplementedError

    def _critic_network(self, network: Any) -> Any:
        changes = {"layer_norm": self.config.critic_layer_norm, "width": self.config.critic_width}
        return replace(network, **{k: v for k, v in changes.items() if v is not None})

    def _build_normalisers(self, size: int) -> dict[str, ObservationNormaliser | RewardNormaliser]:
        config, found = self.config, dict[str, ObservationNormaliser | RewardNormaliser]()
        if config.normalise_observations != "none":
            found["observation"] = ObservationNormaliser(config, self.num_tasks, size, self.device)
        if config.normalise_rewards:
            found["reward"] = RewardNormaliser(config, self.num_tasks, config.gamma, self.device)
        return found

    def _target_of(self, network: TaskNetwork) -> TaskNetwork:
        return copy.deepcopy(network).requires_grad_(False)

    def _adam(self, parameters: Any) -> torch.optim.Optimizer:
        options: dict[str, Any] = {"fused": True, "capturable": self.device.type == "cuda"}
        return torch.optim.Adam(parameters, lr=self.config.learning_rate, eps=self.config.adam_eps, **options)

    def _optimizer(self, methods: Methods, network: TaskNetwork, part: str, **context: Any) -> MultiTaskOptimizer:
        return methods.optimizer(
            network,
            self._adam(network.parameters()),
            part=part,
            reduction=self.config.reduction,
            max_grad_norm=self.config.max_grad_norm,
            generator=self.generator,
            **context,
        ).to(self.device)

    @property
    def needs_second_batch(self) -> bool:
        """Whether `update` is to be given a second batch, for a weighting that looks ahead."""
        return self.critic_optimizer.needs_second_batch or self.actor_optimizer.needs_second_batch

    @torch.no_grad()
    def act(self, observation: Tensor, explore: bool, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """observation (T, N, O) -> action (T, N, A) in [-1, 1], random with `explore`.

        subset: the tasks of the T rows.
        """
        subset = subset.to(self.device)
        observation = self._normalised("observation", observation.to(self.device, torch.float32), subset)
        return self.policy(self.actor.at(subset)(observation), explore, subset)

    def observe(self, transitions: Transitions) -> None:
        """Take new transitions, as they are stored, into the running normalisations; never during an update."""
        for normaliser in self._normalisers.values():
            normaliser.observe(transitions)

    def _normalised(self, name: str, value: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return self._normalisers[name](value, subset) if name in self._normalisers else value

    def prepare(self, batch: Transitions) -> Transitions:
        """The batch as networks and targets see it: normalised."""
        observed = [
            self._normalised("observation", x, batch.subset) for x in (batch.observation, batch.next_observation)
        ]
        reward = self._normalised("reward", batch.reward, batch.subset)
        return batch._replace(observation=observed[0], next_observation=observed[1], reward=reward)

    def noise(self, leading: tuple[int, ...]) -> Tensor:
        """Standard normal, (*leading, A)."""
        return torch.randn(*leading, self.action_size, device=self.device, generator=self.generator)

    def learn(self, draw: Draw, count: int) -> Metrics:
        """`count` updates, each on what `draw` gives, as `Config.execution` says; the metrics of the last.

        Compiled or captured, `draw` runs only at first: what it reads should be tensors that are changed in place, and
        its randomness that of `generator`. The metrics are then tensors that the next call may overwrite.
        """
        if self._learner is None or self._learner[0] != draw:
            self._learner = draw, self._runner(draw)
        metrics = self._learner[1](count)
        self._updates += count
        return metrics

    def _runner(self, draw: Draw) -> runners.Runner:
        return self._executed(lambda: self.update(*draw()))

    def _executed(self, update: runners.Update) -> runners.Runner:
        return runners.build(
            self.execution,
            update,
            self._state,
            self.generator,
            self.config.updates_per_launch,
            done=lambda: self._updates,
            announce=lambda text: self.announce(text),
            products=precision.network_level(self.config.precision, self.device),
        )

    def update(self, batch: Transitions, second_batch: Transitions | None = None) -> Metrics:
        """One step of everything on a batch (T, B, ..). Nothing is read back.

        Where `batch.subset` is some of the tasks, the metrics are means over them. A second batch is of the same tasks.
        """
        return self._take(self.equations, batch, second_batch)

    def _take(
        self, steps: Callable[..., Metrics], batch: Transitions, second_batch: Transitions | None = None
    ) -> Metrics:
        with precision.network_products(self.config.precision, self.device):
            metrics = steps([self.prepare(b) for b in (batch, second_batch) if b is not None], batch.subset)
        return batch.subset.summary(metrics)

    def step_critics(self, batches: Sequence[Any], subset: TaskSubset, **settings: Any) -> Metrics:
        """One step on a `CriticBatch`, or two; settings: those of `MultiTaskOptimizer.step`."""
        self.head.observe(batches[0].target, subset, (self.critic, self.target))
        metrics = self.critic_optimizer.step(self.critic_losses, *batches, subset=subset, **settings)
        return {f"critic/{name}": value for name, value in metrics.items()}

    def step_actor(self, batches: Sequence[Any], subset: TaskSubset, **settings: Any) -> Metrics:
        metrics = self.actor_optimizer.step(self.actor_losses, *batches, subset=subset, **settings)
        return {f"actor/{name}": value for name, value in metrics.items()}

    def move_target(self, target: TaskNetwork, network: TaskNetwork) -> None:
        """θ' ← θ' + τ (θ − θ')"""
        self._move(list(target.parameters()), list(network.parameters()), None)

    def bootstrapped(self, batch: Transitions, future: Tensor) -> CriticBatch:
        """The critics' target r + γ (1 − terminated) future, (T, B), for the values `future` of the successors.

        Where a batch has rewards of n steps, r is their discounted sum and γ is γⁿ (`Transitions.discount`).
        """
        discount = self.config.gamma if batch.discount is None else batch.discount
        target = batch.reward * self.config.reward_scale + discount * (1 - batch.terminated) * future
        return CriticBatch(torch.cat([batch.observation, batch.action], -1), target, batch.subset)

    def target_q(self, batch: Transitions, action: Tensor) -> Tensor:
        """min_e Q'_e(s', a'), (T, B)."""
        output = self.target.at(batch.subset)(torch.cat([batch.next_observation, action], -1))
        return self.head.value(output, batch.subset).amin(0)

    def fixed_q(self, observation: Tensor, action: Tensor, subset: TaskSubset, members: int | None = None) -> Tensor:
        """Q_e(s, a), (E, T, B), of the critics or the first `members` of them; gradients flow to the actions alone."""
        shared, own, buffers = ({n: t.detach() for n, t in table.items()} for table in self.critic.at(subset).tensors)
        if members is not None:
            shared = {n: t[:members] for n, t in shared.items()}
            own, buffers = ({n: t[:, :members] for n, t in table.items()} for table in (own, buffers))
        output = self.critic.call(shared, own, buffers, torch.cat([observation, action], -1))
        return self.head.value(output, subset)

    def critic_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: CriticBatch
    ) -> tuple[Tensor, Metrics]:
        """Σ_e mean_B loss(Q_e(s, a), y), (T,), with the value head's loss."""
        output = self.critic.call(shared, own, own_buffers, batch.inputs)
        losses = self.head.loss(output, batch.target, batch.subset).mean(-1).sum(0)
        return losses, {"q": self.head.value(output.detach(), batch.subset).mean((0, 2))}

    def _parts(self) -> dict[str, Any]:
        parts = {"actor": self.actor, "critic": self.critic, "target": self.target, "value_head": self.head}
        for name, optimizer in (("actor", self.actor_optimizer), ("critic", self.critic_optimizer)):
            parts |= {f"{name}_method": optimizer, f"{name}_optimizer": optimizer.optimizer}
        return parts | {f"{name}_normalisation": part for name, part in self._normalisers.items()}

    def _state(self) -> dict[str, Any]:
        """All tensors that an update changes."""
        fixed = ("generator", *(f"{name}_normalisation" for name in self._normalisers))
        return {name: part for name, part in self.state_dict().items() if name not in fixed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for part in self._parts().values():
            for group in getattr(part, "param_groups", []):  # the state may come from another device
                group["capturable"] = self.device.type == "cuda"
        self._learner = None  # a graph would go on with the old tensors
        self._updates = int(self.critic_optimizer.step_count)
