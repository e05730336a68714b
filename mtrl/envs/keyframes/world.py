"""A simulated scene: the gripper follows keyframe actions, and a listener can record frames during each move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mtrl.core.types import FloatArray
from mtrl.envs.keyframes.poses import Pose, about_z, angle_between, rotation_vector, slerp
from mtrl.envs.keyframes.scene import HOME, OPENING, WORKSPACE
from mtrl.envs.simulator import mujoco

SPEED = {True: 0.8, False: 0.5}
"""Whether the gripper is open -> its speed in m/s."""
TURNING = 4.0
"""Turning speed of the gripper in rad/s."""
FRAME = 0.04
"""Seconds between two frames of a move."""
FEWEST_FRAMES = 6
"""The fewest frames of a move. `data.demos.keyframes` counts no further stop in the 4 frames after a stop."""
_RAMP = 0.12
"""Seconds of acceleration, and of braking, which keeps a pushed object from sliding on."""
_CHUNK = 4
"""Physics steps for each target pose on the path."""
_SETTLE, _FINGERS = 60, 150
"""Physics steps after a move, and while the fingers open or close."""

Listener = Callable[[], None]
"""Called at each frame of an action (see `World.act`)."""


def silent() -> None:
    """A listener that does nothing."""


class World:
    """A scene with its own state. Copies can share `model`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self.gripper_open = True
        """The last command to the fingers."""
        self._hand = model.body("hand").id
        self._target = model.body("target").mocapid[0]
        self._steps = round(FRAME / model.opt.timestep / _CHUNK)

    def reset(self) -> None:
        """Put the gripper into its home pose, with open fingers, and every object where the model has it."""
        mujoco.mj_resetData(self.model, self.data)
        self.gripper_open = True
        self.data.joint("hand").qpos[:] = [*HOME.position, *_wxyz(HOME.quaternion)]
        for finger in ("left_finger", "right_finger"):
            self.data.joint(finger).qpos[:] = OPENING
        self.data.ctrl[0] = OPENING
        self._aim(HOME)

    def settle(self, steps: int = 100) -> None:
        """Simulate some physics steps, in which placed objects come to rest."""
        mujoco.mj_step(self.model, self.data, steps)
        mujoco.mj_forward(self.model, self.data)

    def place(self, body: str, position: FloatArray | tuple[float, float, float], yaw: float = 0.0) -> None:
        """Put a free or a mocap body at a position, upright, and turned about the vertical by `yaw` radians."""
        quaternion = _wxyz(about_z(yaw))
        mocap = int(self.model.body(body).mocapid[0])
        if mocap >= 0:
            self.data.mocap_pos[mocap], self.data.mocap_quat[mocap] = position, quaternion
        else:
            joint = self.data.joint(int(self.model.body(body).jntadr[0]))
            joint.qpos[:] = [*position, *quaternion]
            joint.qvel[:] = 0

    def show_gripper(self, position: FloatArray, quaternion: FloatArray = HOME.quaternion) -> None:
        """Put the gripper at a pose at once, without simulating a move."""
        self.data.joint("hand").qpos[:] = [*position, *_wxyz(quaternion)]
        self._aim(Pose(position, quaternion))
        mujoco.mj_forward(self.model, self.data)

    def place_camera(self, name: str, position: FloatArray, target: FloatArray) -> None:
        """Put a camera of the world at `position`, upright and facing `target`, until the physics is computed again."""
        back = (position - target) / np.linalg.norm(position - target)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        camera = self.data.camera(name)
        camera.xpos[:] = position
        camera.xmat[:] = np.stack([right, np.cross(back, right), back], 1).flatten()

    def turn_joint(self, name: str, value: float) -> None:
        """Put a hinge (radians) or a slide (metres) of the scene into a position."""
        self.data.joint(name).qpos[0] = value

    def pose(self, body: str) -> Pose:
        found = self.data.body(body)
        return Pose(found.xpos.copy(), _xyzw(found.xquat))

    @property
    def gripper(self) -> Pose:
        return Pose(self.data.xpos[self._hand].copy(), _xyzw(self.data.xquat[self._hand]))

    @property
    def velocities(self) -> FloatArray:
        """(6,): the velocity of the gripper's free joint: m/s along world axes, then rad/s about the gripper's axes."""
        return self.data.joint("hand").qvel.copy()

    @property
    def joints(self) -> FloatArray:
        """(6,): the gripper's position, in metres, and its rotation vector, in radians."""
        gripper = self.gripper
        return np.concatenate((gripper.position, rotation_vector(gripper.quaternion)))

    def joint(self, name: str) -> float:
        """The position of a hinge (radians) or a slide (metres) of the scene."""
        return float(self.data.joint(name).qpos[0])

    def touching(self, body: str, geom: str) -> bool:
        """Whether any geom of `body` touches the geom `geom`."""
        wanted, other = self.model.body(body).id, self.model.geom(geom).id
        pairs = self.data.contact.geom
        owners = self.model.geom_bodyid[pairs]
        found = ((owners == wanted) & (pairs[:, ::-1] == other)).any()
        return bool(found)

    def held(self, body: str) -> bool:
        """Whether both fingers touch `body`."""
        return self.touching(body, "left_pad") and self.touching(body, "right_pad")

    def act(self, pose: Pose, gripper_open: bool, listener: Listener = silent) -> None:
        """Reach a pose on a straight path, come to rest, then move the fingers if they are to change.

        The listener is called every 0.04 s during the move, when the gripper has come to rest, and once more when the
        fingers have moved. It is not called while they move, so that the stop and the change of the fingers make one
        keyframe.
        """
        self._move(pose, listener)
        if gripper_open != self.gripper_open:
            self.gripper_open = gripper_open
            self.data.ctrl[0] = OPENING if gripper_open else 0.0
            self.settle(_FINGERS)
            listener()

    def _move(self, pose: Pose, listener: Listener) -> None:
        start = Pose(self.data.mocap_pos[self._target].copy(), _xyzw(self.data.mocap_quat[self._target]))
        end = Pose(np.clip(pose.position, *WORKSPACE), pose.quaternion / np.linalg.norm(pose.quaternion))
        seconds = max(
            float(np.linalg.norm(end.position - start.position)) / SPEED[self.gripper_open],
            angle_between(start.quaternion, end.quaternion) / TURNING,
        )
        frames = max(FEWEST_FRAMES, int(np.ceil((seconds + _RAMP) / FRAME)))
        for step in range(1, frames * self._steps + 1):
            fraction = _progress(step / self._steps * FRAME, frames * FRAME)
            position = start.position + fraction * (end.position - start.position)
            self._aim(Pose(position, slerp(start.quaternion, end.quaternion, fraction)))
            mujoco.mj_step(self.model, self.data, _CHUNK)
            if step % self._steps == 0 and step < frames * self._steps:
                mujoco.mj_forward(self.model, self.data)
                listener()
        self.settle(_SETTLE)
        listener()

    def _aim(self, pose: Pose) -> None:
        self.data.mocap_pos[self._target], self.data.mocap_quat[self._target] = pose.position, _wxyz(pose.quaternion)


def _progress(time: float, duration: float) -> float:
    """The share of a path covered after `time` seconds: constant speed between two short ramps."""
    speed = 1 / (duration - _RAMP)
    if time < _RAMP:
        return speed * time**2 / (2 * _RAMP)
    if time > duration - _RAMP:
        return 1 - speed * (duration - time) ** 2 / (2 * _RAMP)
    return speed * (time - _RAMP / 2)


def _wxyz(quaternion: FloatArray) -> FloatArray:
    return quaternion[[3, 0, 1, 2]]


def _xyzw(quaternion: FloatArray) -> FloatArray:
    return quaternion[[1, 2, 3, 0]]
