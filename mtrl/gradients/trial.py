"""Checks of surgeries from other packages, before a run begins; of weightings, only that they were initialised."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mtrl.core.errors import expected, told
from mtrl.gradients.base import Surgery
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.surgery.none import NoSurgery

_METHODS = {"coefficients": "", "combine": "", "choose": "needs_look_ahead", "penalty": "has_penalty"}
"""Each method that a surgery may override -> the class variable that must be true for it to be called, if any."""


def check_begun(choice: str, part: nn.Module) -> None:
    """Check that a part's `__init__` has called that of its base class. PyTorch's own errors would say less.

    choice: the option that chose the part, as in `weighting=dwa`.

    Raises:
        UserError: it has not.
    """
    if "_buffers" not in vars(part):
        owner = f"{type(part).__name__}, of {choice},"
        raise expected(owner, "one whose __init__ calls super().__init__()", "no such call")


def try_out(kind: str, surgery: Surgery, num_tasks: int, members: int | None = None) -> None:
    """Call a copy of a surgery on random gradients, unless it is one of mtrl's. PyTorch's random state does not change.

    `choose` is not called. members: the size of an ensemble whose members have coefficients of their own.

    Raises:
        UserError: the surgery does not call its base's `__init__`, cannot be copied, overrides none of `coefficients`,
            `combine`, `choose` and `penalty`, or overrides `choose` or `penalty` without setting its class variable to
            true; a call raises an error; the coefficients are not finite or not of shape (T,), or (candidates, T) if
            the surgery looks ahead; the combined gradient is not finite, or its shape or type is not the parameter's;
            or the penalty is not a finite scalar that depends on the Gramian.
    """
    if SURGERIES.ours(kind) or isinstance(surgery, NoSurgery):
        return
    made, owner = type(surgery), f"{type(surgery).__name__}, of surgery={kind},"
    check_begun(f"surgery={kind}", surgery)
    given = [name for name in _METHODS if getattr(made, name) is not getattr(Surgery, name)]
    if not given:
        own = [name for name, value in vars(made).items() if callable(value) and not name.startswith("__")]
        raise expected(owner, f"a Surgery that overrides one of {', '.join(_METHODS)}", own)
    for name in given:
        if _METHODS[name] and not getattr(surgery, _METHODS[name]):
            raise expected(owner, f"one with {_METHODS[name]} = True, as it overrides {name}", False)
    with torch.random.fork_rng(devices=[]):
        factors = torch.ones(num_tasks, dtype=torch.float64)
        with _failing(owner, "one that can be copied", surgery):
            trial = copy.deepcopy(surgery)  # one copy for all calls, as one may store what the next needs
        if "coefficients" in given:
            factors = _coefficients(owner, trial, num_tasks)
        if "combine" in given:
            _combine(owner, trial, factors.view(-1, num_tasks)[0].float(), members)
        if "penalty" in given:
            _penalty(owner, trial, num_tasks)


def _coefficients(owner: str, surgery: Surgery, num_tasks: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_tasks, num_tasks + 1, dtype=torch.float64, generator=generator)
    ahead = surgery.needs_look_ahead
    wanted = f"(candidates, {num_tasks}), as it looks ahead" if ahead else f"({num_tasks},)"
    what = f"one whose coefficients(gramian, primary, noise) gives a tensor {wanted}"
    with _failing(owner, what, surgery):
        noise = surgery.noise(num_tasks, generator, torch.device("cpu"))
        factors = surgery.coefficients(rows @ rows.mT, torch.ones(num_tasks, dtype=torch.bool), noise)
    found = tuple(factors.shape) if isinstance(factors, Tensor) else type(factors).__name__
    if not isinstance(factors, Tensor) or factors.ndim != 1 + ahead or found[-1] != num_tasks or not factors.numel():
        raise expected(owner, what, found)
    if not factors.isfinite().all():
        raise expected(owner, what + " of finite numbers", factors.tolist())
    return factors


def _combine(owner: str, surgery: Surgery, factors: Tensor, members: int | None) -> None:
    """Try `combine` on the gradients of a vector and of a matrix."""
    generator, num_tasks = torch.Generator().manual_seed(0), len(factors)
    lead = () if members is None else (members,)
    for shape in ((*lead, num_tasks + 1), (*lead, num_tasks + 2, num_tasks + 1)):
        gradients = torch.randn(num_tasks, *shape, generator=generator)
        what = "one whose combine(gradients, coefficients, weights, generator) gives a "
        what += f"{gradients.dtype} tensor {shape} for gradients {tuple(gradients.shape)}"
        with _failing(owner, what, surgery):
            weights = torch.ones(num_tasks)
            found = surgery.combine(gradients, factors.expand(*lead, -1), weights, generator)
        if not isinstance(found, Tensor):
            raise expected(owner, what, type(found).__name__)
        if (tuple(found.shape), found.dtype) != (shape, gradients.dtype):
            raise expected(owner, what, f"{found.dtype} {tuple(found.shape)}")
        if not found.isfinite().all():
            raise expected(owner, what + " of finite numbers", found.tolist())


def _penalty(owner: str, surgery: Surgery, num_tasks: int) -> None:
    rows = torch.randn(num_tasks, num_tasks + 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    what = f"one whose penalty(gramian) gives a tensor () computed from the gramian ({num_tasks}, {num_tasks})"
    with _failing(owner, what, surgery):
        found = surgery.penalty(rows @ rows.mT)
    if not isinstance(found, Tensor) or found.shape:
        raise expected(owner, what, tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__)
    if not found.requires_grad:
        raise expected(owner, what, "one without a gradient")
    if not found.isfinite():
        raise expected(owner, what + ", a finite one", found.item())


@contextlib.contextmanager
def _failing(owner: str, what: str, surgery: Surgery) -> Iterator[None]:
    """Turn every error of a surgery into a UserError, since it may raise any."""
    try:
        yield
    except Exception as error:
        raise expected(owner, what, told(error, type(surgery).__module__)) from error
