"""Goal-conditioned pushing for Gymnasium, observed as a vector or a dictionary: `gymnasium.make("mtrl/GoalPush-v0")`.

``mtrl/GoalPush-v0`` observes one vector (26): two frames (22, see `envs.FRAME`) and the goal (4).
``mtrl/GoalPushDict-v0`` observes a dictionary: ``observation`` (22), ``achieved_goal`` (2, the puck's xy) and
``desired_goal`` (2, where it should be). Its rewards equal `compute_reward`, so that goals can be relabelled.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from mtrl.core.config import check_choice
from mtrl.envs.pushing.envs import PUCK_XY, RADIUS, RAW_SIZE, REWARDS, PushEnvs, goal_reward
from mtrl.envs.pushing.goals import HIGH, LOW, PLACE_HIGH, PLACE_LOW, Goals, check_goals

Array = NDArray[np.float64]
_PICTURE_SIZE = 480


class GoalPushEnv(gymnasium.Env[Any, Any]):
    """One environment. Each episode has a new random goal, or the one in ``reset(options={"goal": ...})``.

    Args:
        reward: dense (see `suite.Config.reward`), v1 or v2 (Meta-World's), distance (−metres) or sparse (−1, 0).
            Dictionaries allow only distance and sparse.
        goals: (n, 4), goals to draw from; if not given, goals are uniform in their ranges.
        horizon: steps after which an episode is truncated.
        dictionary: whether observations are dictionaries.
        render_mode: rgb_array, for pictures by `render` in which the place is marked; or None.

    Raises:
        UserError: an unknown reward or render mode, or goals of another shape or out of their ranges.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self,
        reward: str = "dense",
        goals: Any = None,
        horizon: int = 150,
        dictionary: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            check_choice("render_mode", render_mode, ("rgb_array",))
        self.render_mode, self._pictures = render_mode, None
        choices = ("distance", "sparse") if dictionary else REWARDS
        check_choice("reward", reward, choices)
        self._reward, self._horizon, self._dictionary = reward, horizon, dictionary
        self._goals: Goals | None = None if goals is None else check_goals(goals)
        self._envs: PushEnvs | None = None
        self.goal = (LOW + HIGH) / 2
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        frames, puck = Box(-np.inf, np.inf, (RAW_SIZE,), np.float64), Box(-np.inf, np.inf, (2,), np.float64)
        if dictionary:
            place = Box(np.array(PLACE_LOW), np.array(PLACE_HIGH), dtype=np.float64)
            self.observation_space = Dict({"observation": frames, "achieved_goal": puck, "desired_goal": place})
        else:
            low, high = np.r_[frames.low, LOW], np.r_[frames.high, HIGH]
            self.observation_space = Box(low, high, dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode. options: {"goal": [puck x, puck y, place x, place y]}, in metres.

        Raises:
            UserError: the goal has another shape or is out of its range.
        """
        super().reset(seed=seed)
        goal = (options or {}).get("goal")
        self.goal = self._draw() if goal is None else check_goals(np.asarray(goal)[None])[0]
        self._close_envs()
        self._envs = self._make_envs()
        self._envs.reset()
        self._elapsed = 0
        return self._observe(self._envs.raw), {}

    def _make_envs(self) -> PushEnvs:
        # A step that reached the horizon of `PushEnvs` would begin the next episode.
        table, horizon = self.goal[None], self._horizon + 1
        return PushEnvs(table, table, 0, 1, 1, reward=self._reward, horizon=horizon, fixed=True, threads=1)

    def __getstate__(self) -> dict[str, Any]:
        """The state for `copy` and `pickle`. A copy continues exactly as the original would."""
        state = None if self._envs is None else self._envs.state_dict()
        return {**vars(self), "_envs": state, "_pictures": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _envs=None)
        if state["_envs"] is not None:
            self._envs = self._make_envs()
            self._envs.load_state_dict(state["_envs"])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply an action (4,) in [-1, 1]. An episode is also truncated where the physics fails.

        info: `distance` from the puck to its place in metres, and whether it is at most 0.05 (`is_success`, `success`).

        Raises:
            ResetNeeded: `reset` has not been called.
        """
        if self._envs is None:
            raise gymnasium.error.ResetNeeded("Call `reset` before `step`.")
        result = self._envs.step(np.asarray(action, np.float32)[None, None])
        self._elapsed += 1
        distance = float(self._envs.distance[0, 0])
        info = {"distance": distance, "is_success": distance <= RADIUS, "success": float(distance <= RADIUS)}
        truncated = bool(result.truncated[0, 0]) or self._elapsed >= self._horizon
        return self._observe(self._envs.next_raw), float(result.reward[0, 0]), False, truncated, info

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """The reward (..) of a puck at `achieved_goal` (.., 2) whose place is `desired_goal` (.., 2).

        The rewards dense, v1 and v2 depend on more than these positions. With them, this is the distance reward.
        """
        kind = self._reward if self._reward in ("distance", "sparse") else "distance"
        return goal_reward(kind, np.asarray(achieved_goal, np.float64), np.asarray(desired_goal, np.float64))

    def compute_terminated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        """Always false: episodes are only truncated."""
        return False

    def compute_truncated(self, achieved_goal: Any, desired_goal: Any, info: Any) -> bool:
        if self._envs is None:
            raise gymnasium.error.ResetNeeded("Call `reset` before `compute_truncated`.")
        return self._elapsed >= self._horizon

    def render(self) -> Any:
        """A picture (480, 480, 3), uint8; None without a render mode, and before the first `reset`.

        Raises:
            RenderingUnavailable: there is no offscreen OpenGL.
        """
        if self.render_mode is None or self._envs is None:
            return None
        if self._pictures is None:
            from mtrl.envs.pushing.film import Pictures

            self._pictures = Pictures(_PICTURE_SIZE)
        return self._pictures.frame(self._envs.states()[0], self.goal)

    def close(self) -> None:
        self._close_envs()
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None

    def _close_envs(self) -> None:
        if self._envs is not None:
            self._envs.close()
            self._envs = None

    def _draw(self) -> Array:
        if self._goals is not None:
            return self._goals[self.np_random.integers(len(self._goals))]
        return self.np_random.uniform(LOW, HIGH)

    def _observe(self, frames: Array) -> Any:
        raw = frames[0, 0].copy()
        if not self._dictionary:
            return np.concatenate([raw, self.goal])
        return {"observation": raw, "achieved_goal": raw[PUCK_XY], "desired_goal": self.goal[2:].copy()}


def register() -> None:
    """Register the two environments that the module's docstring names."""
    entry = f"{__name__}:GoalPushEnv"
    forms: dict[str, dict[str, Any]] = {
        "mtrl/GoalPush-v0": {},
        "mtrl/GoalPushDict-v0": {"dictionary": True, "reward": "distance"},
    }
    for name, options in forms.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry, kwargs=options)
