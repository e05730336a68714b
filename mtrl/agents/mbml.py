"""MBML: a teacher learns from each task's data set, and all are distilled into one policy that infers its task.

Li, Vuong, Liu, Liu, Ciosek, Christensen & Su 2020 ("Multi-task Batch Reinforcement Learning with Metric Learning").
The first updates train the teachers (`bcq`, one for each task, nothing shared) and for each task an ensemble that
predicts its rewards. The later updates train the student: an encoder, which infers a task's code from a set of
transitions, and a critic, a generator of actions and a network that perturbs them, which get the code as an input.
Transitions of other tasks are relabelled with the rewards that the task's ensemble predicts, where its members agree.
The triplet loss moves the code of relabelled transitions towards the task's code, and away from the code that they
have with their own rewards. So the encoder cannot infer the task from states and actions alone.

As in the published code, distances in the triplet loss are KL divergences between posteriors, and an ensemble agrees
where its predictions have a small standard deviation. Unlike that code, an update may relabel transitions of only some
other tasks (`negatives`), all networks have the width and depth of `network`, and one optimiser updates both encoder
and critic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mtrl.agents import bcq
from mtrl.agents.bcq import BCQ, best_of
from mtrl.agents.off_policy import Draw
from mtrl.agents.posteriors import Gaussian, as_rows, divergence, encoder, factors_of, product, triplet_loss
from mtrl.core.config import option
from mtrl.core.errors import expected
from mtrl.core.specs import ControlSpec
from mtrl.core.subset import ALL_TASKS, TaskSubset
from mtrl.core.types import Metrics, Tensors, Transitions
from mtrl.gradients import Methods
from mtrl.networks import NETWORKS, Factory, TaskNetwork, independent


@dataclass
class Config(bcq.Config):
    kind: str = "mbml"
    normalise_observations: str = option("none", ("none", "shared"))
    """Normalise observations as in other agents: none or shared. Unseen tasks have no statistics for per_task."""
    teacher_updates: int = option(10_000, "a positive integer")
    """Updates of the teachers and reward ensembles. The student's updates follow."""
    context_size: int = option(64, "2 or more")
    """K: transitions from which an update infers a task's code."""
    code_size: int = option(20, "a positive integer")
    """Z: length of a task's code."""
    inference: bool = True
    """Whether codes are inferred. If not, all tasks have the same code."""
    triplet_weight: float = option(1.0, "0 or more")
    """Weight of the triplet loss; 0 for none."""
    triplet_margin: float = option(2.0, "0 or more")
    """m: by how much the anchor's divergence from the negative should exceed that from the positive."""
    relabelling: bool = True
    """Whether a task is also inferred from up to K relabelled transitions of other tasks."""
    negatives: int | None = option(None, "a positive integer")
    """J: the number of other tasks whose transitions an update relabels for each task; all if not given."""
    prior_weight: float = option(0.1, "0 or more")
    """β: weight of the KL divergence of codes from a standard normal."""
    reward_ensemble: int = option(5, "2 or more")
    """Members of each task's ensemble, which predict rewards from states and actions (the paper: 20)."""
    reward_agreement: float = option(0.1, "positive")
    """Limit below which the standard deviation of an ensemble's predictions counts as agreement."""

    @property
    def rows(self) -> int:
        return self.batch_size + self.context_size


class Contexts(NamedTuple):
    """The sets of transitions in an update. A transition [s, a, s', r] is a row of C numbers."""

    own: Tensor
    """(T, K, C): the task's own transitions."""
    others: Tensor
    """(T, J, K, C): transitions of J other tasks, with their own rewards."""
    relabelled: Tensor
    """(T, J, K, C): the same transitions, with the rewards that the task's ensemble predicts."""
    agreed: Tensor
    """(T, J, K): 1 where the ensemble agrees, 0 elsewhere."""
    added: Tensor
    """(T, K, C): random relabelled transitions on which the ensemble agrees, filled up with others if fewer than K."""
    is_added: Tensor
    """(T, K): 1 where the ensemble agrees on a transition in `added`, 0 elsewhere."""


class StudentBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    action: Tensor
    """(T, B, A)"""
    value: Tensor
    """(T, B): the teacher's value of the action."""
    contexts: Contexts
    noise: Tensor
    """(T, Z): standard normal, for drawing codes."""


class PolicyBatch(NamedTuple):
    observation: Tensor
    """(T, B, O)"""
    latent: Tensor
    """(T, B, L)"""
    action: Tensor
    """(T, B, A): the actions that the teacher generates from the latents."""
    change: Tensor
    """(T, B, A): the teacher's perturbations of these in [-1, 1], before they are multiplied by Φ."""
    code: Tensor
    """(T, Z)"""


