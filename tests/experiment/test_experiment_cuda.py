"""Every training loop on a GPU, from the command line to a policy that acts on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtrl import cli, load_policy
from tests.support.tiny_runs import TINY, run_folder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SMALL = ["network.width=8", "network.depth=1", "training.final_episodes=2", "video=false", "device=cuda"]
OFF_POLICY = [*TINY, "device=cuda"]
IMAGES = ["network=conv", "agent.batch_size=8", "steps=400"]
RUNS: dict[str, list[str]] = {
    "sac": [*OFF_POLICY, "surgery=pcgrad", "agent.n_step=2", "agent.value_head=hl_gauss", "agent.popart=true"],
    "sac-compiled": [*OFF_POLICY, "surgery=pcgrad", "agent.execution=compiled"],
    "td3": [*OFF_POLICY, "agent=td3", "weighting=auto_lambda", "agent.normalise_observations=per_task"],
    "ppo": [
        "benchmark=toy", "agent=ppo", "training=on_policy", "surgery=pcgrad", "training.envs_per_task=3",
        "training.rollout_steps=8", "agent.minibatches=2", "agent.normalise_rewards=true", "steps=240", *SMALL,
    ],
    "supervised": ["benchmark=digit_domains", "surgery=pcgrad", *IMAGES, *SMALL],
    "auxiliary": ["benchmark=digits", "agent=auxiliary", "agent.method=maxl", *IMAGES, *SMALL],
}  # fmt: skip


def observations(kind: str) -> Any:
    """A few of what the run's policy is given."""
    random = np.random.default_rng(0)
    if kind in ("supervised", "auxiliary"):
        return random.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    return random.normal(size=(5, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.usefixtures("elsewhere")
def test_a_run_on_a_gpu_leaves_a_policy_that_acts_the_same_on_a_cpu(kind: str) -> None:
    assert cli.main(["train", *RUNS[kind]]) == 0
    on_gpu, on_cpu = (load_policy(run_folder(), device) for device in ("cuda", "cpu"))
    seen = observations(kind)
    for task in on_cpu.tasks:
        assert np.allclose(on_gpu.act(seen, task), on_cpu.act(seen, task), atol=1e-4)
