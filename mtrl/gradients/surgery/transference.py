"""Transference: at every step, the combination of gradients after which the losses fall most (Fifty et al. 2020).

Each candidate is PCGrad's result, or the sum of the gradients g_i over a set J of tasks. In the candidate's trial step
to θ_J' on the batch of the update, shared parameters move along the candidate, and owned ones as usual. The candidate's
total transference is the sum over the primary tasks of 1 − L_j(θ_J') / L_j(θ). The candidate with the highest total is
chosen; of several that are equal, the first in the order of `candidates`, in which PCGrad's result always comes last.
If a primary task's loss is not positive, as an actor's may be, all terms are differences L_j(θ) − L_j(θ_J').

Candidates are not rescaled, so the step for one task is shorter than that for all. Trial steps are those of SGD with
the optimiser's learning rate, momentum and weight decay, even if the optimiser is Adam (`LookAhead`). Each costs a
forward pass on new tensors, so no parameters have to be restored. Only the paper's abstract was at hand. It leaves open
which candidates there are; here the option `candidates` lists them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtrl.core.config import check
from mtrl.core.types import Metrics
from mtrl.gradients.base import Context, Surgery, SurgeryConfig
from mtrl.gradients.surgery.pcgrad import PCGrad

KINDS = ("all", "pcgrad", "single", "pairs", "others", "subsets")
MOST_SUBSETS = 10
"""The largest number of tasks for which all subsets may be candidates; for ten tasks, they need 1023 trial steps."""
_FEW = f"without subsets for more than {MOST_SUBSETS} tasks"
WINDOW = 100
"""The metrics chosen/..., how often each entry of `candidates` won, are averages over about this many updates."""


@dataclass
class Config(SurgeryConfig):
    kind: str = "transference"
    candidates: list[str] = field(default_factory=lambda: ["all", "pcgrad", "single"])
    """What to choose from: all (the plain sum), pcgrad, single (each task alone), pairs, others (all but one), subsets
    (every set of tasks, for at most ten tasks), or indexes of tasks, such as 0+2+3."""
    primary: list[str] = field(default_factory=list)
    """Names or indexes of the primary tasks, over whose losses transference is summed; all tasks if empty."""

    def primary_tasks(self) -> Sequence[str]:
        return self.primary


def _sets(candidate: str, tasks: int) -> list[tuple[int, ...]]:
    """The sets of tasks that an entry of `candidates` stands for; none for pcgrad, which is not a set.

    Raises:
        UserError: the entry is unknown, or there are too many tasks for all subsets.
    """
    sizes = {"all": [tasks], "single": [1], "pairs": [2], "subsets": range(1, tasks + 1)}
    sizes["others"] = [tasks - 1] if tasks > 1 else []
    check(candidate != "subsets" or tasks <= MOST_SUBSETS, "surgery.candidates", _FEW, f"subsets of {tasks}")
    if candidate in KINDS:
        return [chosen for size in sizes.get(candidate, []) for chosen in itertools.combinations(range(tasks), size)]
    indexes = [int(part) if part.isdecimal() else tasks for part in candidate.split("+")]
    sound = max(indexes) < tasks and len(set(indexes)) == len(indexes)
    check(sound, "surgery.candidates", f"of {', '.join(KINDS)}, or indexes below {tasks} such as 0+1", candidate)
    return [tuple(indexes)]


def restricted(candidates: Sequence[str], kept: Sequence[int]) -> list[str]:
    """The candidates for only the tasks with the indexes `kept`, whose new indexes are 0, 1, ....

    Combinations that contain other tasks are left out.
    """
    found, new = list[str](), {str(task): str(index) for index, task in enumerate(kept)}
    for candidate in candidates:
        parts = candidate.split("+")
        if candidate in KINDS or all(part in new for part in parts):
            found.append(candidate if candidate in KINDS else "+".join(new[part] for part in parts))
    return found


class Transference(Surgery):
    needs_look_ahead = True

    def __init__(self, candidates: Sequence[str], num_tasks: int) -> None:
        super().__init__()
        groups = {name: _sets(name, num_tasks) for name in candidates if name != "pcgrad"}
        rows = [[float(task in chosen) for task in range(num_tasks)] for sets in groups.values() for chosen in sets]
        groups |= {"pcgrad": [()]} if "pcgrad" in candidates else {}
        what = f"entries that give at least one combination of {num_tasks} tasks"
        check(any(groups.values()), "surgery.candidates", what, list(candidates))
        self.names = tuple(groups)
        self.takes_some_tasks = all(name in KINDS for name in groups)  # an index means another task in each batch
        self.projects = "pcgrad" in groups
        of = [number for number, sets in enumerate(groups.values()) for _ in sets]
        self.sets = nn.Buffer(torch.tensor(rows, dtype=torch.float64).view(-1, num_tasks), persistent=False)
        self.group = nn.Buffer(torch.eye(len(groups))[of], persistent=False)
        self.shares = nn.Buffer(torch.zeros(len(groups)))

    def noise(self, num_tasks: int, generator: torch.Generator | None, device: torch.device) -> Tensor | None:
        return PCGrad().noise(num_tasks, generator, device) if self.projects else None

    def coefficients(self, gramian: Tensor, primary: Tensor, noise: Tensor | None) -> Tensor:
        """The factors (C, T) of all candidates; PCGrad's are the last row."""
        if not self.projects:
            return self.sets
        return torch.cat([self.sets, PCGrad().coefficients(gramian, primary, noise).unsqueeze(0)])

    @torch.no_grad()
    def choose(self, candidates: Tensor, weights: Tensor, context: Context) -> tuple[Tensor, Metrics]:
        gains = self.transference(candidates, weights, context)
        best = gains.nan_to_num(-torch.inf).argmax(0, keepdim=True)
        share = (context.step + 1).clamp(max=WINDOW).reciprocal()
        self.shares.lerp_(self.group.index_select(0, best).squeeze(0), share)
        shares = {f"chosen/{name}": share for name, share in zip(self.names, self.shares.clone(), strict=True)}
        chosen, gain = (t.index_select(0, best).squeeze(0) for t in (candidates, gains))
        return chosen, {"transference": gain, **shares}

    @torch.no_grad()
    def transference(self, candidates: Tensor, weights: Tensor, context: Context) -> Tensor:
        """The total transference of each candidate, (C,) float64."""
        ahead = context.look_ahead
        assert ahead is not None
        steps = (ahead.step(weights, candidate.to(weights)) for candidate in candidates.unbind())
        after = torch.stack([ahead.losses(shared, own, ahead.batch) for shared, own in steps]).double()
        before, primary = (ahead.subset.gather(t) for t in (context.losses.double(), context.primary))
        unit = torch.where(((before > 0) | ~primary).all(), before, 1.0)
        return torch.where(primary, (before - after) / unit, 0.0).sum(1)


def build(config: Config, *, num_tasks: int) -> Surgery:
    return Transference(config.candidates, num_tasks)
