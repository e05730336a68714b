"""Compare multi-task behaviour cloning on the MuJoCo keyframe tasks at an equal number of updates, with two controls.

    python scripts/results_keyframes.py [METHOD ...] [key=value ...]

Demonstrations are collected if there are none yet. Each method is a run of its own under runs/keyframes/: started
again, finished ones are reported and an unfinished one goes on from its last checkpoint. What is small of each finished
run is copied to results/keyframes/<method>/. Of all that are there, table.csv and summary.json say what each reached on
each task, the mean of its seeds, and scores.png shows it; `seed=2` adds a seed. A task counts if both controls solve at
most a fifth of its episodes with every seed.
"""

import csv
import json
import shutil
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

from mtrl import experiment
from mtrl.cli import main

UPDATES, EPISODES, SEED, DEMOS = 450, 25, 1, 100
METHODS = {
    "equal": [],
    # A window is about one pass over the demonstrations.
    "dwa": ["weighting=dwa", "weighting.window=40"],
    "uncertainty": ["weighting=uncertainty"],
    "pcgrad": ["surgery=pcgrad"],
    # With the paper's 3e-5, for 8,000 updates, λ could move by 0.013 at most in 450.
    "auto-lambda": ["weighting=auto_lambda", "weighting.learning_rate=5e-4"],
}
CONTROLS = {
    "blind": ["network.blind=true"],
    "mean-pose": ["agent=mean_pose", "agent.batch_size=32"],
}
ALL = {**METHODS, **CONTROLS}
GUESSED, SOLVED = 0.2, 0.8
"""A task counts if no control solves more than the one; a method solves a task if it reaches the other."""
RESULTS = Path("results/keyframes")
KEPT = ("config.yaml", "metrics.jsonl", "result.json", "provenance.json")


def collect(options: list[str]) -> int:
    """Collect the demonstrations that are missing, and keep how long it took if there were none."""
    print("== demonstrations", flush=True)
    fresh, begin = not Path("demos/keyframes").exists(), time.perf_counter()
    sizes = ["benchmark=keyframes", "benchmark.image_size=64", *(o for o in options if o.startswith("benchmark."))]
    code = main(["demos", "collect", *sizes, "--episodes", str(DEMOS)])
    if code == 0 and fresh:
        RESULTS.mkdir(parents=True, exist_ok=True)
        facts = {"demonstrations": DEMOS, "seconds": round(time.perf_counter() - begin, 1)}
        (RESULTS / "collection.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return code


def run(method: str, options: list[str]) -> int:
    """Train and evaluate one method, or go on with it, and keep its result."""
    print(f"== {method}", flush=True)
    usual = [f"steps={UPDATES}", f"training.final_episodes={EPISODES}", "training.checkpoint_every=50", "video=false"]
    command = ["recipe=keyframes", f"experiment={method}", f"seed={SEED}", *usual, *ALL[method], *options]
    code = main(["train", *command])
    if code == 0:
        folder = experiment.Experiment(experiment.compose(command)).path
        kept = RESULTS / method / folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(folder / name, kept / name)
    return code


def results(method: str) -> list[dict[str, Any]]:
    """What is kept of a method, a result for each seed."""
    paths = sorted((RESULTS / method).glob("seed_*/result.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A method's seeds, times, and success: means over the seeds."""
    tasks = {task: [run["tasks"][task]["mean_success"] for run in runs] for task in runs[0]["tasks"]}
    return {
        "seeds": [run["seed"] for run in runs],
        "updates": sorted({run["updates"] for run in runs}),
        "episodes": runs[0]["episodes"],
        "training_seconds": [round(sum(run["training_seconds"].values())) for run in runs],
        "evaluation_seconds": [round(run["seconds"]) for run in runs],
        "mean_success_of_each_seed": [run["mean_success"] for run in runs],
        "mean_success": mean(run["mean_success"] for run in runs),
        "tasks": {task: mean(shares) for task, shares in tasks.items()},
        "highest": {task: max(shares) for task, shares in tasks.items()},
    }


def summary() -> dict[str, Any]:
    """What there is of each method, which tasks count, and how many of these each method solves."""
    methods = {method: row(runs) for method in ALL if (runs := results(method))}
    controls = [methods[method]["highest"] for method in CONTROLS if method in methods]
    tasks = next(iter(methods.values()))["tasks"]
    counted = [t for t in tasks if len(controls) == len(CONTROLS) and all(c[t] <= GUESSED for c in controls)]
    for facts in methods.values():
        del facts["highest"]
        facts["solved"] = sum(facts["tasks"][task] >= SOLVED for task in counted)
    return {"counted": counted, "methods": methods}


def write(facts: dict[str, Any]) -> None:
    """table.csv, summary.json and scores.png."""
    methods = facts["methods"]
    tasks = list(next(iter(methods.values()))["tasks"])
    shares = [[method["tasks"][task] for method in methods.values()] for task in tasks]
    (RESULTS / "summary.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with (RESULTS / "table.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["task", "counted", *methods])
        for task, line in zip(tasks, shares, strict=True):
            lines.writerow([task, task in facts["counted"], *(round(share, 4) for share in line)])
        lines.writerow(["mean", "", *(round(method["mean_success"], 4) for method in methods.values())])
    controls = [method for method in CONTROLS if method in methods]
    uncounted = set(tasks) - set(facts["counted"]) if len(controls) == len(CONTROLS) else set()
    first = next(iter(methods.values()))
    title = f"success over {first['episodes']} episodes after {first['updates'][0]} updates"
    title += f", mean of {len(first['seeds'])} seeds" if len(first["seeds"]) > 1 else ""
    look = {"title": title, "controls": len(controls), "uncounted": uncounted}
    experiment.plot_scores(shares, tasks, list(methods), RESULTS / "scores.png", **look)


def report(facts: dict[str, Any]) -> None:
    print(f"{'method':<14}{'mean':>8}{'solved':>9}{'seeds':>7}{'training s':>12}{'evaluation s':>14}")
    for method, found in facts["methods"].items():
        solved, seeds = f"{found['solved']} of {len(facts['counted'])}", len(found["seeds"])
        seconds = f"{mean(found['training_seconds']):>12.0f}{mean(found['evaluation_seconds']):>14.0f}"
        print(f"{method:<14}{100 * found['mean_success']:>6.0f} %{solved:>9}{seeds:>7}{seconds}")
    print(f"Results: {RESULTS}")


def compare(arguments: list[str]) -> int:
    options = [word for word in arguments if "=" in word]
    chosen = [word for word in arguments if "=" not in word] or list(ALL)
    unknown = [method for method in chosen if method not in ALL]
    if unknown:
        print(f"mtrl: Methods should be among {', '.join(ALL)}. Found {unknown[0]!r}.", file=sys.stderr)
        return 2
    code = collect(options)
    for method in chosen:
        code = code or run(method, options)
    if code:
        return code
    facts = summary()
    budgets = {method: found["updates"] for method, found in facts["methods"].items()}
    if len({updates for found in budgets.values() for updates in found}) > 1:
        print(f"mtrl: Methods should have had equally many updates. Found {budgets}.", file=sys.stderr)
        return 2
    write(facts)
    report(facts)
    return 0


if __name__ == "__main__":
    sys.exit(compare(sys.argv[1:]))
