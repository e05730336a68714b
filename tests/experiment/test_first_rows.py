"""Rows of metrics of a run that is killed around its first checkpoint."""

from __future__ import annotations

import pytest

from mtrl import cli
from mtrl.experiment.session import Session
from mtrl.monitoring.metrics import read_metrics
from tests.support.tiny_runs import run_folder

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("written", [False, True], ids=["before its first row", "after its first row"])
def test_a_run_killed_at_its_first_row_has_every_row_once(written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step of a classifier is due for a row of metrics already."""
    log = Session._log

    def killed(session: Session) -> None:
        if written:
            log(session)
        raise ArithmeticError("killed")

    words = ["train", "benchmark=digits", "network.width=8", "device=cpu", "steps=300", "training.log_every=100"]
    with monkeypatch.context() as patch:
        patch.setattr(Session, "_log", killed)
        with pytest.raises(ArithmeticError, match="killed"):
            cli.main(words)
    assert cli.main(words) == 0
    rows = read_metrics(run_folder() / "metrics.jsonl")
    assert [row["step"] for row in rows if "train/updates" in row] == [100, 200, 300]
