"""PPO on single tasks of Gymnasium against stable-baselines3's PPO with the same settings."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from mtrl import experiment

SEEDS = (1, 2, 3)
EPISODES = 20
COPIES, ROLLOUT, EPOCHS, RATE = 4, 512, 10, 1e-3


def ours(name: str, gamma: float, steps: int, seed: int) -> float:
    """The mean return of the deterministic policy after `steps` steps in all."""
    config = experiment.compose([
        "benchmark=gymnasium", f"benchmark.ids=[{name}]", "agent=ppo", "training=on_policy", f"seed={seed}",
        f"steps={steps}", "network.width=64", "network.depth=2", "network.activation=tanh", "agent.max_std=1.5",
        "agent.final_max_std=1.5", "agent.initial_std=1.0", "agent.advantage_scale=present", f"agent.gamma={gamma}",
        f"agent.learning_rate={RATE}", f"agent.epochs={EPOCHS}", "agent.minibatches=32", "agent.target_kl=null",
        f"training.envs_per_task={COPIES}", f"training.rollout_steps={ROLLOUT}",
    ])  # fmt: skip
    trainer = experiment.Experiment(config).trainer.start()
    while trainer.step < steps:
        trainer.advance()
    trainer.close()
    return float(trainer.evaluate(EPISODES, "goals").per_task["return"].mean())


def theirs(name: str, gamma: float, steps: int, seed: int) -> float:
    envs = make_vec_env(name, COPIES, seed=seed)
    settings = {"n_steps": ROLLOUT, "n_epochs": EPOCHS, "batch_size": COPIES * ROLLOUT // 32, "gamma": gamma}
    model = PPO("MlpPolicy", envs, learning_rate=RATE, seed=seed, device="cpu", **settings).learn(steps)
    mean, _ = evaluate_policy(model, make_vec_env(name, 1, seed=seed + 100), EPISODES)
    envs.close()
    return float(np.mean(mean))


def interval(returns: list[float]) -> tuple[float, float]:
    """Mean ± two standard errors over seeds."""
    error = 2 * float(np.std(returns, ddof=1)) / len(returns) ** 0.5
    return float(np.mean(returns)) - error, float(np.mean(returns)) + error


@pytest.mark.parity
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "gamma", "steps"), [("Pendulum-v1", 0.9, 100_000), ("InvertedPendulum-v5", 0.99, 60_000)]
)
def test_it_reaches_what_stable_baselines3_reaches(name: str, gamma: float, steps: int) -> None:
    assert gymnasium.spec(name).max_episode_steps is not None
    mine = [ours(name, gamma, steps, seed) for seed in SEEDS]
    peer = [theirs(name, gamma, steps, seed) for seed in SEEDS]
    print(f"{name} after {steps} steps, seeds {SEEDS}: ours {mine}, stable-baselines3 {peer}")
    assert interval(mine)[1] >= interval(peer)[0], (mine, peer)
