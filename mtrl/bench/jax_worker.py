"""Runs updates of metaworld-algorithms (see `jax_baselines`), with an interpreter that has JAX and no mtrl.

    python jax_worker.py CHECKOUT '{"tasks": 10, "width": 400, ...}'

The sizes are tasks, batch (of each task), width, depth, observation and action. When it is ready, it writes one line of
JSON with its packages' versions. For each line `joint` or `pcgrad` that it reads, it runs a whole update (sampling,
critics, actor, temperatures, targets) and then writes an empty line.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

METHODS = ("joint", "pcgrad")
ROWS = 2000
"""Random transitions of each task in the replay."""


def make_update(method: str, sizes: dict[str, int]) -> Callable[[], None]:
    """A function that makes one update of multi-head SAC as in the checkout's `examples`.

    It does not clip gradients, since the update of mtrl with which it is compared does not.
    """
    gymnasium, jax, np = (importlib.import_module(name) for name in ("gymnasium", "jax", "numpy"))
    names = ("config.networks", "config.nn", "config.optim", "rl.algorithms")
    networks, nn, optim, algorithms = (importlib.import_module(f"metaworld_algorithms.{name}") for name in names)
    tasks, rows = sizes["tasks"], sizes["tasks"] * sizes["batch"]
    optimizer = optim.PCGradConfig(num_tasks=tasks) if method == "pcgrad" else optim.OptimizerConfig()
    layers = nn.MultiHeadConfig(num_tasks=tasks, width=sizes["width"], depth=sizes["depth"], optimizer=optimizer)
    config = algorithms.MTSACConfig(
        num_tasks=tasks,
        actor_config=networks.ContinuousActionPolicyConfig(network_config=layers),
        critic_config=networks.QValueFunctionConfig(network_config=layers),
    )
    spaces = SimpleNamespace(
        observation_space=gymnasium.spaces.Box(-1, 1, (sizes["observation"] + tasks,)),
        action_space=gymnasium.spaces.Box(-1, 1, (sizes["action"],)),
    )
    agent: Any = algorithms.MTSAC.initialize(config, spaces, seed=0)
    replay = agent.spawn_replay_buffer(spaces, SimpleNamespace(buffer_size=ROWS * tasks), seed=0)
    generator, codes = np.random.default_rng(0), np.eye(tasks)
    for _ in range(ROWS):
        seen, following = (np.hstack([generator.normal(size=(tasks, sizes["observation"])), codes]) for _ in range(2))
        actions, rewards = generator.uniform(-1, 1, (tasks, sizes["action"])), generator.uniform(size=tasks)
        replay.add(seen, following, actions, rewards, np.zeros(tasks))

    def update() -> None:
        nonlocal agent
        agent, _ = agent.update(replay.sample(rows))
        jax.block_until_ready((agent.actor, agent.critic, agent.alpha))

    return update


def main() -> None:
    checkout, sizes = sys.argv[1], json.loads(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the output of libraries out of the answers
    sys.path.insert(0, checkout)
    updates = {method: make_update(method, sizes) for method in METHODS}
    versions = {name: importlib.import_module(name).__version__ for name in ("jax", "flax", "optax")}
    print(json.dumps(versions | {"python": sys.version.split()[0]}), file=answers, flush=True)
    for line in sys.stdin:
        updates[line.strip()]()
        print(file=answers, flush=True)


if __name__ == "__main__":
    main()
