"""Multi-task reinforcement learning and behaviour cloning in PyTorch.

`import mtrl` imports no other module of the package; `mtrl.load_policy` is imported on first use.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl.experiment import load_policy

__all__ = ["__version__", "load_policy"]

try:
    __version__ = version("mtrl-toolkit")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        from mtrl.experiment import load_policy

        return load_policy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
