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

    `epochs` and the last three are stable-baselines3's defaults. A rollout has 2,000 images and a minibatch 100, which
    are whole training batches; stable-baselines3 has 2,048 and 64.
    """

    option_group: ClassVar[str] = "agent.ppo"

    learning_rate: float = option(3e-4, "positive")
    """Adam's learning rate."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy bonus."""
    features: int = option(256, "a positive integer")
    """Units of the hidden layer between the trunk and the outputs of policy and value."""
    rollout_size: int = option(2000, "a positive integer")
    """Images labelled between two updates of the policy: rounded up to whole training batches, and at most an epoch."""
    epochs: int = option(10, "a positive integer")
    """Passes over a rollout in an update of the policy."""
    minibatch: int = option(100, "2 or more")
    """Images per minibatch."""
    gamma: float = option(0.99, "in [0, 1]")
    """Discount factor γ."""
    gae_lambda: float = option(0.95, "in [0, 1]")
    """λ of generalised advantage estimation."""
    clip_range: float = option(0.2, "positive")
    """ε: probability ratios are clipped to [1 − ε, 1 + ε]."""


@dataclass
class MAXLConfig(Options):
    """Options of MAXL. Defaults follow the RL-AUX paper and, where it is silent, MAXL's paper and its authors' code."""

    option_group: ClassVar[str] = "agent.maxl"

    learning_rate: float = option(1e-3, "positive")
    """Initial learning rate of SGD for the label network."""
    milestone: int = option(50, "a positive integer")
    """Epochs between two reductions of the label network's learning rate."""
    decay: float = option(0.5, "in (0, 1]")
    """Factor by which the label network's learning rate is multiplied every `milestone` epochs."""
    weight_decay: float = option(5e-4, "0 or more")
    """SGD's weight decay for the label network."""
    inner_rate: float | None = option(None, "positive")
    """α: step size of the main network's trial step; its current learning rate if not given."""
    entropy_weight: float = option(0.2, "0 or more")
    """c: weight of the entropy of the mean label probabilities."""


@dataclass
class Config(AgentConfig):
    """Options of auxiliary learning. Defaults are those of the RL-AUX paper, App. B, where it gives them."""

    specs: ClassVar[tuple[type[Spec], ...]] = (ImageSpec,)
    trainings: ClassVar[tuple[str, ...]] = ("auxiliary",)
    kind: str = "auxiliary"
    method: str = option("rl", METHODS)
    """Source of the auxiliary labels: rl (RL-AUX), maxl (MAXL), human (from the data set) or none."""
    weight_aware: bool = False
    """Whether rl or maxl also gives the weight of each image's auxiliary loss."""
    batch_size: int = option(100, "a positive integer")
    """B_T: images per training batch."""
    reward_size: int = option(256, "a positive integer")
    """B_R: images from which a reward is computed."""
    hierarchy: int = option(5, "a positive integer")
    """ψ: auxiliary classes per primary class."""
    learning_rate: float = option(0.01, "positive")
    """Initial learning rate of SGD for the main network."""
    momentum: float = option(0.0, "in [0, 1)")
    """SGD's momentum. The paper does not name one."""
    weight_decay: float = option(0.0, "0 or more")
    """SGD's weight decay. The paper does not name one."""
    auxiliary_weight: float = option(1.0, "0 or more")
    """λ: weight of the auxiliary loss."""
    focusing: float = option(2.0, "0 or more")
    """γ of the auxiliary focal loss. The default is MAXL's, since the paper does not name it."""
    primary_focusing: float | None = option(None, "0 or more")
    """γ of the primary focal loss; 0 is the cross-entropy. By default, it is 2 with method=maxl, as in its authors'
    code, and 0 with the others. (RL-AUX's published code always has 2; its paper does not name the loss.)"""
    mask_head: bool = False
    """Whether the hierarchy masks not only the labels but also the auxiliary head's softmax."""
    entropy_weight: float = option(1.0, "0 or more")
    """c: weight of the entropy in RL-AUX's reward."""
    entropy_sign: str = option("spread", ("spread", "paper"))
    """Sign of the reward's entropy: spread rewards diverse labels; paper, the printed sign, rewards equal labels."""
    reset_every: str = option("epoch", ("epoch", "batch"))
    """When label training resets the main network: after each epoch or after each batch."""
    head_width: int = option(512, "0 or more")
    """Hidden units of each head; 0 for a single linear layer."""
    engine: str = option("batched", ("batched", "steps"))
    """How RL-AUX collects labels: batched (a training batch in one forward pass) or steps (one image per step)."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    maxl: MAXLConfig = field(default_factory=MAXLConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        learned = self.method in ("rl", "maxl")
        check(learned or not self.weight_aware, "agent.weight_aware", "false unless agent.method is rl or maxl", True)
