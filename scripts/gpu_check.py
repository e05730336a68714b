"""Check and time the updates on this machine's GPU: python scripts/gpu_check.py, at most ten minutes.

Runs the tests that need a GPU (captured and compiled updates are the plain ones, nothing waits, signs of conflicts),
then `mtrl bench update` and `mtrl bench train` there, and writes update_gpu.json, train_gpu.json and checks_gpu.json
with what holds. Exit code 1 where something does not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/execution/test_execution_cuda.py"
BENCHES = {
    "update": ["update", "--suites", "mt10,mt50", "--repetitions", "20"],
    "train": ["train", "--suites", "mt10", "--compiled"],
}
SECONDS = {"tests": 180, "update": 270, "train": 140}
"""For each of the three parts, compilation included."""
GOAL_MS = 0.6
"""MT10's PCGrad update, compiled, on a card of the H100's class."""


def bench(arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mtrl.cli", "bench", *arguments, "--device", "cuda", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS[arguments[0]]
    )
    return {"command": " ".join(["mtrl", *command[3:]]), **json.loads(done.stdout)}


def checks(tests: int, update: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """What should hold: name -> (whether it does, the figure)."""
    ms = {(row["suite"], row["update"]): row["ms"] for row in update["rows"]}
    pcgrad, larger = ms["mt10", "pcgrad compiled tf32"], train["summary"][0]["of_larger"]["side_by_side"]
    return {
        "the tests on a GPU pass": [tests == 0, tests],
        f"MT10's PCGrad update takes at most {GOAL_MS} ms": [pcgrad <= GOAL_MS, pcgrad],
        "training takes at most 1.15 times the larger of environments and updates": [larger <= 1.15, larger],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench", help="folder of the three files")
    output = parser.parse_args().output
    if not torch.cuda.is_available():
        print("gpu_check: a CUDA GPU should be visible to PyTorch. Found none.", file=sys.stderr)
        return 2
    output.mkdir(parents=True, exist_ok=True)
    print(f"1/3 {TESTS}", flush=True)
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", TESTS, "-q", "--tb=short"], cwd=ROOT, timeout=SECONDS["tests"]
    )
    results = {}
    for place, (name, arguments) in enumerate(BENCHES.items(), 2):
        print(f"{place}/3 mtrl bench {' '.join(arguments)} --device cuda", flush=True)
        results[name] = bench(arguments)
        (output / f"{name}_gpu.json").write_text(json.dumps(results[name], indent=1) + "\n", encoding="utf-8")
    found = checks(tests.returncode, results["update"], results["train"])
    facts = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "checks": found}
    (output / "checks_gpu.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for name, (holds, figure) in found.items():
        print(f"{'holds' if holds else 'FAILS'}: {name} ({figure:.3g})")
    return 0 if all(holds for holds, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
