"""Compare all methods on goal-conditioned pushing at equal environment steps, one after another.

    python scripts/results_pushing.py [METHOD ...] [key=value ...]

Each method is a run of its own under runs/pushing/: started again, finished ones are reported and an unfinished one
goes on from its last checkpoint. What is small of each finished run is copied to results/pushing/<method>/, and all are
drawn in results/pushing/comparison.png.
"""

import shutil
import sys
from pathlib import Path

from mtrl import experiment
from mtrl.cli import main

GENERATED = "network.generator_width=16"
METHODS = {
    "mint": ["network=mint", GENERATED],
    "film": ["network=film", GENERATED],
    "sac-goal-input": ["network=mlp"],
    "concat-all": ["network=concat_all"],
    "superposition": ["network=superposition"],
    "pcgrad": ["network=mlp", "surgery=pcgrad"],
    "auto-lambda": ["network=mlp", "weighting=auto_lambda"],
    "independent-10-goals": ["network=independent", "benchmark.num_goals=10"],
}
RESULTS = Path("results/pushing")
KEPT = ("config.yaml", "metrics.jsonl", "result.json", "provenance.json")
SEED = 1


def run(method: str, options: list[str]) -> int:
    """Train one method, or go on with it, and keep its result."""
    print(f"== {method}", flush=True)
    code = main(["train", "recipe=pushing", f"experiment={method}", f"seed={SEED}", *METHODS[method], *options])
    if code == 0:
        runs = next((o.partition("=")[2] for o in options if o.startswith("runs=")), "runs")
        keep(Path(runs) / "pushing" / method / f"seed_{SEED}", RESULTS / method / f"seed_{SEED}")
    return code


def keep(folder: Path, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(folder / name, kept / name)


def compare(arguments: list[str]) -> int:
    options = [word for word in arguments if "=" in word]
    chosen = [word for word in arguments if "=" not in word] or list(METHODS)
    unknown = [method for method in chosen if method not in METHODS]
    if unknown:
        print(f"mtrl: Methods should be among {', '.join(METHODS)}. Found {unknown[0]!r}.", file=sys.stderr)
        return 2
    for method in chosen:
        code = run(method, options)
        if code:
            return code
    done = [RESULTS / method / f"seed_{SEED}" for method in METHODS if (RESULTS / method).is_dir()]
    print(f"Comparison: {experiment.plot_runs(done, RESULTS / 'comparison.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(compare(sys.argv[1:]))