class InferringCritic(nn.Module):
    """forward(transitions (.., C)) -> (.., 2 Z): their factors of the posterior. forward(s, a) -> (.., 1): Q."""

    def __init__(self, encoder: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.encoder, self.critic = encoder, critic

    def forward(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        return self.encoder(x) if action is None else self.critic(torch.cat([x, action], -1))


class Generator(nn.Module):
    """forward(s, latent, a) -> (.., 2 A): the action decoded from the latent, and the perturbation of the action a.

    Without a, the second is the perturbation of the decoded action.
    """

    def __init__(self, decoder: nn.Module, perturbation: nn.Module) -> None:
        super().__init__()
        self.decoder, self.perturbation = decoder, perturbation

    def forward(self, observation: Tensor, latent: Tensor, action: Tensor | None = None) -> Tensor:
        made = self.decoder(torch.cat([observation, latent], -1)).tanh()
        change = self.perturbation(torch.cat([observation, made if action is None else action], -1)).tanh()
        return torch.cat([made, change], -1)


class MBML(BCQ):
    """Teachers and student. Weighting and surgery act only on the student, since teachers share nothing."""

    acting: ClassVar[tuple[str, ...]] = ("student", "generator_network", "observation_normalisation")
    infers_task: ClassVar[bool] = True
    counting: ClassVar[tuple[str, ...]] = ("critic_optimizer", "student_optimizer")

    def __init__(self, config: Config, *, network: Any, methods: Methods, spec: ControlSpec, **context: Any) -> None:
        """network: the student's. The teachers have its width, depth, normalisation and activation. Raises `UserError`
        if it tells tasks apart by more than a code, or if there is only one task."""
        shape = {name: getattr(network, name) for name in ("width", "depth", "layer_norm", "activation")}
        alone, plain = independent.Config(**shape), Methods(tasks=methods.tasks)
        super().__init__(config, network=alone, methods=plain, spec=spec, **context)
        if spec.num_tasks < 2:
            raise expected("The tasks of agent=mbml", "at least two", spec.num_tasks)
        states, actions, tasks = spec.observation_size, spec.action_size, spec.num_tasks
        rewards = NETWORKS.build(alone, input_size=states + actions, output_size=1)
        self.rewards = TaskNetwork(rewards, tasks, config.reward_ensemble).to(self.device)
        self.reward_optimizer = self._optimizer(plain, self.rewards, "critic")

        def build(inputs: int, outputs: int) -> Factory:
            return NETWORKS.build(network.for_goals(), input_size=inputs, output_size=outputs)

        encode = encoder(network, 2 * states + actions + 1, 2 * config.code_size)
        critic, decode = build(states + actions, 1), build(states + self.latent_size, actions)
        perturb = build(states + actions, actions)
        codes = torch.zeros(tasks, config.code_size)
        student = TaskNetwork(lambda code: InferringCritic(encode(), critic(code)), tasks, codes=codes)
        generator = TaskNetwork(lambda code: Generator(decode(code), perturb(code)), tasks, codes=codes)
        if not student.known_by_code_alone:
            what = "one that tells tasks apart only by a code, as mlp, concat_all, film and mint do"
            raise expected("Option `network` with agent=mbml", what, network.kind)
        self.student, self.generate = student.to(self.device), generator.to(self.device)
        self.student_optimizer = self._optimizer(methods, self.student, "critic")
        self.generate_optimizer = self._optimizer(methods, self.generate, "actor", critic=self.student_optimizer)
        self.execution = self._choose_execution(self.optimizers)

    def _runner(self, draw: Draw) -> Callable[[int], Metrics]:
        """The first `teacher_updates` updates are the teachers', and all later ones the student's."""
        teach = self._executed(lambda: self._take(self._teach, *draw()))
        distil = self._executed(lambda: self._take(self._distil, *draw()))
        first = self.config.teacher_updates  # the index of the student's first update
        return lambda count: [(teach if self._updates + k < first else distil)(1) for k in range(count)][-1]

    def equations(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        teaching = self._updates < self.config.teacher_updates
        return (self._teach if teaching else self._distil)(batches, subset)

    def _teach(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """One update of the teachers and the reward ensembles."""
        parts: list[Any] = [batch.map(lambda part: part[:, : self.config.batch_size]) for batch in batches]
        metrics = super().equations(parts, subset)
        found = self.reward_optimizer.step(self.reward_losses, *parts, subset=subset)
        return metrics | {f"reward/{name}": value for name, value in found.items()}

    def reward_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: Transitions
    ) -> tuple[Tensor, Metrics]:
        """Σ_m mean_B (R_m(s, a) − r)², (T,)."""
        rewards = self.rewards.call(shared, own, own_buffers, torch.cat([batch.observation, batch.action], -1))
        return (rewards.squeeze(-1) - batch.reward).square().mean(-1).sum(0), {}

    def _distil(self, batches: Sequence[Transitions], subset: TaskSubset) -> Metrics:
        """One step of the encoder and critic, then one of the student's policy with the codes drawn in the first."""
        size = self.config.batch_size
        parts: list[Any] = [
            self.student_batch(b.map(lambda x: x[:, :size]), b.map(lambda x: x[:, size:])) for b in batches
        ]
        found = self.student_optimizer.step(self.student_losses, *parts, subset=subset)
        code = found.pop("code")
        policies: list[Any] = [self.policy_batch(part.observation, code) for part in parts]
        made = self.generate_optimizer.step(self.policy_losses, *policies, subset=subset)
        metrics = {f"student/{name}": value for name, value in found.items()}
        return metrics | {f"policy/{name}": value for name, value in made.items()}

    @torch.no_grad()
    def student_batch(self, batch: Transitions, context: Transitions) -> StudentBatch:
        """A batch for the student: it imitates teachers on `batch` (T, B, ..); `context` (T, K, ..) gives the codes."""
        pairs = torch.cat([batch.observation, batch.action], -1)
        value = self.head.value(self.critic(pairs), ALL_TASKS)[0]
        noise = torch.randn(self.num_tasks, self.config.code_size, device=self.device, generator=self.generator)
        return StudentBatch(batch.observation, batch.action, value, self.contexts(context), noise)

    @torch.no_grad()
    def contexts(self, context: Transitions) -> Contexts:
        """Relabel for task t the transitions of tasks (t + k) mod T, for J random k. `context`: (T, K, ..)."""
        own, tasks = as_rows(context), self.num_tasks
        count = min(self.config.negatives or tasks - 1, tasks - 1)
        draw = {"device": self.device, "generator": self.generator}
        steps = torch.rand(tasks - 1, **draw).argsort()[:count] + 1
        others = own[(torch.arange(tasks, device=self.device).unsqueeze(-1) + steps) % tasks]  # (T, J, K, C)
        pairs = others[..., : context.observation.shape[-1] + self.action_size]
        predicted = self.rewards(pairs.flatten(1, 2)).squeeze(-1).unflatten(-1, others.shape[1:3])
        relabelled = torch.cat([others[..., :-1], predicted.mean(0).unsqueeze(-1)], -1)
        agreed = (predicted.std(0) < self.config.reward_agreement).to(own)
        chance = torch.rand(agreed.flatten(1).shape, **draw) * agreed.flatten(1)
        best = chance.topk(own.shape[1], -1)
        index = best.indices.unsqueeze(-1).expand(-1, -1, own.shape[-1])
        added = relabelled.flatten(1, 2).gather(1, index)
        return Contexts(own, others, relabelled, agreed, added, (best.values > 0).to(own))

    def student_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: StudentBatch
    ) -> tuple[Tensor, Metrics]:
        """mean_B (Q(s, a, z) − Q_teacher(s, a))² + β KL(q(z | context) ‖ N(0, 1)) + w mean_J triplet loss, (T,), where
        w is `triplet_weight`. Without `inference`, only the first term remains."""
        config, contexts = self.config, batch.contexts

        def encode(rows: Tensor) -> Gaussian:
            return factors_of(self.student.call(shared, own, own_buffers, rows.flatten(1, -2)), rows.shape[:-1])

        code, losses, found = torch.zeros_like(batch.noise), torch.zeros_like(batch.value[:, 0]), dict[str, Tensor]()
        if config.inference:
            factors = encode(contexts.own)
            posterior = product(factors)
            if config.relabelling:
                both = (torch.cat(pair, 1) for pair in zip(factors, encode(contexts.added), strict=True))
                posterior = product(
                    Gaussian(*both), torch.cat([torch.ones_like(contexts.is_added), contexts.is_added], 1)
                )
            code = posterior.mean + posterior.variance.sqrt() * batch.noise
            standard = Gaussian(torch.zeros_like(posterior.mean), torch.ones_like(posterior.variance))
            losses = config.prior_weight * divergence(posterior, standard)
            if config.triplet_weight:
                found["triplets"] = self._triplets(encode, factors, contexts)
                losses = losses + config.triplet_weight * found["triplets"]
        q = self.student.call(shared, own, self.student.coded(code), batch.observation, batch.action).squeeze(-1)
        error = (q - batch.value).square().mean(-1)
        found |= {"distillation": error, "agreed": contexts.agreed.mean((1, 2)), "code": code}
        return losses + error, {name: value.detach() for name, value in found.items()}

    def _triplets(self, encode: Callable[[Tensor], Gaussian], factors: Gaussian, contexts: Contexts) -> Tensor:
        """Mean triplet losses (T,). Anchors: relabelled transitions on which the ensemble agrees. Negatives: these
        with their own rewards. Positives: an equal number of the task's own transitions."""
        count = contexts.agreed.sum(-1, keepdim=True)  # (T, J, 1)
        first = (torch.arange(contexts.own.shape[1], device=count.device) < count).to(count)
        positive = product(Gaussian(*(factor.unsqueeze(1) for factor in factors)), first)
        anchor = product(encode(contexts.relabelled), contexts.agreed)
        negative = product(encode(contexts.others), contexts.agreed)
        losses = triplet_loss(anchor, positive, negative, self.config.triplet_margin)
        return (losses * (count.squeeze(-1) > 0)).mean(-1)

    @torch.no_grad()
    def policy_batch(self, observation: Tensor, code: Tensor) -> PolicyBatch:
        """Actions and perturbations of the teachers for observations (T, B, O), and the codes (T, Z)."""
        latent = self.latents(observation.shape[:-1])
        action = self.vae(observation, latent)
        change = self.actor(torch.cat([observation, action], -1)).tanh()
        return PolicyBatch(observation, latent, action, change, code)

    def policy_losses(
        self, shared: Tensors, own: Tensors, own_buffers: Tensors, batch: PolicyBatch
    ) -> tuple[Tensor, Metrics]:
        """The sum of the mean squared errors of generated actions and of their perturbations, (T,)."""
        inputs = (batch.observation, batch.latent, batch.action)
        output = self.generate.call(shared, own, self.generate.coded(batch.code), *inputs)
        action, change = output.chunk(2, -1)
        return ((action - batch.action).square() + (change - batch.change).square()).mean((1, 2)), {}

    @torch.no_grad()
    def infer(self, context: Transitions) -> Gaussian:
        """Distributions of codes (U, Z) given transitions (U, M, ..) of U new or known tasks; 0 without `inference`."""
        rows = as_rows(self.prepare(context.map(lambda part: part.to(self.device, torch.float32))))
        found = product(factors_of(self._call(self.student, None, rows), rows.shape[:-1]))
        return found if self.config.inference else Gaussian(found.mean * 0, found.variance * 0)

    @torch.no_grad()
    def act_on(self, observation: Tensor, code: Tensor, latents: Tensor | None = None) -> Tensor:
        """Actions (U, N, A) for observations (U, N, O) of tasks with codes (U, Z): the best of n by the critic.

        latents (n, L): what actions are generated from; the same in every call if not given.
        """
        n, latents = self.config.candidates, self._fixed if latents is None else latents
        observation = self._normalised("observation", observation.to(self.device, torch.float32))
        repeated = observation.repeat_interleave(n, -2)
        latent = latents.repeat(observation.shape[-2], 1).expand(*repeated.shape[:-1], -1)
        action, change = self._call(self.generate, code, repeated, latent).chunk(2, -1)
        action = (action + self.config.perturbation * change).clamp(-1, 1)
        return best_of(action, self._call(self.student, code, repeated, action).squeeze(-1), n)

    @torch.no_grad()
    def value(self, observation: Tensor, action: Tensor, code: Tensor) -> Tensor:
        """The student's Q(s, a, z), (U, B), for observations (U, B, O), actions (U, B, A) and codes (U, Z)."""
        observation = self._normalised("observation", observation.to(self.device, torch.float32))
        return self._call(self.student, code, observation, action).squeeze(-1)

    def _call(self, network: TaskNetwork, code: Tensor | None, *inputs: Tensor) -> Tensor:
        """The output of a network of the student for U tasks, new or known, with codes (U, Z) or zeros."""
        code = torch.zeros(len(inputs[0]), self.config.code_size, device=self.device) if code is None else code
        present = [part.to(self.device) for part in inputs]
        return network.call(network.tensors[0], {}, network.coded(code.to(self.device)), *present)

    def act(self, observation: Tensor, explore: bool, subset: TaskSubset = ALL_TASKS) -> Tensor:
        """Actions (T, N, A) without any inference, with the prior's mean as the code of every task."""
        latents = self.latents((self.config.candidates,)) if explore else None
        code = torch.zeros(len(observation), self.config.code_size, device=self.device)
        return self.act_on(observation, code, latents)

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"rewards": self.rewards, "student": self.student, "generator_network": self.generate}
        for name in ("reward", "student", "generate"):
            one = getattr(self, f"{name}_optimizer")
            parts |= {f"{name}_method": one, f"{name}_optimizer": one.optimizer}
        return super()._parts() | parts


def build(config: Config, **context: Any) -> MBML:
    return MBML(config, **context)
