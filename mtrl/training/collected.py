"""Off-policy training whose environments step in processes of a Ray cluster while the agent learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.types import Metrics, StepResult, Transitions
from mtrl.training.control import ControlTrainer, check_parts
from mtrl.training.off_policy import OffPolicyTrainer, Source
from mtrl.training.ray_stream import Arrival, RayStream


class CollectedTrainer(OffPolicyTrainer):
    """Sends the agent's policy to collectors, and trains the agent on the steps that they send back.

    Each call of `advance` takes R steps (`collector_steps`) of every copy of one collector, and makes the updates that
    are due for them, while all collectors go on. The order in which steps arrive depends on timing, so a run does
    not repeat exactly. Its numbers of steps and updates are exact nevertheless (see `ray_stream`), also after a resume.
    """

    def begin_from(self, source: Source) -> None:
        raise expected("Option `training.collector`", "local for a run with `start`", "ray")

    def start(self) -> Self:
        """Start the collectors, with an empty replay.

        Raises:
            UserError: Ray or the cluster is missing; the cluster has too few cores; the agent needs the steps of all
                copies at once; the benchmark cannot divide them; several processes learn together; or evaluations have
                too few goals.
        """
        ControlTrainer.start(self)
        learner, config = self.agent.config, self.config
        check_parts(self.suite, config.workers)
        check(learner.n_step == 1, "agent.n_step", "1 with training.collector=ray", learner.n_step)
        each = "false with training.collector=ray, as collectors send their copies' steps at different times"
        check(not learner.normalise_rewards, "agent.normalise_rewards", each, learner.normalise_rewards)
        several = self.agent.processes.count > 1
        check(not several, "training.collector", "local where several processes learn together", config.collector)
        self._begin(self.suite.spec.num_tasks)
        assert self.rebuild is not None, "an experiment sets `rebuild`"
        shape = (self.suite.spec.num_tasks, config.envs_per_task)
        bounds = (config.collector_steps, config.updates_per_call, config.max_staleness)
        self.collector = RayStream(*bounds, config, self.agent, self.rebuild, shape, self.seed, self.clock)
        self._stale = [0.0, 0.0, 0.0]  # since the last report: calls, and the sum and maximum of their staleness
        return self

    @property
    def _capacity(self) -> int:
        config = self.config
        return min(config.buffer_size, self.steps + config.collector_steps * config.envs_per_task)

    @property
    def _version(self) -> int:
        return self.updates if self.step >= self.config.learning_starts else -1

    def advance(self) -> Metrics | None:
        """Take the steps of one collector, and make the updates that are due for them."""
        with self.clock("step"):
            arrival = self.collector.take(self._version)
        new = self._take(arrival)
        with self.clock("act"):
            self.collector.begin(self._version)
        metrics = self._learn(self.step, new)
        return None if metrics is None else {**metrics, **self._staleness()}

    def _take(self, arrival: Arrival) -> int:
        """Store the steps, and return their number per task."""
        block, copies = arrival.block, slice(arrival.copies.start, arrival.copies.stop)
        steps, successor = block.reward.shape[1], block.next_observation
        arrays = (block.observation[:, :-1], block.action, block.reward, successor, *block.ends[:2])  # read-only
        observation, action, reward, following, ended, cut = (torch.tensor(array).flatten(1, 2) for array in arrays)
        action = action.clamp(-1, 1)  # what the environments have played
        self._keep(Transitions(observation, action, reward, following, ended, truncated=cut))
        for step in range(steps):
            terminated, truncated, success = block.ends[:, :, step]
            after = (block.observation[:, step + 1], block.reward[:, step], terminated, truncated)
            self.episodes.add(StepResult(*after, successor[:, step], success), copies)
        new = steps * len(arrival.copies)
        self.step += new
        self._stale = [self._stale[0] + 1, self._stale[1] + arrival.staleness, max(self._stale[2], arrival.staleness)]
        return new

    def _staleness(self) -> Metrics:
        """The mean and the maximum, since the last report, of the collectors' staleness in updates."""
        calls, total, largest = self._stale
        found = {"staleness": total / calls, "largest_staleness": largest}
        return {f"collector/{name}": torch.tensor(value) for name, value in found.items()}

    def report(self) -> dict[str, Any]:
        self._stale = [0.0, 0.0, 0.0]
        return super().report()

    def state_dict(self) -> dict[str, Any]:
        own = {"credit": self._credit, "envs": self.collector.state_dict(), "episodes": self.episodes.state_dict()}
        return super(OffPolicyTrainer, self).state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super(OffPolicyTrainer, self).load_state_dict(state)
        self._credit = state["credit"]
        self.episodes.load_state_dict(state["episodes"])
        self.collector.load_state_dict(state["envs"])

    def close(self) -> None:
        self.collector.close()
