"""The common part of actor-critic learners: networks, value heads, optimisers, normalisation and state.

A subclass of `ActorCritic` adds a learner's equations: how the actor's outputs become actions, the critics' target, the
actor's loss, and the order of the optimiser steps in an update (see `ppo`, and `off_policy` for `sac` and `td3`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mtrl.agents.base import Agent
from mtrl.agents.normalisation import NormalisationConfig, ObservationNormaliser, RewardNormaliser
from mtrl.agents.value_heads import ValueConfig, build_head
from mtrl.core.config import option, runtime_option
from mtrl.core.specs import ControlSpec, GoalSpec
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions
from mtrl.execution import precision, runners
from mtrl.execution.processes import Processes
from mtrl.gradients import Methods, MultiTaskOptimizer
from mtrl.networks import Factory, TaskNetwork
from mtrl.networks.trial import build_tried


@dataclass
class ActorCriticConfig(ValueConfig, NormalisationConfig):
    divides_batches: ClassVar[bool] = True
    gamma: float = option(0.99, "in (0, 1]")
    """Discount factor γ."""
    learning_rate: float = option(3e-4, "positive")
    """Adam's learning rate, the same for all networks."""
    adam_eps: float = option(1e-8, "positive")
    """Adam's ε."""
    critic_layer_norm: bool | None = None
    """Layer normalisation in the critics; as in the network if not given."""
    critic_width: int | None = option(None, "a positive integer")
    """Units of the critics' hidden layers; as in the network if not given."""
    max_grad_norm: float | None = option(None, "positive")
    """Largest norm of each network's final gradient, which is clipped to it; no limit if not given."""
    reduction: str = option("mean", ("mean", "sum"))
    """How the weighted task losses are combined: mean or sum."""
    precision: str = option("tf32", precision.CHOICES)
    """Precision of the networks' matrix products: tf32 (on a GPU that has it, otherwise float32), float32 or bfloat16.
    Parameters, gradients and the inner products of the tasks' gradients are always float32 or float64."""
    execution: str = runtime_option("auto", runners.CHOICES)
    """How updates run: plain (op by op), captured (in a CUDA graph), compiled (by PyTorch in half a minute; on a GPU
    also captured) or auto. Where the methods allow it, auto captures updates on a GPU and compiles them after 50,000;
    on a CPU with a C++ compiler and a tested PyTorch it compiles them after 5,000. For PPO, an update is an optimiser
    step on a minibatch, and a GPU runs it op by op."""

    def for_acting(self) -> Self:
        return replace(self, execution="plain")


