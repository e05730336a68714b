"""stable-baselines3's PPO on one Meta-World task, through the batched engine.

    python examples/stable_baselines3_ppo.py

It needs the extra `aux`. The hand learns to reach a goal; the mean returns before and after training are printed.
"""

from __future__ import annotations

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import mtrl.envs.metaworld  # noqa: F401  (registers mtrl/MT1-v3)
from mtrl.envs.metaworld.sb3 import SB3VecEnv


def learn(task: str = "reach-v3", steps: int = 60_000, copies: int = 10, horizon: int = 150) -> tuple[float, float]:
    """Mean returns of the deterministic policy before and after training."""
    envs = SB3VecEnv(gymnasium.make_vec("mtrl/MT1-v3", task=task, num_envs=copies, max_episode_steps=horizon, seed=1))
    envs.seed(1)
    agent = PPO("MlpPolicy", envs, n_steps=horizon, batch_size=horizon, gamma=0.97, seed=1, device="cpu")
    before, _ = evaluate_policy(agent, envs, n_eval_episodes=2 * copies)
    agent.learn(steps)
    after, _ = evaluate_policy(agent, envs, n_eval_episodes=2 * copies)
    envs.close()
    return float(np.mean(before)), float(np.mean(after))


if __name__ == "__main__":
    before, after = learn()
    print(f"Mean return before training {before:.0f}, after {after:.0f}")
