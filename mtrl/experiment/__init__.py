"""Builds the parts of a run from its configuration, and trains, evaluates, compares and draws runs."""

from typing import TYPE_CHECKING

from mtrl.core.lazy import lazily

if TYPE_CHECKING:
    from mtrl.experiment.company import leads
    from mtrl.experiment.config import (
        REGISTRIES,
        ExperimentConfig,
        compose,
        compose_all,
        saved_overrides,
        sweep,
    )
    from mtrl.experiment.counts import parameter_counts
    from mtrl.experiment.grouping import GroupedRun, group_run
    from mtrl.experiment.load import LoadedPolicy, evaluate_run, load_policy
    from mtrl.experiment.parts import Experiment
    from mtrl.experiment.pictures import plot_runs, plot_scores
    from mtrl.experiment.session import Session, train

__all__ = [
    "REGISTRIES",
    "Experiment",
    "ExperimentConfig",
    "GroupedRun",
    "LoadedPolicy",
    "Session",
    "compose",
    "compose_all",
    "evaluate_run",
    "group_run",
    "leads",
    "load_policy",
    "parameter_counts",
    "plot_runs",
    "plot_scores",
    "saved_overrides",
    "sweep",
    "train",
]

__getattr__ = lazily(
    __name__, __all__, "config", "counts", "grouping", "load", "parts", "pictures", "session", "company"
)
