"""The metrics file holds every row of the surviving history once."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtrl.core.errors import UserError
from mtrl.monitoring.metrics import MetricLog, read_metrics
from mtrl.monitoring.run import RunFolder

TASKS = ("reach", "push")


@pytest.fixture
def run(tmp_path):
    with RunFolder.open(tmp_path / "run", {"steps": 100}) as folder:
        yield folder


def write(run: RunFolder, resume_step: int | None, steps: list[int], value: float = 0.0) -> None:
    with MetricLog(run, resume_step) as log:
        for step in steps:
            log.write(step, {"loss": value, "success": np.array([0.0, 1.0])}, TASKS)


def test_names_in_the_file_are_those_in_tensorboard(run):
    conflict = np.array([[1.0, -0.123456], [-0.123456, 1.0]])
    with MetricLog(run) as log:
        log.write(5, {"loss": 2.0, "success": [0.25, 1.0], "cosine": conflict}, TASKS)
    (row,) = read_metrics(run.metrics)
    values = {"loss": 2.0, "success/reach": 0.25, "success/push": 1.0}
    assert row.pop("time") > 0
    assert row == {"step": 5, **values, "cosine": [[1.0, -0.1235], [-0.1235, 1.0]]}
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert {name: board.Scalars(name)[0].value for name in board.Tags()["scalars"]} == values
    assert board.Tags()["images"] == ["cosine"]


def test_images_are_rationed_and_rows_are_not(run):
    with MetricLog(run, image_interval=1000.0) as log:
        for step in range(3):
            log.write(step, {"cosine": np.eye(2)}, TASKS)
    assert [row["cosine"] for row in read_metrics(run.metrics)] == [[[1.0, 0.0], [0.0, 1.0]]] * 3
    assert len(EventAccumulator(str(run.tensorboard)).Reload().Images("cosine")) == 1


def test_rows_after_the_resumed_checkpoint_are_replaced(run):
    write(run, None, [10, 20, 30, 40], value=1.0)
    write(run, 20, [30, 50], value=2.0)
    rows = [(row["step"], row["loss"]) for row in read_metrics(run.metrics)]
    assert rows == [(10, 1.0), (20, 1.0), (30, 2.0), (50, 2.0)]
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == rows


def test_rows_of_the_checkpoints_own_step_that_came_after_it_are_dropped(run: RunFolder) -> None:
    """Such rows come from the evaluation at the end of a run that was killed before its result was written."""
    with MetricLog(run) as log:
        for value in (1.0, 2.0, 3.0):
            log.write(10, {"loss": value})
        assert log.rows == 3
        log.go_back(10, 2)
        assert log.rows == 2
    with MetricLog(run, 10, 1) as log:
        log.write(10, {"loss": 4.0})
    assert [row["loss"] for row in read_metrics(run.metrics)] == [1.0, 4.0]


def test_without_a_checkpoint_the_history_starts_anew(run):
    write(run, None, [0, 10])
    write(run, None, [0])
    assert [row["step"] for row in read_metrics(run.metrics)] == [0]


@pytest.mark.parametrize("cut", range(1, 30, 7))
def test_line_torn_by_a_crash_is_left_out_and_then_overwritten(run, cut):
    write(run, None, [10, 20])
    run.metrics.write_bytes(run.metrics.read_bytes()[:-cut])
    assert [row["step"] for row in read_metrics(run.metrics)] == [10]
    write(run, 20, [30])
    assert [row["step"] for row in read_metrics(run.metrics)] == [10, 30]


def test_lines_are_strict_json_whatever_the_numbers(run):
    with MetricLog(run) as log:
        log.write(1, {"loss": float("nan"), "q": [float("inf"), 1], "cosine": [[1.0, np.nan], [0.0, 1.0]]}, TASKS)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    row = json.loads(run.metrics.read_text(), parse_constant=refuse)
    assert row["loss"] is None and row["q/reach"] is None and row["cosine"] == [[1.0, None], [0.0, 1.0]]


def test_a_row_is_readable_as_soon_as_it_is_written(run):
    with MetricLog(run) as log:
        for step in range(3):
            log.write(step, {"loss": 1.0})
            assert len(read_metrics(run.metrics)) == step + 1


def test_arrays_of_any_shape_are_logged(run):
    """Only arrays of the tasks' shape are named by tasks. Others are divided by indexes, down to such parts."""
    three = {"count": [1.0, 2.0, 3.0], "per_critic": np.arange(6.0).reshape(3, 2), "cosine": np.zeros((1, 2, 2))}
    with MetricLog(run) as log:
        log.write(1, {**three, "wide": np.arange(3.0).reshape(1, 3), "empty": []}, TASKS)
    (row,) = read_metrics(run.metrics)
    expected = {"step": 1, "count/0": 1.0, "count/1": 2.0, "count/2": 3.0, "cosine/0": [[0.0, 0.0], [0.0, 0.0]]}
    expected |= {f"per_critic/{e}/{task}": 2.0 * e + t for e in range(3) for t, task in enumerate(TASKS)}
    expected |= {f"wide/0/{k}": float(k) for k in range(3)}
    assert row.pop("time") > 0 and row == expected


def test_missing_file_and_broken_middle_line_are_named(tmp_path):
    with pytest.raises(UserError, match="existing file"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(UserError, match="Line 2"):
        read_metrics(tmp_path / "metrics.jsonl")
