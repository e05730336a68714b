"""The common part of on-policy actor-critic learners: optimiser steps on minibatches, and how they are executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from mtrl.agents.actor_critic import ActorCritic
from mtrl.agents.minibatches import FixedCalls, MinibatchSteps
from mtrl.core.config import check
from mtrl.core.cores import side_by_side, torch_threads
from mtrl.core.subset import ALL_TASKS
from mtrl.core.types import Metrics
from mtrl.execution import runners

A = TypeVar("A")
B = TypeVar("B")


class OnPolicyActorCritic(ActorCritic):
    """A learner whose actor and critic V(s) take steps on the same minibatches; on a CPU, at the same time unless
    a part of the update rules that out.

    `config.execution` decides whether both networks' steps, and `explore`, are compiled.
    """

    critic_sees_action: ClassVar[bool] = False

    def __init__(self, config: Any, **context: Any) -> None:
        super().__init__(config, **context)
        self.critic_optimizer.generator = torch.Generator(self.device)  # the two optimisers step at the same time
        self.execution = self._choose_execution()
        self._steps_before_pass = 0
        self._start_calls()

    @torch.no_grad()
    def explore(self, observation: Tensor, noise: Tensor) -> Tensor:
        """`ActorCritic.explore`, compiled where `config.execution` says so."""
        return self._exploring(observation.to(self.device), noise)["action"]

    def exploring_state(self) -> dict[str, Any]:
        updates = self.actor_optimizer.step_count  # `explore` is compiled after some of them
        return super().exploring_state() | {"updates": updates}

    def load_exploring_state(self, state: Mapping[str, Any]) -> None:
        super().load_exploring_state(state)
        self.actor_optimizer.step_count.copy_(state["updates"])

    def check_reuse(self) -> None:
        """Raises `UserError` if a task cannot `take_over` the policy of another one."""
        self.actor.entries_of_tasks()
        wanted = "none or shared with training.reuse_every"
        check(self.config.normalise_observations != "per_task", "agent.normalise_observations", wanted, "per_task")

    @torch.no_grad()
    def take_over(self, source: Tensor) -> None:
        """Give each task t the policy of task source[t], with the optimiser's state. source: (T,), int64."""
        source, states = source.to(self.device), self.actor_optimizer.optimizer.state
        for parameter, axis in self.actor.entries_of_tasks():
            moments = [x for x in states.get(parameter, {}).values() if x.shape == parameter.shape]
            for tensor in (parameter, *moments):
                tensor.copy_(tensor.index_select(axis, source))

    def _start_calls(self) -> None:
        """Make `explore` and the steps anew, since compiled functions read the tensors of an earlier state."""
        explore = super().explore
        self._exploring = FixedCalls(lambda *seen: {"action": explore(*seen)}, partial(self._built, "exploring"))
        self._steps = {
            "critic": MinibatchSteps(lambda b: self.step_critics(b, ALL_TASKS), partial(self._built, "critic")),
            "actor": MinibatchSteps(lambda b: self.step_actor(b, ALL_TASKS), partial(self._built, "actor")),
        }
        for group in self._groups():  # compiled code reads a tensor at each step, but a number once
            rate = float(group["lr"])
            group["lr"] = rate if self.execution == "plain" else torch.tensor(rate, dtype=torch.float64)

    def load_minibatches(self, **data: Any) -> None:
        """Set the data of the next steps. data: actor and critic, each a named tuple of tensors (T, R N, ..), for R
        steps of N environments."""
        for name, batch in data.items():
            self._steps[name].load(batch)

    def take_pass(self, minibatches: int) -> tuple[Metrics, Tensor]:
        """One pass over the data, in `minibatches` random parts.

        Returns the metrics of the last minibatch, and the mean of actor/kl over all minibatches and tasks, ().
        """
        order = torch.randperm(self._steps["actor"].size, device=self.device, generator=self.generator)
        parts = [self.processes.share(part[None])[0] for part in order.tensor_split(minibatches)]
        chosen = [[part, parts[n - 1]] if self.needs_second_batch else [part] for n, part in enumerate(parts)]
        divergence = torch.zeros((), device=self.device)

        def steps(*networks: str) -> Metrics:
            found = dict[str, Tensor]()
            for minibatch in chosen:
                for name in networks:
                    found |= self._steps[name](*minibatch)
                if "actor" in networks:
                    divergence.add_(found["actor/kl"].mean() / len(parts))
            return found

        if self._coupling is not None:
            return steps("critic", "actor"), divergence
        if self.execution != "plain":
            self._steps_before_pass = int(self.actor_optimizer.step_count)
        with torch_threads(max(1, torch.get_num_threads() // 2)):  # `side_by_side` gives this many to each
            different = {tuple(map(len, minibatch)): minibatch for minibatch in chosen}  # of at most two sizes
            for minibatch in different.values():
                for network in self._steps.values():
                    network.prepare(*minibatch)
        of_critic, of_actor = self.at_once(lambda: steps("critic"), lambda: steps("actor"))
        return of_critic | of_actor, divergence

    @property
    def _coupling(self) -> str | None:
        """The part that rules out compiled steps, and steps of both networks at once; None if there is none."""
        optimizers = (self.actor_optimizer, self.critic_optimizer)
        borrowed = "a weighting that both networks share" if any(o.weighting.borrowed for o in optimizers) else None
        return next((o.host_bound for o in optimizers if o.host_bound), borrowed)

    def _choose_execution(self) -> str:
        wanted = self.config.execution
        if self.device.type == "cpu":
            return runners.choose(wanted, self.device, self._coupling)
        check(wanted in ("auto", "plain"), "agent.execution", "auto or plain with agent=ppo on a GPU", wanted)
        return "plain"

    def _built(self, part: str, update: runners.Update) -> runners.Runner:
        """The runner of `update`, as `execution` says. part: critic or actor, which `update` changes, or exploring."""
        names = [name for name in self._parts() if name.startswith(part) or (part == "critic" and name == "value_head")]
        optimizer = self.critic_optimizer if part == "critic" else self.actor_optimizer
        assert optimizer.generator is not None
        return runners.build(
            self.execution,
            update,
            lambda: {name: value for name, value in self.state_dict().items() if name in names},
            optimizer.generator,
            # Steps do not become due for compilation within a pass: both networks take them at the same time, and
            # PyTorch traces in only one thread.
            done=lambda: self._steps_before_pass if part in self._steps else int(optimizer.step_count),
            announce=lambda text: self.announce(text),
        )

    def _groups(self) -> list[dict[str, Any]]:
        return [g for o in (self.actor_optimizer, self.critic_optimizer) for g in o.optimizer.param_groups]

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate from now on."""
        for group in self._groups():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._start_calls()

    def at_once(self, critic: Callable[[], A], actor: Callable[[], B]) -> tuple[A, B]:
        """Call both functions, each of which uses only one network; on a CPU, at the same time."""
        return side_by_side(critic, actor) if self.device.type == "cpu" else (critic(), actor())
