"""Lists the choices of each group, and what each method costs, without importing their modules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mtrl import configs
from mtrl.core.errors import expected
from mtrl.core.registry import find
from mtrl.experiment.config import REGISTRIES

GROUPS = ("benchmark", "network", "weighting", "surgery", "diagnostics", "agent", "recipe")
_PLURALS = {f"{group}s": group for group in ("benchmark", "network", "agent", "recipe")}
_PAPER = re.compile(r" ?\(([^()]*(?:\b(?:19|20)\d\d\b|paper|Auto-λ)[^()]*)\)")
"""In a summary, the parenthesis that names the paper."""


def listed(what: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """{group: {name: {"summary", "paper", "cost"}}} of the group `what`, or of all groups.

    The paper is None if the summary names none. The cost is the time of a whole SAC update divided by that of joint
    training, {"mt10": ratio, "mt50": ratio}, or None if it was not measured.

    Raises:
        UserError: `what` is not a group.
    """
    wanted = _PLURALS.get(what, what) if what else None
    if wanted is not None and wanted not in GROUPS:
        raise expected("What to list", f"one of {', '.join(GROUPS)}", what)
    costs = yaml.safe_load((configs.FOLDER / "costs.yaml").read_text(encoding="utf-8"))
    return {group: _group(group, costs.get(group, {})) for group in ([wanted] if wanted else GROUPS)}


def _group(group: str, costs: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in configs.choices(group, REGISTRIES):
        registry = find(REGISTRIES, group, name)
        summary = registry.summary(name) if registry else configs.presets.summary(group, name)
        paper = _PAPER.search(summary)
        cost = dict(zip(("mt10", "mt50"), costs[name], strict=True)) if name in costs else None
        found[name] = {
            "summary": _PAPER.sub("", summary, count=1),
            "paper": paper[1] if paper else None,
            "cost": cost,
        }
    return found


def table(facts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A line for each choice: its name, its cost if it was measured, its summary and its paper."""
    lines = []
    for group, kinds in facts.items():
        priced = any(row["cost"] for row in kinds.values())
        lines.append(f"{group + '=':<24}{'MT10  MT50' if priced else ''}".rstrip())
        width = max(22, *(len(name) + 1 for name in kinds))
        lines += [f"  {name:<{width}}{_cost(row):<{12 * priced}}{_text(row)}" for name, row in kinds.items()]
    if "weighting" in facts or "surgery" in facts:
        lines += ["", "MT10, MT50: the time of a whole update as a multiple of joint training, on two CPU cores."]
        lines += ["Measure yours with `mtrl bench update --methods all`."]
    return "\n".join(lines)


def _cost(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{ratio:.2f}" for ratio in (row["cost"] or {}).values())


def _text(row: Mapping[str, Any]) -> str:
    return f"{row['summary'].removesuffix('.')} ({row['paper']})." if row["paper"] else row["summary"]
