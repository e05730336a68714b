"""Compare all sources of auxiliary labels over three seeds, by default on scikit-learn's digits (minutes on one core).

    python scripts/compare_auxiliary.py runs=runs/auxiliary [recipe=auxiliary_digits] [key=value ...]

Every run is an `mtrl train`; finished ones are not repeated. Ends with a table, `summary.json` and `comparison.png` in
the folder of the runs.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from mtrl import experiment
from mtrl.cli import main

METHODS = {
    "single": ["agent.method=none"],
    "human": ["agent.method=human"],
    "maxl": ["agent.method=maxl"],
    "wa-maxl": ["agent.method=maxl", "agent.weight_aware=true"],
    "rl-aux": ["agent.method=rl"],
    "wa-rl-aux": ["agent.method=rl", "agent.weight_aware=true"],
}
SEEDS = (1, 2, 3)


def options(arguments: list[str]) -> list[str]:
    """The given overrides, after the defaults of those that are missing."""
    given = {argument.partition("=")[0] for argument in arguments}
    usual = {"recipe": "auxiliary_digits", "runs": "runs/auxiliary"}
    return [f"{key}={value}" for key, value in usual.items() if key not in given] + arguments


def summary(folders: dict[str, list[Path]]) -> dict[str, Any]:
    """Final accuracy of every run, mean and standard deviation over seeds, and the mean of the best on the way."""
    rows = {}
    for name, paths in folders.items():
        results = [json.loads((path / "result.json").read_text(encoding="utf-8")) for path in paths]
        accuracy = [result["mean_accuracy"] for result in results]
        seconds = [round(sum(result["training_seconds"].values()), 1) for result in results]
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        best = [result["best"]["mean_accuracy"] for result in results if "best" in result]
        rows[name] = {"mean": statistics.mean(accuracy), "deviation": spread, "seeds": accuracy, "seconds": seconds}
        rows[name] |= {"best": statistics.mean(best)} if best else {}
    return rows


def run(arguments: list[str]) -> int:
    overrides = options(arguments)
    folders: dict[str, list[Path]] = {name: [] for name in METHODS}
    for seed in SEEDS:
        for name, choice in METHODS.items():
            command = [*overrides, *choice, f"experiment={name}", f"seed={seed}"]
            code = main(["train", *command])
            if code:
                return code
            folders[name].append(experiment.Experiment(experiment.compose(command)).path)
    rows = summary(folders)
    root = folders["single"][0].parents[1]
    (root / "summary.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    experiment.plot_runs([path for paths in folders.values() for path in paths], root / "comparison.png")
    print(f"{'labels':<12}{'accuracy':>10}{'±':>8}{'seconds':>10}")
    for name, row in rows.items():
        mean_seconds = statistics.mean(row["seconds"])
        print(f"{name:<12}{100 * row['mean']:>9.1f}%{100 * row['deviation']:>7.1f}{mean_seconds:>10.0f}")
    print(f"Runs, summary.json and comparison.png: {root}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
