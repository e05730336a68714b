"""The common part of all scenes: a table, lights, the gripper and RLBench's five cameras.

Coordinates are RLBench's: in metres, x away from the robot, y to its left, z up, with the table's top at 0.752. The
cameras have the places and fields of view of RLBench's. All geoms are primitives, and the gripper is not a model of a
real one.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mtrl.envs.keyframes.poses import Pose, down
from mtrl.envs.simulator import mujoco

TABLE = 0.752
"""Height of the table's top, in metres."""
HOME = Pose(np.array([0.2, 0.0, 1.45]), down())
"""Where the gripper begins an episode, open."""
WORKSPACE = np.array([[-0.1, -0.5, TABLE + 0.012], [0.62, 0.5, 1.55]])
"""(2, 3): the lowest and the highest position of the gripper's frame, in metres."""
OPENING = 0.05
"""Metres by which each finger moves, so that objects of up to 10 cm fit into the open gripper."""
NEAR, FAR = 0.01, 5.0
"""Metres: the range of depth pictures."""
FIELD_OF_VIEW = {"left_shoulder": 40.0, "right_shoulder": 40.0, "overhead": 40.0, "wrist": 60.0, "front": 40.0}
"""Fields of view of square pictures, in degrees."""
PIXELS = 480
"""The most pixels along an edge of a picture."""
AUDIENCE = "audience"
"""A further camera, for videos and for pictures from any place (`World.place_camera`)."""
FIELD_OF_VIEW[AUDIENCE] = 45.0

_CAMERAS = {
    "left_shoulder": "-0.175 0.2 1.98|-0.17364818 -0.98480775 0 0.89253885 -0.15737867 0.42261826",
    "right_shoulder": "-0.175 -0.2 1.98|0.17364818 -0.98480775 0 0.89253885 0.15737867 0.42261826",
    "overhead": "-0.175 0 2.43|0 -1 0 0.90630779 0 0.42261826",
    "front": "1.35 0 1.58|0 1 0 -0.42261826 0 0.90630779",
    AUDIENCE: "-0.35 -0.85 1.75|0.78 -0.625 0 0.42 0.52 0.74",
}
"""Camera -> its position | the x and y axes of its picture, in world coordinates."""
_WRIST = "-0.05 0.002 -0.0921|0 -1 0 -0.9962 0 0.0872"
"""The same for the wrist camera, in coordinates of the gripper."""

_SCENE = """
<mujoco model="{name}">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10" iterations="50"/>
  <size memory="4M"/>
  <statistic extent="1" center="0.3 0 0.9"/>
  <visual>
    <map znear="{near}" zfar="{far}"/>
    <quality offsamples="0" shadowsize="0"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
    <global offwidth="{pixels}" offheight="{pixels}"/>
  </visual>
  <default>
    <geom solref="0.006 1" friction="1 0.01 0.001" condim="4"/>
    <default class="marker"><geom contype="0" conaffinity="0" mass="0"/></default>
    <default class="pad">
      <geom type="box" friction="2 0.05 0.005" solref="0.006 1" rgba="0.2 0.2 0.22 1" mass="0.03"/>
    </default>
    <default class="finger"><joint type="slide" range="0 {opening}" damping="8" armature="0.05"/></default>
  </default>
  <worldbody>
    <light directional="true" pos="0 0 3" dir="0.3 0.2 -1" diffuse="0.4 0.4 0.4" specular="0 0 0"/>
    <geom name="floor" type="plane" size="4 4 0.1" rgba="0.42 0.42 0.45 1"/>
    <geom name="table" type="box" pos="0.3 0 {half}" size="0.5 0.65 {half}" rgba="0.78 0.74 0.68 1"/>
    {cameras}
    <body name="target" mocap="true" pos="{home}"/>
    <body name="hand" gravcomp="1" pos="{home}">
      <freejoint name="hand"/>
      <geom name="palm" type="box" pos="0 0 -0.08" size="0.024 0.072 0.026" mass="0.7" rgba="0.9 0.9 0.92 1"/>
      <geom name="wrist" type="cylinder" pos="0 0 -0.13" size="0.03 0.03" mass="0.3" rgba="0.35 0.35 0.38 1"/>
      {wrist}
      <body name="left_finger" gravcomp="1">
        <joint name="left_finger" class="finger" axis="0 1 0"/>
        <geom name="left_pad" class="pad" pos="0 0.006 -0.022" size="0.011 0.006 0.034"/>
      </body>
      <body name="right_finger" gravcomp="1">
        <joint name="right_finger" class="finger" axis="0 -1 0"/>
        <geom name="right_pad" class="pad" pos="0 -0.006 -0.022" size="0.011 0.006 0.034"/>
      </body>
    </body>
    {objects}
  </worldbody>
  <contact>
    <exclude body1="hand" body2="left_finger"/>
    <exclude body1="hand" body2="right_finger"/>
    <exclude body1="left_finger" body2="right_finger"/>
  </contact>
  <equality>
    <weld body1="target" body2="hand" relpose="0 0 0 1 0 0 0" solref="0.012 1"/>
    <joint joint1="left_finger" joint2="right_finger" solref="0.004 1"/>
  </equality>
  <actuator>
    <position name="fingers" joint="left_finger" kp="2000" kv="60" ctrlrange="0 {opening}" forcerange="-40 40"/>
  </actuator>
</mujoco>
"""


def _camera(name: str, place: str) -> str:
    position, axes = place.split("|")
    return f'<camera name="{name}" pos="{position}" xyaxes="{axes}" fovy="{FIELD_OF_VIEW[name]}"/>'


@functools.cache
def compile_scene(name: str, objects: str) -> Any:
    """The `MjModel` of a scene with the bodies in the MJCF text `objects`. It is compiled once in a process.

    Bodies that physics moves have joints. Those that are only placed at the start of an episode are mocap bodies, so
    that the whole state of an episode is in its `MjData`, and copies can share one model.
    """
    text = _SCENE.format(
        name=name,
        near=NEAR,
        far=FAR,
        pixels=PIXELS,
        opening=OPENING,
        half=TABLE / 2,
        home=" ".join(map(str, HOME.position)),
        cameras="".join(_camera(*item) for item in _CAMERAS.items()),
        wrist=_camera("wrist", _WRIST),
        objects=objects,
    )
    return mujoco.MjModel.from_xml_string(text)
