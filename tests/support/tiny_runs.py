"""The smallest run from the command line, and what it leaves."""

from __future__ import annotations

from pathlib import Path

TINY = [
    "benchmark=toy", "network.width=8", "network.depth=1", "agent.batch_size=4", "steps=60", "device=cpu",
    "training.learning_starts=10", "training.log_every=20", "training.final_episodes=2", "training.checkpoint_every=30",
]  # fmt: skip


def run_folder() -> Path:
    return next(Path("runs").glob("*/*/seed_*"))


def files(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"}
