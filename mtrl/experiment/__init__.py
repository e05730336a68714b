"""The only wiring: a configuration becomes parts, and parts become a run."""

from mtrl.experiment.config import REGISTRIES, ExperimentConfig, check_sweep, compose
from mtrl.experiment.counts import parameter_counts
from mtrl.experiment.grouping import GroupedRun, group_run, saved_overrides
from mtrl.experiment.load import LoadedPolicy, evaluate_run, load, load_policy
from mtrl.experiment.parts import Experiment
from mtrl.experiment.pictures import plot_runs
from mtrl.experiment.session import Session, train
from mtrl.monitoring.plots_scores import scores as plot_scores

__all__ = [
    "REGISTRIES",
    "Experiment",
    "ExperimentConfig",
    "GroupedRun",
    "LoadedPolicy",
    "Session",
    "check_sweep",
    "compose",
    "evaluate_run",
    "group_run",
    "load",
    "load_policy",
    "parameter_counts",
    "plot_runs",
    "plot_scores",
    "saved_overrides",
    "train",
]
