"""Render one frame offscreen with the library that MUJOCO_GL names; fail if the frame is black."""

import os

import mujoco

SCENE = """
<mujoco>
  <visual><quality shadowsize="0" offsamples="0"/></visual>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="1 1 0.1" rgba="0.3 0.6 0.9 1"/>
    <geom type="sphere" size="0.2" pos="0 0 0.2" rgba="0.9 0.3 0.2 1"/>
  </worldbody>
</mujoco>
"""

if __name__ == "__main__":
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, height=120, width=160) as renderer:
        renderer.update_scene(data)
        frame = renderer.render()
    library = os.environ.get("MUJOCO_GL", "unset")
    if frame.mean() < 5 or frame.std() < 5:
        raise SystemExit(f"MUJOCO_GL={library}: the frame is black or of one colour (mean {frame.mean():.1f}).")
    print(f"MUJOCO_GL={library}: a frame of {frame.shape}, mean {frame.mean():.1f}, deviation {frame.std():.1f}")
