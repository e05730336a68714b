"""Compare multi-task behaviour cloning on the MuJoCo keyframe tasks at an equal number of updates, with two controls.

    python scripts/results_keyframes.py [METHOD ...] [key=value ...]

Demonstrations are collected if there are none yet. Each method is a run of its own under runs/keyframes/: started
again, finished ones are reported and an unfinished one goes on from its last checkpoint. What is small of each finished
run is copied to results/keyframes/<method>/. Of all that are there, table.csv and summary.json say what each reached on
each task, and scores.png shows it. A task counts if both controls solve at most a fifth of its episodes.
"""

import csv
import json
import shutil
import sys
import time
from pathlib import Path
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
        kept = RESULTS / method / f"seed_{SEED}"
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copyfile(folder / name, kept / name)
    return code


def summary() -> dict[str, Any]:
    """What there is of each method, which tasks count, and how many of these each method solves."""
    results = {}
    for method in ALL:
        path = RESULTS / method / f"seed_{SEED}" / "result.json"
        if path.exists():
            results[method] = json.loads(path.read_text(encoding="utf-8"))
    success = {
        method: {task: row["mean_success"] for task, row in result["tasks"].items()}
        for method, result in results.items()
    }
    tasks = list(next(iter(success.values())))
    controls = [success[method] for method in CONTROLS if method in success]
    counted = [task for task in tasks if len(controls) == 2 and all(row[task] <= GUESSED for row in controls)]
    methods = {
        method: {
            "mean_success": result["mean_success"],
            "solved": sum(success[method][task] >= SOLVED for task in counted),
            "updates": result["updates"],
            "training_seconds": result["training_seconds"],
            "evaluation_seconds": result["seconds"],
            "episodes": result["episodes"],
            "tasks": success[method],
        }
        for method, result in results.items()
    }
    return {"counted": counted, "seed": SEED, "methods": methods}


def write(facts: dict[str, Any]) -> None:
    """table.csv, summary.json and scores.png."""
    methods = facts["methods"]
    tasks = list(next(iter(methods.values()))["tasks"])
    (RESULTS / "summary.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with (RESULTS / "table.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["task", "counted", *methods])
        for task in tasks:
            rows.writerow([task, task in facts["counted"], *(row["tasks"][task] for row in methods.values())])
        rows.writerow(["mean", "", *(round(row["mean_success"], 4) for row in methods.values())])
    shares = [[row["tasks"][task] for row in methods.values()] for task in tasks]
    controls = [method for method in CONTROLS if method in methods]
    uncounted = set(tasks) - set(facts["counted"]) if len(controls) == 2 else set()
    first = next(iter(methods.values()))
    title = f"success over {first['episodes']} episodes after {first['updates']} updates"
    look = {"title": title, "controls": len(controls), "uncounted": uncounted}
    experiment.plot_scores(shares, tasks, list(methods), RESULTS / "scores.png", **look)


def report(facts: dict[str, Any]) -> None:
    print(f"{'method':<14}{'mean':>8}{'solved':>9}{'training s':>12}{'evaluation s':>14}")
    for method, row in facts["methods"].items():
        solved = f"{row['solved']} of {len(facts['counted'])}"
        seconds = f"{sum(row['training_seconds'].values()):>12.0f}{row['evaluation_seconds']:>14.0f}"
        print(f"{method:<14}{100 * row['mean_success']:>6.0f} %{solved:>9}{seconds}")
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
    budgets = {method: row["updates"] for method, row in facts["methods"].items()}
    if len(set(budgets.values())) > 1:
        print(f"mtrl: Methods should have had equally many updates. Found {budgets}.", file=sys.stderr)
        return 2
    write(facts)
    report(facts)
    return 0


if __name__ == "__main__":
    sys.exit(compare(sys.argv[1:]))
