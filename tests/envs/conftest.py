"""Pictures need an OpenGL library of the system; where there is none, their tests are skipped and say so."""

from __future__ import annotations

import pytest

from mtrl.envs.offscreen import offscreen_backend
from mtrl.monitoring.video import RenderingUnavailable


@pytest.fixture
def offscreen() -> str:
    """The backend that draws here."""
    try:
        return offscreen_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
