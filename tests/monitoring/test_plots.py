"""Pictures show what is in the rows, for any number of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mtrl.core.errors import UserError
from mtrl.monitoring import plots, plots_scores
from mtrl.monitoring.curves import stack
from mtrl.monitoring.drawing import steps_axis
from tests.support.figures import image, labels, lines, panels, shows_all, texts, ticks

RED, BLUE = 0, 2
Drawn = dict[str, Figure]


def success(task: int, step: float) -> float:
    """A line in the step, another one for each task."""
    return 0.1 + 0.05 * (task % 10) + step / 20_000


def rows(tasks: list[str], points: int = 6, first: int = 0) -> list[dict[str, Any]]:
    """Rows of every thousandth step, and rows of something else between them."""
    found: list[dict[str, Any]] = []
    for step in range(first, first + 1000 * points, 1000):
        found.append({"step": step, "loss": 1.0})
        values = {f"success/{task}": success(number, step) for number, task in enumerate(tasks)}
        returns = {f"return/{task}": 100.0 * number - step for number, task in enumerate(tasks)}
        found.append({"step": step, **values, **returns})
    return found


@pytest.mark.parametrize("count", [1, 3, 10, 26])
@pytest.mark.parametrize("points", [1, 6])
def test_learning_curves_show_every_task_and_the_means(count: int, points: int, tmp_path: Path, drawn: Drawn) -> None:
    tasks = [f"task-{number}" for number in range(count)]
    path = tmp_path / "new" / "curves.png"
    assert plots.learning_curves(rows(tasks, points), tasks, path, title="mt10") == path
    figure = drawn["curves.png"]
    steps = 1000.0 * np.arange(points)
    rates = np.array([[success(k, step) for step in steps] for k in range(count)])
    returns = np.array([100.0 * k - steps for k in range(count)])
    assert figure.get_suptitle() == "mt10"

    last = rates.mean(0)[-1]
    above = panels(figure)
    assert list(above) == [f"mean success: {100 * last:.0f} %", f"mean return: {returns.mean(0)[-1]:.0f}", *tasks]
    for panel, values in zip(list(above.values())[:2], (rates, returns), strict=True):
        *faint, bold = lines(panel)
        np.testing.assert_allclose(bold, [steps, values.mean(0)])
        np.testing.assert_allclose(faint, [[steps, row] for row in values])
        assert shows_all(panel)
    for task, row in zip(tasks, rates, strict=True):
        np.testing.assert_allclose(lines(above[task]), [[steps, row]])
        assert texts(above[task]) == [f"{100 * row[-1]:.0f} %"] and shows_all(above[task])


def test_returns_as_the_headline_have_their_own_scale_and_one_panel(tmp_path: Path, drawn: Drawn) -> None:
    tasks = ["a", "b"]
    plots.learning_curves(rows(tasks), tasks, tmp_path / "curves.png", headline="return")
    found = panels(drawn["curves.png"])
    assert list(found) == ["mean return: -4950", "a", "b"]
    assert texts(found["a"]) == ["-5000"] and texts(found["b"]) == ["-4900"]
    assert all(shows_all(panel) for panel in found.values())
    plots.compare_runs({"mint": [rows(tasks)]}, tmp_path / "c.png", headline="return")
    assert shows_all(drawn["c.png"].axes[0])


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"curves\.xyz should be named as one of .*png.* Found '\.xyz'"):
        plots.learning_curves(rows(["a"]), ["a"], tmp_path / "new" / "curves.xyz")
    assert not (tmp_path / "new").exists()


def test_rows_without_returns_have_no_panel_for_them(tmp_path: Path, drawn: Drawn) -> None:
    data = [{k: v for k, v in row.items() if not k.startswith("return/")} for row in rows(["a"])]
    plots.learning_curves(data, ["a"], tmp_path / "curves.png")
    assert list(panels(drawn["curves.png"])) == ["mean success: 35 %", "a"]


def test_where_nothing_is_known_yet_nothing_is_drawn(tmp_path: Path, drawn: Drawn) -> None:
    """The first row of a run whose episodes have not ended: null."""
    plots.learning_curves([{"step": 0, "success/a": None}], ["a"], tmp_path / "curves.png")
    found = panels(drawn["curves.png"])
    assert list(found) == ["mean success: nan %", "a"]
    assert not any(np.isfinite(line).all(0).any() for panel in found.values() for line in lines(panel))


def test_a_mean_is_of_the_tasks_that_are_known(tmp_path: Path, drawn: Drawn) -> None:
    data = [
        {"step": 0, "success/a": 0.2, "success/b": None},
        {"step": 5, "success/a": 0.4, "success/b": 0.8},
        {"step": 9, "success/a": None, "success/b": 0.1},
    ]
    plots.learning_curves(data, ["a", "b"], tmp_path / "curves.png")
    found = panels(drawn["curves.png"])
    np.testing.assert_allclose(lines(found["mean success: 10 %"])[-1], [[0, 5, 9], [0.2, 0.6, 0.1]])
    assert texts(found["a"]) == ["40 %"], "the last that is known"
    assert texts(found["b"]) == ["10 %"]


def test_curves_pick_the_rows_that_have_every_task() -> None:
    tasks = ["a", "b"]
    steps, values = plots.curves([*rows(tasks, 3), {"step": 9, "success/a": 1.0}], tasks, "success")
    np.testing.assert_array_equal(steps, [0.0, 1000.0, 2000.0])
    np.testing.assert_allclose(values, [[0.1, 0.15, 0.2], [0.15, 0.2, 0.25]])


@pytest.mark.parametrize("wrong", [[], rows(["other"])])
def test_rows_without_the_metric_are_refused(tmp_path: Path, wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="success/<task>"):
        plots.learning_curves(wrong, ["a"], tmp_path / "curves.png")
    with pytest.raises(UserError):
        plots.compare_runs({"mint": [wrong[:1]]}, tmp_path / "compare.png")
    assert not list(tmp_path.iterdir())


def test_runs_of_different_lengths_and_steps_are_compared(tmp_path: Path, drawn: Drawn) -> None:
    """All curves are straight lines, so their values between two evaluations are known. What is drawn is the mean of
    tasks b and c, the middle half of four."""
    tasks = ["a", "b", "c", "d"]
    seeds = [rows(tasks), rows(tasks, 9, first=500)]
    path = plots.compare_runs({"mint": seeds, "film": [rows(tasks)]}, tmp_path / "c.png")
    assert path == tmp_path / "c.png" and path.exists()
    (panel,) = drawn["c.png"].axes
    mint, film = lines(panel)
    common = np.arange(500, 5001, 500)  # both seeds' steps, from the later beginning to the earlier end
    np.testing.assert_allclose(mint, [common, 0.175 + common / 20_000])
    np.testing.assert_allclose(film, [1000.0 * np.arange(6), 0.175 + np.arange(6) / 20])
    assert labels(panel.get_legend()) == ["mint (2 seeds)", "film (1 seed)"] and shows_all(panel)


@pytest.mark.parametrize(("means", "value"), [(False, 1.0), (True, 0.75)])
def test_means_count_the_tasks_that_fail(means: bool, value: float, tmp_path: Path, drawn: Drawn) -> None:
    seeds = [[{"step": step, "success/a": 0.0} | {f"success/{t}": 1.0 for t in "bcd"} for step in (1, 2)]] * 2
    plots.compare_runs({"mint": seeds}, tmp_path / "c.png", means=means)
    (panel,) = drawn["c.png"].axes
    np.testing.assert_allclose(lines(panel)[0], [[1, 2], [value, value]])
    assert ("interquartile" in panel.get_title(loc="left")) != means and len(panel.collections) == 1


@pytest.mark.parametrize(("last", "unit"), [(0.2, ""), (5.0, ""), (4e3, "k"), (5e6, "M")])
def test_an_axis_shortens_large_numbers_and_no_small_ones(last: float, unit: str) -> None:
    """0.05 minutes are not 50m, which would be read as fifty minutes."""
    panel = Figure().add_subplot()
    panel.plot([0.0, last], [0.0, 1.0])
    steps_axis(panel)
    found = {place: panel.xaxis.get_major_formatter()(place) for place in panel.get_xticks() if place}
    assert {text.strip(".0123456789") for text in found.values()} == {unit}
    scale = {"": 1.0, "k": 1e3, "M": 1e6}[unit]
    assert [scale * float(text.rstrip(unit)) for text in found.values()] == pytest.approx(list(found))


def test_the_band_is_around_the_line_and_as_wide_as_the_seeds_differ(tmp_path: Path, drawn: Drawn) -> None:
    low, high = ([{"step": s, "success/a": v + s / 100, "success/b": v} for s in (0, 10)] for v in (0.2, 0.6))
    runs = {"alike": [low, low, low], "different": [low, high], "alone": [high]}
    plots.compare_runs(runs, tmp_path / "c.png")
    (panel,) = drawn["c.png"].axes
    alike, different = (band.get_paths()[0].vertices for band in panel.collections)
    line = lines(panel)[0]
    np.testing.assert_allclose(sorted(np.unique(np.asarray(alike)[:, 1].round(9))), np.unique(line[1]))
    heights = np.asarray(different)[np.asarray(different)[:, 0] == 0][:, 1]
    assert heights.min() == pytest.approx(0.2) and heights.max() == pytest.approx(0.6)


@pytest.mark.parametrize("size", [1, 10, 30])
def test_matrix_is_blue_above_zero_red_below_and_white_at_zero(size: int) -> None:
    names = [f"task-{number}" for number in range(size)]

    def middle(value: float) -> np.ndarray:
        return plots.matrix_image(np.full((size, size), value), names, "cosine").astype(int)

    zero, positive, negative = middle(0.0), middle(1.0), middle(-1.0)
    changed = (positive != negative).any(axis=-1)
    assert zero.dtype == int and zero.ndim == 3 and changed.mean() > 0.02
    assert (zero[changed] > 235).all()
    assert (positive[changed][:, BLUE] > positive[changed][:, RED]).all()
    assert (negative[changed][:, RED] > negative[changed][:, BLUE]).all()


@pytest.mark.parametrize("size", [1, 2, 4, 10, 50])
@pytest.mark.parametrize("limit", [None, 0.000516])
def test_all_words_of_a_matrix_lie_on_the_picture(size: int, limit: float | None, tmp_path: Path, drawn: Drawn) -> None:
    title = "how much a step for the row's task helps the column's task"
    names = [f"peg-insert-side-v{number}" for number in range(size)]
    plots.matrix(np.eye(size), names, title, tmp_path / "matrix.png", limit=limit)
    figure = drawn["matrix.png"]
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert " ".join(figure.get_suptitle().split()) == title
    for text in found:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()


@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_matrix_is_drawn_row_by_row_with_its_labels_and_scale(
    limit: float | None, tmp_path: Path, drawn: Drawn
) -> None:
    array = np.array([[1.0, np.nan, 0.5], [3.0, -1.0, 0.0], [0.3, 2.0, 1.5]])
    names = ["a", "b", "c"]
    plots.matrix(array, names, "cosine", tmp_path / "matrix.png", limit=limit)
    panel, bar = drawn["matrix.png"].axes
    np.testing.assert_array_equal(image(panel), array)
    assert panel.images[0].get_clim() == ((-3, 3) if limit is None else (-0.5, 0.5))
    assert ticks(panel.xaxis) == ticks(panel.yaxis) == names
    assert ticks(bar.yaxis) == (["-3", "0", "3"] if limit is None else ["-0.5", "0", "0.5"])
    for text, (place, value) in zip(panel.texts, np.ndenumerate(array), strict=True):
        assert text.get_position() == place[::-1] and float(text.get_text()) == pytest.approx(value, nan_ok=True)


def test_matrix_must_match_its_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        plots.matrix(np.eye(3), ["a", "b"], "cosine", tmp_path / "matrix.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [1e-12, 3e-4, 0.02, 0.77, 1.0, 40.0, 9999.0, 1e7])
def test_numbers_in_a_matrix_are_short_and_close(scale: float, tmp_path: Path, drawn: Drawn) -> None:
    values = scale * np.array([[1.0, -0.9, 1e-4], [0.0, 0.37, np.nan], [-1.0, 0.02, 0.4]])
    plots.matrix(values, ["a", "b", "c"], "gain", tmp_path / "matrix.png", limit=scale)
    found = texts(drawn["matrix.png"].axes[0])
    assert max(map(len, found)) <= 7
    np.testing.assert_allclose([float(text) for text in found], values.flatten(), atol=0.1 * scale)


def test_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can be written"):
        plots.matrix(np.eye(1), ["a"], "cosine", tmp_path / "file" / "matrix.png")


def test_rows_in_which_no_episode_ended_do_not_break_a_curve() -> None:
    """Success is null where no episode ended since the last row; a line through the others must remain."""
    rows = [{"step": k, "success/a": None if k % 2 else 0.5, "success/b": None if k % 2 else 1.0} for k in range(6)]
    steps, values = plots.curves(rows, ["a", "b"], "success")
    assert steps.tolist() == [0, 2, 4]
    assert values.tolist() == [[0.5] * 3, [1.0] * 3]


def test_values_of_runs_are_drawn_a_line_each(tmp_path: Path, drawn: Drawn) -> None:
    first = [
        {"step": 0, "far": 0.3, "near": 0.0},
        {"step": 5},
        {"step": 10, "far": 0.9},
        {"step": 10, "far": 0.2, "near": None},
    ]
    runs = {"one": first, "two": [{"step": 4, "far": 0.1}]}
    wanted = (("far", "distance"), ("near", "success"), ("near", "nearness"))
    plots.compare_values(runs, tmp_path / "values.png", wanted, step_scale=9)
    figure = drawn["values.png"]
    found = panels(figure)
    assert list(found) == ["distance", "success", "nearness"]
    assert [line.tolist() for line in lines(found["distance"])] == [[[0, 90], [0.3, 0.2]], [[36], [0.1]]]
    assert [line.tolist() for line in lines(found["success"])] == [[[0], [0.0]], [[], []]]
    assert shows_all(found["distance"]) and all(panel.get_ylim()[0] == 0 for panel in found.values())
    assert labels(figure.legends[0]) == ["one", "two"]
    formats = {name: panel.yaxis.get_major_formatter()(0.5) for name, panel in found.items()}
    assert formats["success"] == "50 %" != formats["distance"]


def test_the_table_of_shares_has_a_row_of_means_and_the_controls_apart(tmp_path: Path, drawn: Drawn) -> None:
    shares = np.array([[0.1, 0.9, 0.0], [0.3, 0.7, 1.0]])
    options: dict[str, Any] = {"controls": 1, "uncounted": ["lift"], "title": "success"}
    plots_scores.scores(shares, ["press", "lift"], ["equal", "dwa", "blind"], tmp_path / "s.png", **options)
    (panel,) = drawn["s.png"].axes
    gap = np.nan
    means = [[0.1, 0.9, gap, 0.0], [0.3, 0.7, gap, 1.0], [gap] * 4, [0.2, 0.8, gap, 0.5]]
    np.testing.assert_allclose(image(panel), means)
    assert ticks(panel.yaxis) == ["press", "lift", "mean"] and panel.get_yticks().tolist() == [0, 1, 3]
    assert ticks(panel.xaxis) == ["equal", "dwa", "blind"] and panel.get_xticks().tolist() == [0, 1, 3]
    assert texts(panel) == ["10 %", "90 %", "0 %", "30 %", "70 %", "100 %", "20 %", "80 %", "50 %"]
    press, lift, mean = (label.get_color() for label in panel.get_yticklabels())
    assert lift not in (press, mean)


@pytest.mark.parametrize("values", [[None], [None, None]])
def test_seeds_without_an_ended_episode_have_no_curve(values: list[None]) -> None:
    rows = [{"step": step, "success/reach": value} for step, value in enumerate(values)]
    with pytest.raises(UserError, match="Metrics of joint should be rows with 'success/<task>'"):
        stack("joint", [rows], "success")
