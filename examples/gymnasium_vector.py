"""Meta-World's tasks as one gymnasium vector environment, in the style of CleanRL's loops.

    python examples/gymnasium_vector.py

Any library that takes a `gymnasium.vector.VectorEnv` can use it. Here scripted policies act, so that tasks are solved;
put your agent in place of `act`.
"""

from __future__ import annotations

import time
import warnings

import gymnasium
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

import mtrl.envs.metaworld  # noqa: F401  (registers mtrl/MT1-v3, mtrl/MT10-v3, mtrl/MT25-v3 and mtrl/MT50-v3)

COPIES, STEPS = 4, 500


def main() -> None:
    envs = gymnasium.make_vec("mtrl/MT10-v3", num_envs=10 * COPIES, seed=1)
    tasks = envs.unwrapped.tasks  # pyright: ignore[reportAttributeAccessIssue]
    policies = [ENV_POLICY_MAP[task]() for task in np.repeat(tasks, COPIES)]

    def act(observations: np.ndarray) -> np.ndarray:
        actions = [policy.get_action(row) for policy, row in zip(policies, observations, strict=True)]
        return np.clip(actions, -1, 1).astype(np.float32)

    observations, _ = envs.reset(seed=1)
    solved, returns, seconds = np.zeros(envs.num_envs, bool), np.zeros(envs.num_envs), 0.0
    for _ in range(STEPS):
        actions = act(observations)
        begin = time.perf_counter()
        observations, rewards, _, _, infos = envs.step(actions)
        seconds += time.perf_counter() - begin
        # A replay buffer stores infos["final_obs"] as the successor where an episode has ended, not `observations`.
        solved |= infos["success"] > 0
        returns += rewards
    envs.close()
    shares, means = (values.reshape(-1, COPIES).mean(1) for values in (solved, returns))
    for task, share, mean in zip(tasks, shares, means, strict=True):
        print(f"{task:28s} solved by {share:.0%} of the copies, mean return {mean:,.0f}")
    print(f"{STEPS * len(solved) / seconds:,.0f} environment steps per second")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
