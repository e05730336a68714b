"""The gradient methods of a learner, and the checks that they fit together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from mtrl.core.config import check, typed_as
from mtrl.core.errors import expected
from mtrl.core.registry import unknown_kind
from mtrl.core.types import TaskParameters
from mtrl.gradients.base import (
    Context,
    Diagnostic,
    DiagnosticConfig,
    SurgeryConfig,
    Weighting,
    WeightingConfig,
    declared,
    primary_tasks,
)
from mtrl.gradients.diagnostics import DIAGNOSTICS
from mtrl.gradients.optimizer import MultiTaskOptimizer
from mtrl.gradients.surgery import SURGERIES
from mtrl.gradients.surgery import none as no_surgery
from mtrl.gradients.trial import check_begun, try_out
from mtrl.gradients.weightings import WEIGHTINGS, equal

V = TypeVar("V")


class Borrowed(Weighting):
    """Takes the weights that the critic's optimiser has used in the same update."""

    borrowed = True
    takes_some_tasks = True

    def __init__(self, source: MultiTaskOptimizer) -> None:
        super().__init__()
        self._source = [source]  # in a list, so that it is no part of this module's state

    def weights(self, context: Context) -> Tensor:
        return self._source[0].last_weights


@dataclass(frozen=True)
class Methods:
    """The configurations of a learner's gradient methods, from which each of its networks gets an optimiser."""

    weighting: Any = field(default_factory=equal.Config)
    surgery: Any = field(default_factory=no_surgery.Config)
    critic_weighting: Any = None
    """The critics' weighting and surgery, where they differ from the actor's."""
    critic_surgery: Any = None
    diagnostics: Sequence[Any] = ()
    tasks: Sequence[str] = ()
    """The tasks' names, for `primary=[...]`."""
    tasks_per_batch: int | None = None
    """S, the number of tasks in each batch; None if each batch holds all."""
    process_group: Any = None
    """The `torch.distributed` processes that learn together; only this one if not given."""

    @classmethod
    def of(cls, kind: str = "none", **more: Any) -> Methods:
        """One weighting or surgery by its name, with its defaults. If it requires primary tasks, task 0 is primary.

        more: the other fields of this class.

        Raises:
            UserError: there is no such method.
        """
        if kind in WEIGHTINGS.kinds:
            return cls(weighting=WEIGHTINGS.config_class(kind)(), **more)
        if kind not in SURGERIES.kinds:
            raise unknown_kind("weighting or surgery", sorted({*WEIGHTINGS.kinds, *SURGERIES.kinds}), kind)
        config = SURGERIES.config_class(kind)()
        if declared(config, SurgeryConfig).requires_primary:
            config.primary = ["0"]
        return cls(surgery=config, **more)

    def optimizer(
        self,
        network: TaskParameters,
        optimizer: torch.optim.Optimizer,
        *,
        part: str | None = None,
        critic: MultiTaskOptimizer | None = None,
        extras: Collection[str] = (),
        single: bool = False,
        **options: Any,
    ) -> MultiTaskOptimizer:
        """The optimiser of one network.

        Args:
            part: "actor" or "critic" of a learner with both; None for a learner with one network. An actor's losses may
                be negative.
            critic: the critic's optimiser, whose weights the actor may use.
            extras: the names of the `Context.extras` that the learner gives to weightings.
            single: whether this network is none of the learner's several critics. Then `surgery.per_critic` is allowed,
                without effect.
            options: arguments of `MultiTaskOptimizer`: reduction, max_grad_norm, generator, process_group.

        Raises:
            UserError: the methods cannot be used together, or with this network.
        """
        owned = {"weighting": self.critic_weighting, "surgery": self.critic_surgery} if part == "critic" else {}
        with typed_as({group: f"critic_{group}" for group, config in owned.items() if config is not None}):
            return self._optimizer(network, optimizer, part, critic, extras, single, **options)

    def _optimizer(
        self,
        network: TaskParameters,
        optimizer: torch.optim.Optimizer,
        part: str | None,
        critic: MultiTaskOptimizer | None,
        extras: Collection[str],
        single: bool,
        **options: Any,
    ) -> MultiTaskOptimizer:
        weighting, surgery = self._chosen(part)
        weights = self._weighting(weighting, network.num_tasks, part, critic)
        if self.critic_weighting is not None and part == "actor":
            what = "equal or one that the actor does use, with a critic_weighting"
            used = weighting.kind == "equal" or not isinstance(weights, Borrowed | equal.Equal)
            check(used, "weighting", what, weighting.kind)
        for name in weights.needs_extras:
            if name not in extras:
                use = f"used by an agent that has {name}, like sac"
                raise expected(f"Weighting {weighting.kind}", use, "an agent without it")
        num_tasks = self.tasks_per_batch or network.num_tasks
        operation = SURGERIES.build(surgery, num_tasks=num_tasks)
        each_member = declared(surgery, SurgeryConfig).each_member()
        if each_member and part != "actor" and not single:
            check(network.ensemble is not None, "surgery.per_critic", "false without several critics", each_member)
        try_out(surgery.kind, operation, num_tasks, network.ensemble if each_member else None)
        diagnostics = [DIAGNOSTICS.build(c, num_tasks=network.num_tasks, part=part) for c in self.diagnostics]
        watching: list[Diagnostic] = [diagnostic for diagnostic in diagnostics if diagnostic is not None]
        if self.tasks_per_batch is not None:
            fits = {f"Weighting {weighting.kind}": weights.takes_some_tasks}
            fits |= {f"Surgery {surgery.kind}": operation.takes_some_tasks, "A diagnostic": not watching}
            for name in (name for name, fit in fits.items() if not fit):
                raise expected(name, "used where every batch holds all tasks", f"{self.tasks_per_batch} of them")
        return MultiTaskOptimizer(
            network,
            optimizer,
            weights,
            operation,
            per_member=each_member,
            primary=self._primary(weighting, surgery, network.num_tasks),
            diagnostics=watching,
            **{"process_group": self.process_group, **options},
        )

    def primary(self) -> list[int] | None:
        """The indexes of the primary tasks that the methods' options name; None if they name none."""
        parts = {"weighting": WeightingConfig, "surgery": SurgeryConfig}
        for option, base in parts.items():
            for name in (option, f"critic_{option}"):
                config = getattr(self, name)
                if config is not None and (chosen := declared(config, base).primary_tasks()):
                    count = len(self.tasks) or 1 + max((int(task) for task in chosen if task.isdecimal()), default=0)
                    mask = primary_tasks(f"{name}.primary", chosen, self.tasks, count)
                    return mask.nonzero().flatten().tolist()
        return None

    def affinities(self, metrics: Mapping[str, V]) -> dict[str, V]:
        """{network: affinities (T, T)} among the metrics of an update. A learner's only network is named "all"."""
        names = {declared(config, DiagnosticConfig).affinity for config in self.diagnostics}
        places = {name: name.rpartition("/") for name in metrics}
        return {place[0] or "all": metrics[name] for name, place in places.items() if place[2] in names}

    def refuse(self, learner: str) -> None:
        """Check that no method is chosen, for a learner that cannot use any.

        Raises:
            UserError: a method is chosen; the message names its option.
        """
        plain = {"weighting": "equal", "surgery": "none", "critic_weighting": None, "critic_surgery": None}
        for option, usual in plain.items():
            config = getattr(self, option)
            found = None if config is None else config.kind
            check(found == usual, option, f"{usual or 'left out'} for {learner}", found)
        kinds = [config.kind for config in self.diagnostics]
        check(not kinds, "diagnostics", f"left out for {learner}", kinds)

    def _chosen(self, part: str | None) -> tuple[Any, Any]:
        """The configurations of weighting and surgery for a part."""
        for option, config in (("critic_weighting", self.critic_weighting), ("critic_surgery", self.critic_surgery)):
            if part is None and config is not None:
                raise expected(f"Option `{option}`", "left out for an agent with one network", config.kind)
        if part != "critic":
            return self.weighting, self.surgery
        if self.critic_weighting is not None:
            choice = declared(self.critic_weighting, WeightingConfig).actor_weights
            check(choice == "auto", "weighting.actor_weights", "set for the actor's weighting only", choice)
        return self.critic_weighting or self.weighting, self.critic_surgery or self.surgery

    @staticmethod
    def _weighting(config: Any, num_tasks: int, part: str | None, critic: MultiTaskOptimizer | None) -> Weighting:
        weighting: Weighting = WEIGHTINGS.build(config, num_tasks=num_tasks)
        check_begun(f"weighting={config.kind}", weighting)
        choice = declared(config, WeightingConfig).actor_weights
        if part is None:
            check(choice == "auto", "weighting.actor_weights", "auto for an agent with one network", choice)
        if part != "actor":
            return weighting
        if weighting.requires_positive_losses:
            choice = "critic" if choice == "auto" else choice
            sign = "critic or equal, as this weighting needs positive losses"
            check(choice != "own", "weighting.actor_weights", sign, choice)
        if choice == "equal":
            return equal.Equal()
        if choice == "critic" and critic is None:
            raise expected(f"Weighting {config.kind}", "used on losses that stay positive, or beside a critic", part)
        return Borrowed(critic) if choice == "critic" and critic is not None else weighting

    def _primary(self, weighting: Any, surgery: Any, num_tasks: int) -> Tensor:
        """The mask (T,) bool of the primary tasks that the configurations name; all tasks if neither names any.

        If both name some, they must agree.
        """
        limits = declared(surgery, SurgeryConfig)
        chosen = {"weighting": declared(weighting, WeightingConfig).primary_tasks(), "surgery": limits.primary_tasks()}
        masks = [primary_tasks(f"{g}.primary", names, self.tasks, num_tasks) for g, names in chosen.items() if names]
        if limits.requires_primary:
            check(bool(masks), "surgery.primary", "the names or indexes of the primary tasks", chosen["surgery"])
        if len(masks) == 2:
            same = torch.equal(*masks)
            check(same, "surgery.primary", f"the tasks of weighting.primary {chosen['weighting']}", chosen["surgery"])
        primary = masks[0] if masks else torch.ones(num_tasks, dtype=torch.bool)
        limit, found = limits.primary_limit or num_tasks, int(primary.sum())
        check(found <= limit, "surgery.primary", f"at most {limit} task for {surgery.kind}", found)
        return primary
