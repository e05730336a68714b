"""A Gymnasium environment for each task, whose actions are keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mtrl.core.types import FloatArray
from mtrl.data.demos import POLICY_CAMERAS
from mtrl.data.keyframe_envs import ACTION_SIZE
from mtrl.envs.keyframes.cameras import Renderer, observe
from mtrl.envs.keyframes.episode import Episode
from mtrl.envs.keyframes.scene import AUDIENCE, WORKSPACE
from mtrl.envs.keyframes.suite import Config
from mtrl.envs.keyframes.tasks import TASKS

_FILM_SIZE = 320


class KeyframeEnv(gymnasium.Env[dict[str, Any], FloatArray]):
    """`mtrl/Keyframes-<task>-v0`. The reward is 1 for the action that solves the task, else 0.

    Actions (8,): xyz in metres, quaternion xyzw, gripper (> 0.5 open). Observations: for each camera `<camera>_rgb`
    (H, W, 3), `<camera>_depth` (H, W) in metres, `<camera>_intrinsics` (3, 3) in pixels and `<camera>_extrinsics`
    (4, 4) from the camera to the world, in metres; `gripper_pose` (7,) as in an action, `gripper_open` (0 or 1), and
    `stage`, the number of actions taken. An episode terminates when the task is solved. It is truncated after as many
    actions as the expert needs, or at an action that is not a valid pose.

    Args:
        task: a name from `tasks.TASKS`.
        cameras: names from `data.demos.CAMERAS`.
        image_size: H = W, in pixels.
        render_mode: rgb_array or None.

    Raises:
        UserError: no camera, an unknown one, the same one twice, or an image size outside 16..480.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        task: str,
        *,
        cameras: Sequence[str] = POLICY_CAMERAS,
        image_size: int = 128,
        render_mode: str | None = None,
    ) -> None:
        Config(image_size=image_size, cameras=list(cameras))  # raises UserError for bad values
        self.render_mode = render_mode
        self._task, self._cameras, self._size = task, tuple(cameras), image_size
        self._episode: Episode | None = None
        self._renderer: Renderer | None = None
        self._film: Renderer | None = None
        low, high = WORKSPACE
        ones = np.ones(4)
        self.action_space = spaces.Box(np.array([*low, *-ones, 0]), np.array([*high, *ones, 1]), dtype=np.float64)
        self.observation_space = spaces.Dict(self._spaces())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        """Begin an episode. `seed` starts a new series of scenes, from which each reset takes the next one."""
        super().reset(seed=seed)
        self._episode = self._episode or Episode(self._task, 0, "evaluation")
        self._episode.begin(int(self.np_random.integers(2**31)))
        return self._observation(), {}

    def step(self, action: FloatArray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("Cannot call env.step() before calling env.reset()")
        self._episode.act(action)
        success, over = self._episode.success, self._episode.over
        return self._observation(), float(success), success, over and not success, {"success": success}

    def render(self) -> Any:
        if self.render_mode != "rgb_array" or self._episode is None:
            return None
        self._film = self._film or Renderer(_FILM_SIZE)
        return self._film.image(self._episode.world, AUDIENCE).rgb

    def __getstate__(self) -> dict[str, Any]:
        """The state for `deepcopy` and `pickle`, without graphics contexts. A copy opens its own."""
        return {**vars(self), "_renderer": None, "_film": None}

    def close(self) -> None:
        for renderer in (self._renderer, self._film):
            if renderer is not None:
                renderer.close()
        self._renderer = self._film = None

    def expert(self) -> list[FloatArray]:
        """The expert's actions, (8,) each, for the scene that has just begun."""
        if self._episode is None:
            raise gymnasium.error.ResetNeeded("Cannot ask the expert before calling env.reset()")
        return self._episode.expert()

    def _spaces(self) -> dict[str, spaces.Space[Any]]:
        size, far = self._size, 10.0
        found: dict[str, spaces.Space[Any]] = {}
        for name in self._cameras:
            found[f"{name}_rgb"] = spaces.Box(0, 255, (size, size, 3), np.uint8)
            found[f"{name}_depth"] = spaces.Box(0, far, (size, size), np.float32)
            found[f"{name}_intrinsics"] = spaces.Box(-1e4, 1e4, (3, 3), np.float64)
            found[f"{name}_extrinsics"] = spaces.Box(-far, far, (4, 4), np.float64)
        found["gripper_pose"] = spaces.Box(-far, far, (ACTION_SIZE - 1,), np.float64)
        found["gripper_open"] = spaces.Discrete(2)
        found["stage"] = spaces.Discrete(TASKS[self._task].keyframes + 1)
        return found

    def _observation(self) -> dict[str, Any]:
        assert self._episode is not None
        self._renderer = self._renderer or Renderer(self._size)
        frame = observe(self._episode.world, self._cameras, self._size, self._renderer)
        found: dict[str, Any] = {}
        for name in self._cameras:
            image, camera = frame.images[name], frame.cameras[name]
            found |= {f"{name}_rgb": image.rgb, f"{name}_depth": image.depth}
            found |= {f"{name}_intrinsics": camera.intrinsics, f"{name}_extrinsics": camera.extrinsics}
        found["gripper_pose"] = frame.gripper_pose
        return found | {"gripper_open": int(frame.gripper_open), "stage": self._episode.stage}


def register() -> None:
    """Register the environments, so that `gymnasium.make("mtrl/Keyframes-<task>-v0")` works."""
    for task in TASKS:
        identifier = f"mtrl/Keyframes-{task}-v0"
        if identifier not in gymnasium.registry:
            gymnasium.register(identifier, entry_point=f"{__name__}:KeyframeEnv", kwargs={"task": task})
