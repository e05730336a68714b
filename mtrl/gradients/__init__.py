"""Gradient methods (weightings, surgery, diagnostics) and the optimiser step that applies them."""

from typing import TYPE_CHECKING

from mtrl.core.lazy import lazily
from mtrl.gradients.diagnostics import DIAGNOSTICS
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.weightings import WEIGHTINGS

if TYPE_CHECKING:
    from mtrl.gradients.base import Context, Diagnostic, Surgery, Weighting
    from mtrl.gradients.methods import Methods
    from mtrl.gradients.module import ModuleOptimizer
    from mtrl.gradients.optimizer import MultiTaskOptimizer

__all__ = [
    "DIAGNOSTICS",
    "SURGERIES",
    "WEIGHTINGS",
    "Context",
    "Diagnostic",
    "Methods",
    "ModuleOptimizer",
    "MultiTaskOptimizer",
    "Surgery",
    "Weighting",
]

__getattr__ = lazily(__name__, __all__, "base", "optimizer", "methods", "module")
