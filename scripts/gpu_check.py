"""Check and time the updates on this machine's GPU: python scripts/gpu_check.py [tests] [update] [train].

Without names, all three parts run: the tests that need a GPU (captured and compiled updates equal the plain ones, do
not wait for the GPU, and keep the signs of conflicts), `mtrl bench update` and `mtrl bench train`. The two benchmarks
write update_gpu.json and train_gpu.json. checks_gpu.json tells which checks hold. It keeps its entries for parts that
do not run, if they were made on the same kind of GPU with the same PyTorch. All this takes at most fifteen minutes,
most of them for compilation. The exit code is 1 if a check fails, and 2 without a GPU.
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
TESTS = ["tests/execution/test_execution_cuda.py", "tests/experiment/test_experiment_cuda.py"]
BENCHES = {
    "update": ["update", "--suites", "mt10,mt50", "--repetitions", "20"],
    "train": ["train", "--suites", "mt10", "--compiled"],
}
SECONDS = {"tests": 300, "update": 360, "train": 240}
"""The most seconds that each part may take, compilation included."""
GOAL_MS = 0.6
"""The most milliseconds that MT10's compiled PCGrad update may take on a card of the H100's class."""
CHECKS = {
    "tests": "the tests on a GPU pass",
    "update": f"MT10's PCGrad update takes at most {GOAL_MS} ms",
    "train": "training takes at most 1.15 times the larger of environments and updates",
}
"""What each part checks."""


def tests() -> int:
    """The exit code of the tests."""
    command = [sys.executable, "-m", "pytest", *TESTS, "-q", "--tb=short", "-n", "4"]
    return subprocess.run(command, cwd=ROOT, timeout=SECONDS["tests"]).returncode


def bench(name: str, output: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "mtrl.cli", "bench", *BENCHES[name], "--device", "cuda", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS[name])
    result = {"command": " ".join(["mtrl", *command[3:]]), **json.loads(done.stdout)}
    (output / f"{name}_gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def check(part: str, output: Path) -> tuple[bool, float | None]:
    """Whether a part's check holds, and its figure; None if the part fails or takes too long."""
    try:
        if part == "tests":
            return (code := tests()) == 0, code
        result = bench(part, output)
    except subprocess.SubprocessError as error:
        print(f"{part}: {error}", file=sys.stderr)
        return False, None
    if part == "update":
        ms = {(row["suite"], row["update"]): row["ms"] for row in result["rows"]}
        pcgrad = ms["mt10", "pcgrad compiled tf32"]
        return pcgrad <= GOAL_MS, pcgrad
    larger = result["summary"][0]["of_larger"]["side_by_side"]
    return larger <= 1.15, larger


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(SECONDS)}; all if none is given")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "bench", help="folder of the three files")
    options = parser.parse_args()
    if not set(options.parts) <= set(SECONDS):
        parser.error(f"Parts should be among {', '.join(SECONDS)}. Found {' '.join(options.parts)}.")
    if not torch.cuda.is_available():
        print("gpu_check: a CUDA GPU should be visible to PyTorch. Found none.", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    file, found = options.output / "checks_gpu.json", dict[str, tuple[bool, float | None]]()
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    facts = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    kept = before.get("checks", {}) if all(before.get(name) == value for name, value in facts.items()) else {}
    for part in options.parts or SECONDS:
        print(f"{part}: at most {SECONDS[part]} s", flush=True)
        found[CHECKS[part]] = check(part, options.output)
        file.write_text(json.dumps(facts | {"checks": kept | found}, indent=1) + "\n", encoding="utf-8")
    for name, (holds, figure) in found.items():
        print(f"{'holds' if holds else 'FAILS'}: {name} ({'no figure' if figure is None else f'{figure:.3g}'})")
    return 0 if all(holds for holds, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
