"""Inner products in C against those of the same numbers in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mtrl.core.native import FAILURES, compiled, function
from mtrl.gradients import algebra, inner_products

PROBE = "#if !defined(__AVX512F__) && !defined(__FMA__) && !defined(__aarch64__)\n#error\n#endif\nint probe;\n"


def _suits() -> bool:
    """Whether there is a compiler and a processor that the C code is for; then the code has to work."""
    try:
        return compiled(PROBE, *inner_products.FLAGS) is not None
    except FAILURES:
        return False


compiler = pytest.mark.skipif(not _suits(), reason="no C compiler with OpenMP, or no fused multiply-add")


def blocks(tasks: int, *widths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tasks)
    return [torch.randn(tasks, width, generator=generator) for width in widths]


def exact(given: list[Tensor]) -> Tensor:
    products = [block.double() @ block.double().T for block in given]
    return torch.stack(products).sum(0)


@compiler
@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 5, 6, 7, 10, 11, 50])
def test_products_of_every_number_of_rows_and_width(tasks: int) -> None:
    """Parts of a vector, of a piece of columns, and several pieces."""
    for widths in [(1,), (7,), (16,), (31, 1), (4096,), (4097, 5), (100, 70_001, 400)]:
        given = blocks(tasks, *widths)
        assert inner_products.takes(given)
        found = inner_products.gramian(given)
        scale = exact(given).diagonal().sqrt()
        assert found.dtype == torch.float64 and torch.equal(found, found.T)
        assert ((found - exact(given)).abs() <= 1e-6 * scale.unsqueeze(0) * scale.unsqueeze(1)).all()


@compiler
def test_rows_that_lie_apart() -> None:
    whole = blocks(2 * 10, 6000)[0]
    for given in (whole[::2], whole[:10, 1000:3000], whole.T[:10], whole[:1].expand(10, -1), whole[:10, ::3]):
        torch.testing.assert_close(inner_products.gramian([given]), exact([given]), rtol=1e-6, atol=1e-3)


@compiler
def test_threads_change_no_bit() -> None:
    given, threads, found = blocks(10, 200_000, 333), torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(inner_products.gramian(given))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)


@compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_its_task(bad: float) -> None:
    given = blocks(6, 5000, 40)
    given[0][3, 4444] = bad
    finite = inner_products.gramian(given).isfinite()
    others = torch.arange(6) != 3
    assert not finite[3].any() and not finite[:, 3].any() and finite[others][:, others].all()


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CC", "false")
    for cached in (compiled, function):
        cached.cache_clear()
    yield
    for cached in (compiled, function):
        cached.cache_clear()


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("tasks", [1, 10, 40])
def test_without_a_compiler_a_blas_multiplies(tasks: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given = blocks(tasks, 70_001, 9)
    assert not inner_products.takes(given) and "Inner products are computed by BLAS" in caplog.text
    torch.testing.assert_close(algebra.gramian(given).double(), exact(given), rtol=1e-5, atol=1e-2)


def test_what_is_differentiated_or_of_another_type_is_left_to_pytorch() -> None:
    given = blocks(3, 50)[0]
    assert not inner_products.takes([given.double()])
    assert not inner_products.takes([given.clone().requires_grad_()])
    assert not inner_products.takes([given.to("meta")])
