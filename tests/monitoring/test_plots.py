"""Pictures show what is in the rows, for any number of tasks."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

from mtrl.core.errors import UserError
from mtrl.monitoring import plots

RED, BLUE = 0, 2


def rows(tasks: list[str], points: int = 6) -> list[dict]:
    found: list[dict] = []
    for point in range(points):
        found.append({"step": 1000 * point, "loss": 1.0})
        values = {f"{name}/{task}": point / points for task in tasks for name in ("success", "return")}
        found.append({"step": 1000 * point, **values})
    return found


@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("points", [1, 6])
def test_learning_curves_are_drawn_for_any_number_of_tasks_and_points(tmp_path, count, points):
    tasks = [f"task-{number}" for number in range(count)]
    picture = imread(plots.learning_curves(rows(tasks, points), tasks, tmp_path / "new" / "curves.png", title="mt10"))
    assert picture[..., :3].std() > 0.01


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"curves\.xyz should be named as one of .*png.* Found '\.xyz'"):
        plots.learning_curves(rows(["a"]), ["a"], tmp_path / "new" / "curves.xyz")
    assert not (tmp_path / "new").exists()


def test_rows_without_returns_or_with_nulls_are_drawn(tmp_path):
    plots.learning_curves([{"step": 0, "success/a": None}], ["a"], tmp_path / "curves.png")


def test_curves_pick_the_rows_that_have_every_task():
    tasks = ["a", "b"]
    steps, values = plots.curves([*rows(tasks, 3), {"step": 9, "success/a": 1.0}], tasks, "success")
    np.testing.assert_array_equal(steps, [0.0, 1000.0, 2000.0])
    np.testing.assert_allclose(values, np.tile([0.0, 1 / 3, 2 / 3], (2, 1)))


@pytest.mark.parametrize("wrong", [[], rows(["other"])])
def test_rows_without_the_metric_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="success/<task>"):
        plots.learning_curves(wrong, ["a"], tmp_path / "curves.png")
    with pytest.raises(UserError):
        plots.compare_runs({"mint": [wrong[:1]]}, tmp_path / "compare.png")
    assert not list(tmp_path.iterdir())


def test_runs_of_different_lengths_and_steps_are_compared(tmp_path):
    shifted = [{**row, "step": row["step"] + 500} for row in rows(["a", "b"], 9)]
    path = plots.compare_runs({"mint": [rows(["a", "b"]), shifted], "film": [rows(["a", "b"])]}, tmp_path / "c.png")
    assert imread(path).shape[-1] == 4


@pytest.mark.parametrize("size", [1, 10, 30])
def test_matrix_is_blue_above_zero_red_below_and_white_at_zero(size):
    labels = [f"task-{number}" for number in range(size)]

    def middle(value: float) -> np.ndarray:
        return plots.matrix_image(np.full((size, size), value), labels, "cosine").astype(int)

    zero, positive, negative = middle(0.0), middle(1.0), middle(-1.0)
    changed = (positive != negative).any(axis=-1)
    assert zero.dtype == int and zero.ndim == 3 and changed.mean() > 0.02
    assert (zero[changed] > 235).all()
    assert (positive[changed][:, BLUE] > positive[changed][:, RED]).all()
    assert (negative[changed][:, RED] > negative[changed][:, BLUE]).all()


@pytest.mark.parametrize("size", [1, 2, 4, 10, 50])
@pytest.mark.parametrize("limit", [None, 0.000516])
def test_all_words_of_a_matrix_lie_on_the_picture(size, limit):
    title = "what a step of the row's task gives the column's"
    labels = [f"peg-insert-side-v{number}" for number in range(size)]
    figure = plots._matrix_figure(np.eye(size), labels, title, limit, values=True)
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert " ".join(figure.get_suptitle().split()) == title
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()


def test_matrix_must_match_its_labels(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        plots.matrix(np.eye(3), ["a", "b"], "cosine", tmp_path / "matrix.png")
    plots.matrix([[1.0, np.nan], [3.0, -1.0]], ["a", "b"], "cosine", tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").exists()


@pytest.mark.parametrize("scale", [1e-12, 3e-4, 0.02, 0.77, 1.0, 40.0, 9999.0, 1e7])
def test_numbers_in_a_matrix_are_short_and_close(scale):
    values = scale * np.array([[1.0, -0.9, 1e-4], [0.0, 0.37, np.nan]])
    texts = plots._short(values, scale)
    assert max(map(len, texts)) <= 7
    np.testing.assert_allclose([float(text) for text in texts], values.flatten(), atol=0.1 * scale)


def test_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can be written"):
        plots.matrix(np.eye(1), ["a"], "cosine", tmp_path / "file" / "matrix.png")


def test_rows_in_which_no_episode_ended_do_not_break_a_curve() -> None:
    """Success is null where no episode ended since the last row; a line through the others must remain."""
    rows = [{"step": k, "success/a": None if k % 2 else 0.5, "success/b": None if k % 2 else 1.0} for k in range(6)]
    steps, values = plots.curves(rows, ["a", "b"], "success")
    assert steps.tolist() == [0, 2, 4]
    assert np.isfinite(values).all()


def test_values_of_runs_are_drawn_a_line_each(tmp_path, monkeypatch):
    drawn, original = [], Axes.plot

    def record(self, x, y, *rest, **options):
        drawn.append((list(x), list(y)))
        return original(self, x, y, *rest, **options)

    monkeypatch.setattr(Axes, "plot", record)
    first = [
        {"step": 0, "far": 0.3, "near": 0.0},
        {"step": 5},
        {"step": 10, "far": 0.9},
        {"step": 10, "far": 0.2, "near": None},
    ]
    runs = {"one": first, "two": [{"step": 4, "far": 0.1}]}
    panels = (("far", "distance"), ("near", "success"))
    path = plots.compare_values(runs, tmp_path / "values.png", panels, step_scale=9)
    assert path.stat().st_size > 5000
    assert drawn == [([0, 90], [0.3, 0.2]), ([36], [0.1]), ([0], [0.0]), ([], [])]