class ActorCritic(Agent):
    """An agent for T tasks: a network for the actor, and one for the critic or an ensemble of E critics."""

    acting: ClassVar[tuple[str, ...]] = ("actor", "observation_normalisation")
    outputs_per_action: ClassVar[int]
    """Outputs of the actor's architecture for each entry of an action. `wrap_actor` may append further outputs."""
    actor_sees_action: ClassVar[bool] = False
    """Whether the actor has a further input: an action, which it changes."""
    critic_sees_action: ClassVar[bool]
    """Whether critics estimate Q(s, a) rather than V(s)."""
    extras: ClassVar[tuple[str, ...]] = ()
    """Names of the tensors (T,) that updates pass to weightings (`Context.extras`)."""
    ensemble: int | None = None
    """E, the number of critics; None for a single critic, whose outputs have no axis E."""

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
        """network: the configuration of the architecture of actor and critics. spec: with a `GoalSpec`, networks are
        conditioned on goals, and each batch names its goals (`SomeTasks`).

        Raises:
            UserError: the network does not work, or the methods do not fit it or each other.
        """
        num_tasks, goals = spec.num_tasks, None
        if isinstance(spec, GoalSpec):
            goals, methods = spec.goals, replace(methods, tasks_per_batch=spec.goals_per_batch)
        self.config, self.num_tasks, self.action_size = config, num_tasks, spec.action_size
        self.processes = Processes(methods.process_group)
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.head = build_head(config, num_tasks).to(self.device)
        network = network if goals is None else network.for_goals()
        outputs = self.outputs_per_action * spec.action_size
        inputs, critic_inputs = (
            spec.observation_size + spec.action_size * sees
            for sees in (self.actor_sees_action, self.critic_sees_action)
        )
        codes = torch.eye(num_tasks) if goals is None else goals
        actor = build_tried(network, codes, input_size=inputs, output_size=outputs)
        sizes = {"input_size": critic_inputs, "output_size": self.head.output_size}
        critic = build_tried(self._critic_network(network), codes, self.ensemble, **sizes)
        self.actor = TaskNetwork(self.wrap_actor(actor), num_tasks, codes=goals).to(self.device)
        self.critic = TaskNetwork(self.head.wrap(critic), num_tasks, self.ensemble, goals).to(self.device)
        if config.precision == "bfloat16":
            self.actor.computed_in = self.critic.computed_in = torch.bfloat16
        self._normalisers = self._build_normalisers(spec.observation_size)
        self.critic_optimizer = self._optimizer(methods, self.critic, "critic")
        self.actor_optimizer = self._optimizer(methods, self.actor, "actor", critic=self.critic_optimizer)

    def wrap_actor(self, factory: Factory) -> Factory:
        """The factory of the actor's network. A learner may override this to add to `factory`, the architecture's."""
        return factory

    def greedy(self, output: Tensor) -> Tensor:
        """The actor's output (T, N, outputs) -> the deterministic actions (T, N, A), before `act` clips them."""
        raise NotImplementedError

    def sampled(self, output: Tensor, noise: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """The actor's output (T, N, outputs), standard normal noise (T, N, A) -> exploring actions (T, N, A).

        `act` clips them to [-1, 1]; `explore` does not.
        """
        raise NotImplementedError

    def actor_losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any) -> tuple[Tensor, Metrics]:
        """The actor's `TaskLoss`: the losses (T,), and metrics."""
        raise NotImplementedError

    def critic_losses(self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Any) -> tuple[Tensor, Metrics]:
        """The critics' `TaskLoss`: the losses (T,), and metrics."""
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
            extras=self.extras,
            **context,
        ).to(self.device)

    @property
    def needs_second_batch(self) -> bool:
        """Whether `update` needs a second batch, for a weighting that looks ahead."""
        return any(optimizer.needs_second_batch for optimizer in self.optimizers)

    @property
    def optimizers(self) -> list[MultiTaskOptimizer]:
        """Those of all networks."""
        return [part for part in self._parts().values() if isinstance(part, MultiTaskOptimizer)]

    @torch.no_grad()
    def act(self, observation: Tensor, explore: bool, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """observation (T, N, O) -> action (T, N, A) in [-1, 1], random with `explore`.

        subset: the tasks to which the rows of the first axis belong.
        """
        subset = subset.to(self.device)
        observation = self._normalised("observation", observation.to(self.device, torch.float32), subset)
        output = self.actor.at(subset)(observation)
        action = self.sampled(output, self.noise(output.shape[:-1]), subset) if explore else self.greedy(output)
        return action.clamp(-1, 1)

    @torch.no_grad()
    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """observation (T, N, O), standard normal noise (T, N, A) -> exploring actions (T, N, A), not clipped."""
        return self.sampled(self.actor(self._normalised("observation", observation.to(self.device))), noise)

    def exploring_state(self) -> dict[str, Any]:
        """The state on which `explore` depends. `load_exploring_state` loads it."""
        return {"policy": self.policy_state()}

    def load_exploring_state(self, state: Mapping[str, Any]) -> None:
        self.load_policy_state(state["policy"])

    def observe(self, transitions: Transitions) -> None:
        """Add new transitions to the normalisers' running statistics. Call it when the transitions are stored.

        Optimiser steps never change these statistics.
        """
        for normaliser in self._normalisers.values():
            normaliser.observe(transitions)

    def _normalised(self, name: str, value: Tensor, subset: TaskSubset = ALL_TASKS) -> Tensor:
        return self._normalisers[name](value, subset) if name in self._normalisers else value

    def noise(self, leading: tuple[int, ...]) -> Tensor:
        """Standard normal noise (*leading, A) from `generator`."""
        return torch.randn(*leading, self.action_size, device=self.device, generator=self.generator)

    def noise_of_share(self, shape: torch.Size) -> Tensor:
        """Noise (T, B, A) for this process's share of a batch; shape: (T, B) of that share.

        Every process draws the noise of the whole batch and takes its part, so the number of processes does not matter.
        """
        return self.processes.share(self.noise((shape[0], shape[1] * self.processes.count)))

    @property
    def value_networks(self) -> Sequence[TaskNetwork]:
        """The networks whose outputs `head` turns into values."""
        return [self.critic]

    def step_critics(self, batches: Sequence[Any], subset: TaskSubset, **settings: Any) -> Metrics:
        """One optimiser step of the critics. batches: one with a `target` (T, B), or two where `needs_second_batch`.

        settings: the other arguments of `MultiTaskOptimizer.step`.
        """
        self.head.observe(self.processes.whole(batches[0].target), subset, self.value_networks)
        metrics = self.critic_optimizer.step(self.critic_losses, *batches, subset=subset, **settings)
        return {f"critic/{name}": value for name, value in metrics.items()}

    def step_actor(self, batches: Sequence[Any], subset: TaskSubset, **settings: Any) -> Metrics:
        """One optimiser step of the actor, with arguments as in `step_critics`."""
        metrics = self.actor_optimizer.step(self.actor_losses, *batches, subset=subset, **settings)
        return {f"actor/{name}": value for name, value in metrics.items()}

    def _parts(self) -> dict[str, Any]:
        parts = {"actor": self.actor, "critic": self.critic, "value_head": self.head}
        for name, optimizer in (("actor", self.actor_optimizer), ("critic", self.critic_optimizer)):
            parts |= {f"{name}_method": optimizer, f"{name}_optimizer": optimizer.optimizer}
        return parts | {f"{name}_normalisation": part for name, part in self._normalisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for part in self._parts().values():
            for group in getattr(part, "param_groups", []):  # the state may come from another device
                group["capturable"] = self.device.type == "cuda"
