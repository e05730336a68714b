"""The methods adapted from torchjd against torchjd's own aggregation of whole gradients, in float64."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl.core.errors import UserError
from mtrl.gradients import SURGERIES
from mtrl.gradients.surgery.torchjd_methods import CONFIGS
from tests.support.gradient_toys import config

cvxpy: Any = pytest.importorskip("cvxpy", reason="the extra `surgery` is not installed")
aggregation: Any = pytest.importorskip("torchjd.aggregation", reason="the extra `surgery` is not installed")

SCALES = pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e10])


def shortest_vector(gradients: Tensor) -> Tensor:
    """The vector of least norm in the gradients' convex hull, by an interior-point solver."""
    weights = cvxpy.Variable(len(gradients), nonneg=True)
    objective = cvxpy.Minimize(cvxpy.sum_squares(gradients.numpy().T @ weights))
    tight = {f"tol_{name}": 1e-12 for name in ("gap_abs", "gap_rel", "feas")}
    cvxpy.Problem(objective, [cvxpy.sum(weights) == 1]).solve(solver=cvxpy.CLARABEL, **tight)
    return torch.from_numpy(weights.value) @ gradients


ORACLES = {
    "cagrad": lambda m: aggregation.CAGrad(c=0.4),
    "mgda": lambda m: shortest_vector,
    "imtl_g": lambda m: aggregation.IMTLG(),
    "upgrad": lambda m: aggregation.UPGrad(),
    "dualproj": lambda m: aggregation.DualProj(),
    "aligned_mtl": lambda m: aggregation.AlignedMTL(),
    "fairgrad": lambda m: aggregation.FairGrad(alpha=1.0),
    "gradvac": lambda m: aggregation.GradVac(),
    "pcd": lambda m: aggregation.PCD(eps=0.0),
    "nash_mtl": lambda m: aggregation.NashMTL(m, max_norm=0.0),
}
"""torchjd's aggregator of a Jacobian (m, n)."""
SUMS = {"gradvac": 1.0, "nash_mtl": 1.0}
KINDS = pytest.mark.parametrize("kind", CONFIGS)


def build(kind: str, tasks: int, **options: Any) -> Any:
    return SURGERIES.build(config(SURGERIES, kind, **options), num_tasks=tasks)


def coefficients(surgery: Any, gradients: Tensor, seed: int = 0, lead: int = 0) -> Tensor:
    primary = torch.arange(len(gradients)) == lead
    generator = torch.Generator().manual_seed(seed)
    noise = surgery.noise(len(gradients), generator, torch.device("cpu"))
    return surgery.coefficients(gradients @ gradients.T, primary, noise)


def random(tasks: int, seed: int, columns: int = 30) -> Tensor:
    return torch.randn(tasks, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@KINDS
@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_the_update_is_torchjds(kind: str, tasks: int) -> None:
    """After its own scale: T for averages, √T for FairGrad on gradients of mean squared norm 1, 1 for sums."""
    for seed in range(3):
        gradients = random(tasks, seed)
        gradients = gradients / gradients.square().sum(1).mean().sqrt()
        surgery = build(kind, tasks)
        scale = SUMS.get(kind, tasks**0.5 if kind == "fairgrad" else float(tasks))
        found = coefficients(surgery, gradients, seed) @ gradients / scale
        noise = surgery.noise(tasks, torch.Generator().manual_seed(seed), torch.device("cpu"))
        with torch.random.fork_rng():
            torch.manual_seed(0 if noise is None else int(noise))
            expected = ORACLES[kind](tasks)(gradients)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@KINDS
@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1e10])
def test_the_scale_of_the_gradients_changes_nothing(kind: str, scale: float) -> None:
    gradients = random(4, 1)
    expected = coefficients(build(kind, 4), gradients)
    torch.testing.assert_close(coefficients(build(kind, 4), scale * gradients), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tasks", range(2, 21))
@pytest.mark.parametrize("columns", [3, 30], ids=["dependent", "independent"])
def test_mgda_finds_the_shortest_vector(tasks: int, columns: int) -> None:
    """Against another solver, and by the condition that marks the optimum: no gradient's product with it is less
    than its squared norm."""
    for seed, spread in ((0, 0), (1, 3)):
        lengths = torch.logspace(-spread, spread, tasks, dtype=torch.float64).unsqueeze(1)
        gradients = random(tasks, seed, columns) * lengths + 0.3 * (seed == 0)
        size = gradients.square().sum(1).mean()
        weights = coefficients(build("mgda", tasks), gradients) / tasks
        assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1)
        found, expected = weights @ gradients, shortest_vector(gradients)
        assert (found.square().sum() - expected.square().sum()) / size < 1e-6
        assert (gradients @ found).min() >= found.square().sum() - 1e-6 * size


def test_pcd_follows_whichever_task_is_primary() -> None:
    gradients = random(4, 2)
    order = torch.tensor([2, 0, 1, 3])
    expected = ORACLES["pcd"](4)(gradients[order])
    found = coefficients(build("pcd", 4, primary=["2"]), gradients, lead=2) @ gradients
    torch.testing.assert_close(found, 4 * expected, rtol=1e-6, atol=1e-9)


