"""N copies of each of T tasks as Meta-World's own environments, which are the reference for the batched engine.

Each copy is a `SawyerXYZEnv`. The copies are stepped one after the other in this process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.types import Task
from numpy.typing import NDArray

from mtrl.core.config import check
from mtrl.core.errors import expected
from mtrl.core.limited import LimitedWarnings
from mtrl.core.types import FloatArray, StepResult
from mtrl.envs.metaworld.models import make_env
from mtrl.envs.metaworld.starts import INTEGRATION
from mtrl.envs.simulator import mujoco

MAX_HORIZON = SawyerXYZEnv.max_path_length
"""The most steps that Meta-World allows in an episode."""
_FIELDS: Mapping[str, tuple[Any, tuple[int, ...]]] = {
    "action": (np.float32, (4,)),
    **dict.fromkeys(("observation", "next_observation"), (np.float64, (39,))),
    "reward": (np.float64, ()),
    **dict.fromkeys(("terminated", "truncated", "success"), (np.bool_, ())),
    "faults": (np.int64, ()),
}
"""{array: (type, shape for one copy)}"""

_warn = LimitedWarnings(logging.getLogger(__name__))


@dataclass(eq=False)
class _Copy:
    """One environment, its settings and its row in the arrays."""

    task: str
    goals: Sequence[Task]
    reward_version: str
    horizon: int
    terminate_on_success: bool
    steps_after_success: int | None
    schedule: NDArray[np.int64] | None
    """The goal indices of its episodes, after which it is parked. None: random goals, without end."""
    row: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        self.env: Any = make_env(self.task, self.reward_version)
        self.rng = np.random.default_rng(0)
        self.goal, self.played, self.parked = 0, 0, False
        self.last = 0
        """The step at which the current episode is truncated."""

    def reset(self, seed: np.random.SeedSequence) -> None:
        self.rng = np.random.default_rng(seed)
        self.played, self.parked = 0, False
        self.row["faults"][...] = 0
        self._begin()

    def _begin(self) -> None:
        """Start the next episode, if there is one."""
        schedule = self.schedule
        if schedule is not None and self.played >= len(schedule):
            self.parked = True
            self.row["observation"][...] = self.row["next_observation"]
            return
        self.goal = int(self.rng.integers(len(self.goals)) if schedule is None else schedule[self.played])
        self.played, self.last = self.played + 1, self.horizon
        self.env.set_task(self.goals[self.goal])
        self.row["observation"][...] = self.env.reset()[0]

    def step(self) -> None:
        row = self.row
        if self.parked:
            for name in ("reward", "terminated", "truncated", "success"):
                row[name][...] = 0
            return
        fault = self._advance()
        row["terminated"][...] = self.terminate_on_success and row["success"]
        if self.steps_after_success is not None and row["success"]:
            self.last = min(self.last, self.env.curr_path_length + self.steps_after_success)
        row["truncated"][...] = fault or self.env.curr_path_length >= self.last
        if row["terminated"] or row["truncated"]:
            self._begin()
        else:
            row["observation"][...] = row["next_observation"]

    def _advance(self) -> bool:
        """Step the environment. Returns whether it failed. A failed step keeps the last observation; its reward is 0.

        MuJoCo resets an unstable state without raising an error. Only its clock shows this, since it goes back.
        """
        row, clock = self.row, self.env.data.time
        try:
            observation, reward, _, _, info = self.env.step(row["action"])
            if self.env.data.time > clock and np.isfinite(reward) and np.isfinite(observation).all():
                row["next_observation"][...] = observation
                row["reward"][...] = reward
                row["success"][...] = info["success"] == 1.0
                return False
            _warn("A copy of %s became unstable and was restarted.", self.task)
        except Exception:
            _warn("A copy of %s failed and was restarted.", self.task, exc_info=True)
        row["faults"][...] += 1
        row["next_observation"][...] = row["observation"]
        row["reward"][...] = 0
        row["success"][...] = False
        mujoco.mj_resetData(self.env.model, self.env.data)
        return True

    def state_dict(self) -> dict[str, Any]:
        model, data = self.env.model, self.env.data
        physics = np.empty(mujoco.mj_stateSize(model, INTEGRATION))
        mujoco.mj_getState(model, data, physics, INTEGRATION)
        arrays = {"physics": physics, "body_pos": model.body_pos, "site_pos": model.site_pos}
        names = ("observation", "next_observation", "faults")
        return {
            "arrays": {name: torch.from_numpy(value.copy()) for name, value in arrays.items()},
            "row": {name: torch.from_numpy(self.row[name].copy()) for name in names},
            "attributes": {name: _to_plain(value) for name, value in _attributes(self.env).items()},
            "rng": self.rng.bit_generator.state,
            "episode": (self.goal, self.played, self.parked, self.last),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state, after a `reset`, which sets what is not saved: views of the simulator's memory."""
        self.rng.bit_generator.state = state["rng"]
        self.goal, self.played, self.parked, self.last = state["episode"]
        self.env.set_task(self.goals[self.goal])
        self.env.reset()
        for name, value in state["attributes"].items():
            setattr(self.env, name, _from_plain(value))
        for name, value in state["row"].items():
            self.row[name][...] = value.cpu().numpy()
        arrays = {name: value.cpu().numpy() for name, value in state["arrays"].items()}
        model, data = self.env.model, self.env.data
        model.body_pos[:], model.site_pos[:] = arrays["body_pos"], arrays["site_pos"]
        # mj_forward computes everything that depends on the state, but may change the solver's warm start, which is
        # part of the state. So the state is set again.
        mujoco.mj_setState(model, data, arrays["physics"], INTEGRATION)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, arrays["physics"], INTEGRATION)


