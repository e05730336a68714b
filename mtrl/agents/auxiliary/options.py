"""Options of auxiliary learning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from mtrl.agents.base import AgentConfig
from mtrl.core.config import Options, check, option
from mtrl.core.specs import ImageSpec, Spec

METHODS = ("rl", "maxl", "human", "none")


@dataclass
class PPOConfig(Options):
    """Options of the label agent, PPO. The first three are from the paper, which names no others.

    The last four are stable-baselines3's defaults. A rollout has 2,000 images and a mini-batch 100, which are whole
    training batches; stable-baselines3 has 2,048 and 64.
    """

    option_group: ClassVar[str] = "agent.ppo"

    learning_rate: float = option(3e-4, "positive")
    """Adam's learning rate."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy in its loss."""
    features: int = option(256, "a positive integer")
    """Units between the trunk and the policy's outputs."""
    rollout_size: int = option(2000, "a positive integer")
    """Images labelled between two updates of the policy; only whole training batches are rewarded."""
    epochs: int = option(10, "a positive integer")
    """Passes over a rollout."""
    minibatch: int = option(100, "2 or more")
    """Images of a mini-batch."""
    gamma: float = option(0.99, "in [0, 1]")
    """Discount factor γ."""
    gae_lambda: float = option(0.95, "in [0, 1]")
    """λ of the generalised advantage estimate."""
    clip_range: float = option(0.2, "positive")
    """ε: the surrogate gains nothing from ratios beyond 1 ± ε."""


@dataclass
class MAXLConfig(Options):
    """Defaults follow the RL-AUX paper and, where it is silent, MAXL's own paper and its authors' code."""

    option_group: ClassVar[str] = "agent.maxl"

    learning_rate: float = option(1e-3, "positive")
    """SGD's learning rate for the label network, at the start."""
    milestone: int = option(50, "a positive integer")
    """Epochs after each of which the label network's learning rate is multiplied by `decay`."""
    decay: float = option(0.5, "in (0, 1]")
    """See `milestone`; 1 for a constant rate."""
    weight_decay: float = option(5e-4, "0 or more")
    """SGD's weight decay for the label network."""
    inner_rate: float | None = option(None, "positive")
    """α of the main network's trial step; its learning rate if not given."""
    entropy_weight: float = option(0.2, "0 or more")
    """c: weight of the entropy of the mean label probabilities."""


@dataclass
class Config(AgentConfig):
    """Defaults are those of the RL-AUX paper, App. B, where it gives them."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ImageSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("auxiliary",)
    kind: str = "auxiliary"
    method: str = option("rl", METHODS)
    """Who gives auxiliary labels: rl, maxl, human, or none."""
    weight_aware: bool = False
    """Whether rl or maxl also gives each image's weight."""
    batch_size: int = option(100, "a positive integer")
    """B_T: images of a training batch."""
    reward_size: int = option(256, "a positive integer")
    """B_R: images on which the reward is calculated."""
    hierarchy: int = option(5, "a positive integer")
    """ψ: auxiliary classes of each primary class."""
    learning_rate: float = option(0.01, "positive")
    """SGD's learning rate for the main network, at the start of the schedule."""
    momentum: float = option(0.0, "in [0, 1)")
    """SGD's momentum; the paper names none."""
    weight_decay: float = option(0.0, "0 or more")
    """SGD's weight decay; the paper names none."""
    auxiliary_weight: float = option(1.0, "0 or more")
    """λ: weight of the auxiliary loss."""
    focusing: float = option(2.0, "0 or more")
    """γ of the auxiliary focal loss (MAXL's; the paper names none)."""
    primary_focusing: float | None = option(None, "0 or more")
    """γ of the primary focal loss. By default, 2 with method=maxl, as in its authors' code, and 0, which is the
    cross-entropy, with the others. (RL-AUX's published code has 2 throughout; its paper does not name the loss.)"""
    mask_head: bool = False
    """Whether the hierarchy also masks the auxiliary head's softmax, not only the labels."""
    entropy_weight: float = option(1.0, "0 or more")
    """c: weight of the entropy in RL-AUX's reward."""
    entropy_sign: str = option("spread", ("spread", "paper"))
    """spread: reward many labels; paper: the sign as printed, which rewards few."""
    reset_every: str = option("epoch", ("epoch", "batch"))
    """When agent training resets the main network: after each epoch or after each batch."""
    head_width: int = option(512, "0 or more")
    """Hidden units of each head; 0 for a single linear layer."""
    engine: str = option("batched", ("batched", "steps"))
    """How RL-AUX collects labels: batched (a training batch in one forward) or steps (one image a step)."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    maxl: MAXLConfig = field(default_factory=MAXLConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        learned = self.method in ("rl", "maxl")
        check(learned or not self.weight_aware, "agent.weight_aware", "false unless agent.method is rl or maxl", True)
