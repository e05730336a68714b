"""Pictures of conflicts, weights and the triad show what is in the rows, for any number of tasks and networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from mtrl.core.errors import UserError
from mtrl.monitoring import plots_methods


def rows(tasks: list[str], parts: tuple[str, ...] = ("critic/", "actor/"), points: int = 5) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"step": 0, "train/updates": 0}]
    for point in range(1, points + 1):
        row: dict[str, Any] = {"step": 100 * point}
        for part in parts:
            size = len(tasks)
            row |= {f"{part}cosine": np.eye(size).tolist(), f"{part}conflicts": (0.3 * np.ones((size, size))).tolist()}
            row |= {f"{part}{name}/{task}": 0.1 * point for name in ("weight", "task_grad_norm") for task in tasks}
            row |= {f"{part}triad/{name}": 0.2 for name in ("magnitude_similarity", "positive_cosine", "condition_b")}
            row |= {f"{part}triad/curvature": 0.1 * (-1) ** point, f"{part}triad/condition_a": None}
        row |= {f"train/{name}/{task}": None if point % 2 else 0.5 for name in ("return", "success") for task in tasks}
        found.append(row)
    return found


@pytest.mark.parametrize("count", [1, 2, 10, 14])
@pytest.mark.parametrize("parts", [("",), ("critic/", "actor/")])
def test_all_kinds_are_drawn(count: int, parts: tuple[str, ...], tmp_path: Path) -> None:
    tasks = [f"task-{number}" for number in range(count)]
    data = rows(tasks, parts)
    pictures = [
        plots_methods.conflicts(data, tasks, tmp_path / "conflicts.png"),
        plots_methods.lambdas(data, tasks, tmp_path / "lambdas.png"),
        plots_methods.triad({"one": data, "other": data[:3]}, tasks, tmp_path / "new" / "triad.png"),
    ]
    for picture in pictures:
        assert imread(picture)[..., :3].std() > 0.01


def test_rows_without_returns_have_a_triad(tmp_path: Path) -> None:
    data = [{k: v for k, v in row.items() if not k.startswith("train/")} for row in rows(["a", "b"])]
    plots_methods.triad({"one": data}, ["a", "b"], tmp_path / "triad.png")


@pytest.mark.parametrize(("kind", "named"), [("conflicts", "cosines"), ("lambdas", "weights"), ("triad", "triad")])
def test_rows_without_the_metric_are_refused(kind: str, named: str, tmp_path: Path) -> None:
    data: Any = [{"step": 0, "train/success/a": 1.0}]
    with pytest.raises(UserError, match=named):
        getattr(plots_methods, kind)({"run": data} if kind == "triad" else data, ["a"], tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())
