"""Rows of probes: views without copies, in any leading shape, and names that are refused."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from mtrl.envs.metaworld.probes import ProbeLayout

_PROBES = {
    "pads": ("body.leftpad.xpos", "body.rightpad.xpos"),
    "turn": "body.leftpad.xquat",
    "corner": "site.corner.xpos",
    "slide": "joint.slide.qpos",
    "touching": "touching.rightpad_geom",
}


def _model() -> Any:
    pad = """<body name="{side}pad" pos="{x} 0 1">{joint}<geom name="{side}pad_geom" size=".01"/></body>"""
    left = pad.format(side="left", x=-1, joint='<joint name="slide" type="slide"/>')
    right = pad.format(side="right", x=1, joint="")
    xml = f"<mujoco><worldbody><site name='corner' pos='1 2 3'/>{left}{right}</worldbody></mujoco>"
    return mujoco.MjModel.from_xml_string(xml)  # pyright: ignore[reportAttributeAccessIssue]


def test_views_follow_the_simulator() -> None:
    model = _model()
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    layout = ProbeLayout(model, _PROBES)
    rows = np.zeros((2, 3, layout.width))
    views = layout.views(rows)
    assert all(np.shares_memory(view, rows) for view in views.values())
    data.qpos[0] = 0.5
    mujoco.mj_forward(model, data)  # pyright: ignore[reportAttributeAccessIssue]
    layout.bind([data], rows[1, 2:]).some(0, 1)()
    assert views["pads"].shape == (2, 3, 2, 3)
    assert np.array_equal(views["pads"][1, 2], [[-1, 0, 1.5], [1, 0, 1]])
    assert np.array_equal(views["turn"][1, 2], [1, 0, 0, 0])
    assert np.array_equal(views["corner"][1, 2], [1, 2, 3])
    assert views["slide"][1, 2] == 0.5
    assert views["touching"][1, 2] == 0.0
    assert not rows[0].any()


@pytest.mark.parametrize("probe", ["body.leftpad.velocity", "leftpad", "joint.slide.qvel"])
def test_an_unknown_quantity_is_named(probe: str) -> None:
    with pytest.raises(ValueError, match=f"Found `{probe}`"):
        ProbeLayout(_model(), {"x": probe})
