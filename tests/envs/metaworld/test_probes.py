"""Rows of probes follow the simulator; unknown names are refused."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from mtrl.envs.metaworld.probes import ProbeLayout

_PROBES = {
    "touching": "touching.rightpad_geom",
    "pad": "body.leftpad.xpos",
    "turn": "body.leftpad.xquat",
    "corner": "site.corner.xpos",
    "slide": "joint.slide.qpos",
}


def _model() -> Any:
    pad = """<body name="{side}pad" pos="{x} 0 1">{joint}<geom name="{side}pad_geom" size=".01"/></body>"""
    left = pad.format(side="left", x=-1, joint='<joint name="slide" type="slide"/>')
    right = pad.format(side="right", x=1, joint="")
    xml = f"<mujoco><worldbody><site name='corner' pos='1 2 3'/>{left}{right}</worldbody></mujoco>"
    return mujoco.MjModel.from_xml_string(xml)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_row_follows_the_simulator() -> None:
    model = _model()
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    layout = ProbeLayout(model, _PROBES)
    rows = np.zeros((2, layout.width))
    data.qpos[0] = 0.5
    mujoco.mj_forward(model, data)  # pyright: ignore[reportAttributeAccessIssue]
    layout.gatherer([data], rows[1:])()
    found = {name: rows[1, first : first + max(size, 1)].tolist() for name, (first, size) in layout.columns.items()}
    assert found == {"pad": [-1, 0, 1.5], "turn": [1, 0, 0, 0], "corner": [1, 2, 3], "slide": [0.5], "touching": [0]}
    assert layout.columns["slide"][1] == 0 and layout.columns["corner"][1] == 3
    assert not rows[0].any() and len(layout.in_c("data")) == layout.width


@pytest.mark.parametrize("probe", ["body.leftpad.velocity", "leftpad", "joint.slide.qvel"])
def test_an_unknown_quantity_is_named(probe: str) -> None:
    with pytest.raises(ValueError, match=f"Found `{probe}`"):
        ProbeLayout(_model(), {"x": probe})