@KINDS
@SCALES
def test_identical_gradients_give_the_plain_update(kind: str, scale: float) -> None:
    gradients = scale * random(1, 0).expand(3, -1)
    factor = 1.4 if kind == "cagrad" else 1.0
    found = coefficients(build(kind, 3), gradients) @ gradients
    torch.testing.assert_close(found, factor * gradients.sum(0), rtol=2e-3, atol=0)


@KINDS
@SCALES
def test_one_task_passes_unchanged(kind: str, scale: float) -> None:
    assert torch.equal(coefficients(build(kind, 1), scale * random(1, 0)), torch.ones(1, dtype=torch.float64))


def degenerate() -> dict[str, Tensor]:
    gradients = random(3, 3)
    zero, opposed = gradients.clone(), gradients.clone()
    zero[0] = 0
    opposed[2] = -opposed[0]
    apart = gradients * torch.tensor([1e-10, 1.0, 1e10], dtype=torch.float64).unsqueeze(1)
    balanced = gradients - gradients.mean(0)
    return {"zero": zero, "opposed": opposed, "apart": apart, "balanced": balanced, "nothing": 0 * gradients}


@KINDS
@pytest.mark.parametrize("case", degenerate())
@SCALES
def test_degenerate_gradients_have_finite_updates(kind: str, case: str, scale: float) -> None:
    gradients = degenerate()[case]
    found = coefficients(build(kind, 3), scale * gradients)
    assert found.shape == (3,) and found.isfinite().all()
    update, size = found @ gradients, gradients.norm(dim=1).sum()
    assert update.norm() <= (1e4 if kind == "imtl_g" else 10) * size


@pytest.mark.parametrize("kind", ["upgrad", "dualproj", "mgda"])
def test_no_task_loses(kind: str) -> None:
    for seed in range(5):
        gradients = random(4, seed, columns=5)
        update = coefficients(build(kind, 4), gradients) @ gradients
        assert (gradients @ update >= -0.02 * gradients.norm(dim=1) * update.norm()).all()


@pytest.mark.parametrize("kind", ["gradvac", "pcd", "nash_mtl"])
def test_saved_methods_go_on_alike(kind: str, tmp_path: Any) -> None:
    options = {"every": 3} if kind == "nash_mtl" else {}
    one, other = build(kind, 4, **options), build(kind, 4, **options)
    for seed in range(5):
        coefficients(one, random(4, seed), seed)
    torch.save(one.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    fresh = build(kind, 4, **options)
    first = coefficients(fresh, random(4, 5), 5)
    for seed in range(5, 9):
        expected = coefficients(one, random(4, seed), seed)
        assert torch.equal(coefficients(other, random(4, seed), seed), expected)
        if seed == 5:
            assert not torch.equal(first, expected), "the state should matter"


def test_global_randomness_is_left_alone() -> None:
    before, gradients = torch.get_rng_state(), random(4, 0, columns=3)
    draws = [coefficients(build("gradvac", 4), gradients, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_solvers_leave_no_spinning_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS has one thread while a method solves, and as many as before afterwards."""
    from threadpoolctl import ThreadpoolController

    def threads() -> list[int]:
        found = ThreadpoolController().select(internal_api="openblas").lib_controllers
        return [library.num_threads for library in found]

    surgery = build("fairgrad", 3)
    solve, seen = surgery._module[0], []
    monkeypatch.setattr(surgery, "_module", [lambda gramian: (seen.extend(threads()), solve(gramian))[1]])
    with ThreadpoolController().select(internal_api="openblas").limit(limits=2):
        before = threads()
        coefficients(surgery, random(3, 0))
        assert before and threads() == before and 2 in before
    assert set(seen) == {1}


def test_every_method_has_one_line_of_its_own() -> None:
    lines = [SURGERIES.summary(kind) for kind in CONFIGS]
    assert len(set(lines)) == len(CONFIGS) and all(20 < len(line) < 120 for line in lines)


@KINDS
def test_without_torchjd_it_is_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("torchjd"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install -e '\.\[surgery\]'") as error:
        build(kind, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "library"), [("cagrad", "cvxpy"), ("upgrad", "quadprog"), ("nash_mtl", "ecos")])
def test_without_its_solver_it_is_one_line(kind: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None if name == library else find_spec(name))
    with pytest.raises(UserError, match=f"pip install.*{library}"):
        build(kind, 3)


def test_on_python_3_13_nash_mtl_says_how_to_get_its_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra leaves it out there, so that installing the extra once more would not help."""
    from importlib.util import find_spec

    monkeypatch.setattr("torchjd._mixins.find_spec", lambda name: None if name == "ecos" else find_spec(name))
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UserError, match=r"pip install 'ecos>=2\.0\.14', which needs a C compiler") as error:
        build("nash_mtl", 3)
    assert "\n" not in str(error.value) and "[surgery]" not in str(error.value)