def _attributes(env: SawyerXYZEnv) -> dict[str, Any]:
    """The environment's own numbers and arrays, except views of the simulator's memory."""

    def owned(value: Any) -> bool:
        while isinstance(value, np.ndarray) and value.base is not None:
            value = value.base
        return isinstance(value, np.ndarray | np.generic | bool | int | float | None)

    return {name: value for name, value in vars(env).items() if owned(value)}


def _to_plain(value: Any) -> Any:
    # NumPy scalars stay NumPy scalars: combined with float32 actions, they give other types than Python numbers.
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def _from_plain(value: Any) -> Any:
    return value.cpu().numpy()[()].copy() if isinstance(value, torch.Tensor) else value


class PackageEnvs:
    """N copies of each of T tasks, as Meta-World's own environments. Implements `TaskVectorEnv`.

    Arrays, and the ends of episodes, are those of `BatchedEnvs`. A copy also fails if Meta-World raises any exception.

    Args:
        goals, seed, envs_per_task, reward_version, horizon, terminate_on_success, steps_after_success, schedule: see
            `BatchedEnvs`.
        copies: the indices of the copies to make; by default, all N. Each behaves as it would among all.

    Raises:
        UserError: `envs_per_task` is not positive.
    """

    def __init__(
        self,
        goals: Mapping[str, Sequence[Task]],
        seed: int,
        envs_per_task: int,
        *,
        copies: range | None = None,
        reward_version: str = "v2",
        horizon: int | Sequence[int] = MAX_HORIZON,
        terminate_on_success: bool = False,
        steps_after_success: int | None = None,
        schedule: NDArray[np.int64] | None = None,
    ) -> None:
        check(envs_per_task >= 1, "envs_per_task", "a positive integer", envs_per_task)
        self.tasks = tuple(goals)
        here = range(envs_per_task) if copies is None else copies
        self.num_tasks, self.envs_per_task = len(goals), len(here)
        self._streams = [t * envs_per_task + n for t in range(self.num_tasks) for n in here]
        self._all = self.num_tasks * envs_per_task
        self._seed, self._started = seed, False
        horizons = np.resize(horizon, envs_per_task).tolist()
        shape = (self.num_tasks, self.envs_per_task)
        self._arrays: dict[str, Any] = {name: np.zeros((*shape, *size), kind) for name, (kind, size) in _FIELDS.items()}
        self._copies: list[_Copy] = []
        for t, task in enumerate(self.tasks):
            for place, n in enumerate(here):
                order = None if schedule is None else schedule[t, n::envs_per_task]
                row = {name: array[t, place, ...] for name, array in self._arrays.items()}
                rules = (reward_version, horizons[n], terminate_on_success, steps_after_success)
                self._copies.append(_Copy(task, goals[task], *rules, order, row))
        reported: dict[str, Any] = {n: self._arrays[n] for n in _FIELDS if n not in ("action", "faults")}
        self._result = StepResult(**reported)

    @property
    def faults(self) -> NDArray[np.int64]:
        """(T, N): episodes that ended because the copy failed, since the last reset."""
        return self._arrays["faults"]

    @property
    def envs(self) -> list[SawyerXYZEnv]:
        """Meta-World's environments, task after task."""
        return [copy.env for copy in self._copies]

    def reset(self, seed: int | None = None) -> FloatArray:
        self._seed = self._seed if seed is None else seed
        streams = np.random.SeedSequence(self._seed).spawn(self._all)
        for copy, number in zip(self._copies, self._streams, strict=True):
            copy.reset(streams[number])
        self._started = True
        return self._arrays["observation"]

    def step(self, action: FloatArray) -> StepResult:
        if not self._started:
            raise RuntimeError("Call `reset` or `load_state_dict` before `step`.")
        self._arrays["action"][...] = action
        for copy in self._copies:
            copy.step()
        return self._result

    def state_dict(self) -> dict[str, Any]:
        """The whole state except the goals, which depend only on the suite's seed."""
        return {"tasks": list(self.tasks), "seed": self._seed, "copies": [copy.state_dict() for copy in self._copies]}

    def load_state_dict(self, state: Mapping[str, Any]) -> FloatArray:
        wanted = ("package", list(self.tasks), len(self._copies))
        copies = len(state["copies"] if "copies" in state else state["goals"]["rngs"])
        if (found := (state.get("engine", "package"), list(state["tasks"]), copies)) != wanted:
            raise expected("Saved environments (engine, tasks, copies)", str(wanted), found)
        self._seed, self._started = state["seed"], True
        for copy, saved in zip(self._copies, state["copies"], strict=True):
            copy.load_state_dict(saved)
        return self._arrays["observation"]

    def close(self) -> None:
        """Nothing to close: the environments have no processes and no windows."""
