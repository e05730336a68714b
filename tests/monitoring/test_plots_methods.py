"""Pictures of conflicts, weights and the triad show what is in the rows, for any number of tasks and networks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtrl.core.errors import UserError
from mtrl.monitoring import plots_methods
from tests.support.figures import image, labels, lines, mesh, panels, shows_all, texts, ticks

Drawn = dict[str, Figure]
Rows = list[dict[str, Any]]
PARTS = pytest.mark.parametrize("parts", [("",), ("critic/", "actor/")], ids=["one-network", "two"])
COUNTS = pytest.mark.parametrize("count", [1, 2, 10, 14])


def names(count: int) -> list[str]:
    return [f"task-{number}" for number in range(count)]


def symmetric(size: int, rng: np.random.Generator) -> np.ndarray:
    half = rng.uniform(0.0, 0.5, (size, size))
    return half + half.T


def rows(tasks: list[str], parts: tuple[str, ...] = ("critic/", "actor/"), points: int = 5, seed: int = 0) -> Rows:
    """All values differ, so whatever is drawn in the wrong place is noticed."""
    rng = np.random.default_rng(seed)
    found: Rows = [{"step": 0, "train/updates": 0}]
    for point in range(1, points + 1):
        row: dict[str, Any] = {"step": 100 * point}
        for part in parts:
            size = len(tasks)
            row |= {f"{part}cosine": (2 * symmetric(size, rng) - 1).tolist()}
            row |= {f"{part}conflicts": symmetric(size, rng).tolist()}
            row |= {f"{part}{name}/{task}": rng.random() for name in ("weight", "task_grad_norm") for task in tasks}
            shares = ("magnitude_similarity", "positive_cosine", "condition_b")
            row |= {f"{part}triad/{name}": rng.random() for name in shares}
            row |= {f"{part}triad/curvature": rng.normal(), f"{part}triad/condition_a": None}
        for name, task in itertools.product(("return", "success"), tasks):
            row[f"train/{name}/{task}"] = None if point % 2 else rng.random()
        found.append(row)
    return found


def series(data: Rows, key: str) -> list[list[float]]:
    """Steps and values of a metric, null as NaN: what its line should hold."""
    found = [row for row in data if key in row]
    return [[row["step"] for row in found], [np.nan if row[key] is None else row[key] for row in found]]


def known(data: Rows, key: str) -> list[list[float]]:
    """The same without the rows that are null."""
    return series([row for row in data if row.get(key) is not None], key)


def heading(part: str) -> str:
    return f"{part[:-1]}: " if part else ""


def in_parts(figure: Figure, parts: tuple[str, ...], width: int) -> dict[str, list[Axes]]:
    """The `width` panels of each network, critics above."""
    assert len(figure.axes) == width * len(parts)
    return {part: figure.axes[width * k : width * (k + 1)] for k, part in enumerate(parts)}


@COUNTS
@PARTS
def test_conflicts_are_the_pairs_the_means_and_the_norms(
    count: int, parts: tuple[str, ...], tmp_path: Path, drawn: Drawn
) -> None:
    tasks = names(count)
    data = rows(tasks, parts)
    plots_methods.conflicts(data, tasks, tmp_path / "conflicts.png")
    for part, (share, cosine, conflict, norm) in in_parts(drawn["conflicts.png"], parts, 4).items():
        found = [np.array(row[f"{part}conflicts"]) for row in data[1:]]
        pairs = list(itertools.combinations(range(count), 2))
        expected = [np.mean([matrix[pair] for pair in pairs]) if pairs else 0.0 for matrix in found]
        np.testing.assert_allclose(lines(share), [[np.arange(100, 501, 100), expected]])
        assert share.get_title(loc="left") == f"{heading(part)}conflicting pairs" and shows_all(share)
        np.testing.assert_allclose(image(cosine), np.mean([row[f"{part}cosine"] for row in data[1:]], 0))
        np.testing.assert_allclose(image(conflict), np.mean(found, 0))
        assert cosine.images[0].get_clim() == (-1, 1) and conflict.images[0].get_clim() == (0, 1)
        np.testing.assert_allclose(lines(norm), [series(data, f"{part}task_grad_norm/{task}") for task in tasks])
        assert ticks(cosine.yaxis) == tasks
        assert ticks(cosine.xaxis) == ticks(conflict.xaxis) == (tasks if part == parts[-1] else [""] * count)
        shown = [f"{100 * value:.0f}" for value in np.mean(found, 0).flat]
        assert texts(conflict) == (shown if count <= 12 else [])


@COUNTS
@PARTS
def test_lambdas_are_the_weights_of_every_task(
    count: int, parts: tuple[str, ...], tmp_path: Path, drawn: Drawn
) -> None:
    tasks = names(count)
    data = rows(tasks, parts)
    for row in data[-2:]:
        row["step"] *= 10
    plots_methods.lambdas(data, tasks, tmp_path / "lambdas.png")
    found = panels(drawn["lambdas.png"])
    assert list(found) == [f"{heading(part)}task weights" for part in parts]
    for part, panel in zip(parts, found.values(), strict=True):
        expected = [series(data, f"{part}weight/{task}") for task in tasks]
        if count <= 12:
            np.testing.assert_allclose(lines(panel), expected)
            assert labels(panel.get_legend()) == tasks and shows_all(panel)
            styles = {(line.get_color(), line.get_linestyle()) for line in panel.lines}
            assert len(styles) == count, "no two tasks look alike"
        else:
            edges, values = mesh(panel)
            np.testing.assert_allclose(values, np.array(expected)[:, 1])
            assert ((edges[:-1] <= expected[0][0]) & (expected[0][0] <= edges[1:])).all(), "also where steps are uneven"
            assert ticks(panel.yaxis) == tasks and panel.yaxis_inverted()


@COUNTS
@PARTS
def test_the_triad_of_each_run_and_its_outcome(
    count: int, parts: tuple[str, ...], tmp_path: Path, drawn: Drawn
) -> None:
    tasks = names(count)
    runs = {"one": rows(tasks, parts), "other": rows(tasks, parts, seed=1)[:5]}
    plots_methods.triad(runs, tasks, tmp_path / "new" / "triad.png")
    figure = drawn["triad.png"]
    assert labels(figure.legends[0]) == list(runs)
    shares = ("positive_cosine", "condition_a", "condition_b")
    for part, (curvature, share, similarity, _) in in_parts(figure, parts, 4).items():
        prefix = f"{part}triad/"
        assert_lines(curvature, series_of(runs, [f"{prefix}curvature"]))
        assert curvature.get_title(loc="left").startswith(heading(part)) and curvature.get_yscale() == "symlog"
        assert_lines(share, series_of(runs, [prefix + name for name in shares]))
        assert share.get_legend() is not None and shows_all(share)
        assert_lines(similarity, series_of(runs, [f"{prefix}magnitude_similarity"]))
    for panel, name in zip(figure.axes[3::4], ("return", "success"), strict=False):
        each = [[known(data, f"train/{name}/{task}") for task in tasks] for data in runs.values()]
        means = [[np.mean(found, 0).tolist()] for found in each]
        assert_lines(panel, [line for found in (each if count <= 4 else means) for line in found])


def assert_lines(panel: Axes, expected: list[list[list[float]]]) -> None:
    """The lines may have different lengths, as their runs do."""
    for line, values in zip(lines(panel), expected, strict=True):
        np.testing.assert_allclose(line, values)


def series_of(runs: dict[str, Rows], keys: list[str]) -> list[list[list[float]]]:
    return [series(data, key) for data in runs.values() for key in keys]


def test_each_of_many_runs_is_drawn(tmp_path: Path, drawn: Drawn) -> None:
    runs = {f"run {k}": rows(["a"], ("",), 3) for k in range(10)}
    plots_methods.triad(runs, ["a"], tmp_path / "triad.png")
    assert len(lines(drawn["triad.png"].axes[0])) == 10
    assert len(drawn["triad.png"].legends[0].texts) >= 10


def test_shares_of_long_runs_are_running_means(tmp_path: Path, drawn: Drawn) -> None:
    """Over five of eighty points."""
    data = rows(["a", "b"], ("",), points=80)
    plots_methods.triad({"one": data}, ["a", "b"], tmp_path / "triad.png")
    share = lines(drawn["triad.png"].axes[1])[0][1]
    raw = series(data, "triad/positive_cosine")[1]
    np.testing.assert_allclose(share[2:-2], np.convolve(raw, np.full(5, 0.2), "valid"))
    assert share[0] == pytest.approx(np.mean(raw[:3])) and share[-1] == pytest.approx(np.mean(raw[-3:]))


def test_curvatures_above_zero_have_a_logarithmic_axis(tmp_path: Path, drawn: Drawn) -> None:
    data = [row | ({"triad/curvature": 10.0 ** row["step"]} if row["step"] else {}) for row in rows(["a"], ("",), 2)]
    plots_methods.triad({"one": data}, ["a"], tmp_path / "triad.png")
    assert drawn["triad.png"].axes[0].get_yscale() == "log"


def test_rows_without_returns_have_a_triad_and_no_outcome(tmp_path: Path, drawn: Drawn) -> None:
    data = [{k: v for k, v in row.items() if not k.startswith("train/")} for row in rows(["a", "b"])]
    plots_methods.triad({"one": data}, ["a", "b"], tmp_path / "triad.png")
    visible = [panel.get_visible() for panel in drawn["triad.png"].axes]
    assert visible == [True, True, True, False] * 2


@pytest.mark.parametrize(
    ("kind", "named"), [("conflicts", "conflicts of pairs"), ("lambdas", "weights"), ("triad", "triad")]
)
def test_rows_without_the_metric_are_refused(kind: str, named: str, tmp_path: Path) -> None:
    data: Any = [{"step": 0, "train/success/a": 1.0, "actor/cosine": 0.1}]
    with pytest.raises(UserError, match=named):
        getattr(plots_methods, kind)({"run": data} if kind == "triad" else data, ["a"], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
