"""Hyperparameter search in sweeps: Optuna proposes each trial from the results of earlier ones.

Optuna (Akiba et al. 2019, "Optuna: A Next-generation Hyperparameter Optimization Framework") uses a tree-structured
Parzen estimator. A journal in the benchmark's folder keeps proposals and results, so that the same sweep can be
continued.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl.configs import alternatives
from mtrl.core.config import check
from mtrl.core.errors import expected, missing, reading
from mtrl.experiment.config import ExperimentConfig, compose, is_whole

_SPAN = re.compile(r"(log|interval)\((.*)\)")


def is_searched(word: str) -> bool:
    """Whether an override gives a range, such as key=log(1e-4,1e-2) or key=interval(0.9,1)."""
    return _SPAN.fullmatch(word.partition("=")[2]) is not None


class Search:
    """Proposes trials one by one.

    Args:
        words: overrides, at least one of which gives a range. Values separated by commas are choices.
        imports: further overrides of every trial, which import modules.
        count: the number of trials in all, including those of earlier starts.
        metric: the name of the number in metrics.jsonl whose last value is maximised.

    Raises:
        UserError: Optuna is missing, a word gives `experiment` or values that its option cannot take, or the journal
            is damaged.
    """

    def __init__(self, words: Sequence[str], imports: Sequence[str], count: int, metric: str) -> None:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise missing("A search", "Optuna", "ray") from error
        name = next((word for word in words if word.startswith("experiment=")), "")
        check(not name, "experiment", "left out of a search, as each trial has a folder of its own", name)
        optuna.logging.set_verbosity(logging.WARNING)
        self._kinds, self._words, self._imports = optuna.distributions, list(words), list(imports)
        self.count, self.metric = count, metric
        self._failed = optuna.trial.TrialState.FAIL
        usual = [alternatives(word)[0] for word in words if not is_searched(word)]
        self._space = {word: found for word in words if (found := self._distribution(word, usual))}
        first = {word: _ends(distribution)[0] for word, distribution in self._space.items()}
        ends = [{**first, word: end} for word, distribution in self._space.items() for end in _ends(distribution)]
        config, *_ = (self.config(self._chosen(values)) for values in ends)  # checks all before the first run
        facts = json.dumps([sorted(words), list(imports), metric])
        folder = Path(config.runs) / config.benchmark.name
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / f"search_{hashlib.sha256(facts.encode()).hexdigest()[:8]}.journal"
        kept: dict[str, Any] = {"study_name": "sweep", "load_if_exists": True}
        with reading(journal, "a search's journal, undamaged"):
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
            self._study = optuna.create_study(storage=storage, direction="maximize", **kept)
        self._told: dict[int, float | None] = {}
        before = self._study.get_trials(deepcopy=False)
        self._study.sampler = optuna.samplers.TPESampler(seed=len(before), constant_liar=True)
        self._before = [(trial.number, self._chosen(trial.params)) for trial in before]

    def _distribution(self, word: str, usual: Sequence[str]) -> Any:
        """Optuna's distribution of an override's values; None if it has a single value."""
        key, _, text = word.partition("=")
        if not (match := _SPAN.fullmatch(text)):
            choices = alternatives(word)
            return self._kinds.CategoricalDistribution(choices) if len(choices) > 1 else None
        is_log = match[1] == "log"
        try:
            low, high = map(float, match[2].split(","))
        except ValueError:
            low = high = 0.0
        finite = -float("inf") < low < high < float("inf")
        kind: Any = self._kinds.FloatDistribution
        if finite and is_whole(key, usual):
            kind, low, high = self._kinds.IntDistribution, math.ceil(low), math.floor(high)
        if not (finite and low < high and (low > 0 or not is_log)):
            what = f"{match[1]}(LOW,HIGH) of two{' positive' if is_log else ''} numbers, the lower first"
            raise expected(f"Option `{key}`", what, text)
        return kind(low, high, log=is_log)

    def _chosen(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial."""
        found = []
        for word in self._words:
            value = values.get(word, word)
            text = _text(value, *_ends(self._space[word])) if isinstance(value, float) else str(value)
            found.append(text if isinstance(value, str) else f"{word.partition('=')[0]}={text}")
        return found

    def config(self, words: Sequence[str]) -> ExperimentConfig:
        return compose([*words, *self._imports])

    def label(self, words: Sequence[str]) -> str:
        """The label of a trial: its overrides whose values are searched."""
        return " ".join(own for own, word in zip(words, self._words, strict=True) if word in self._space)

    def ask(self) -> tuple[int, list[str]] | None:
        """The number and overrides of the next trial; those of earlier starts come first. None if there are enough."""
        if self._before:
            return self._before.pop(0)
        if len(self._study.get_trials(deepcopy=False)) >= self.count:
            return None
        trial = self._study.ask(self._space)
        return trial.number, self._chosen(trial.params)

    def tell(self, number: int, value: float | None) -> None:
        """Report a trial's result, or None if its metric has no value.

        A trial that was continued is reported again. `best` uses the last report, and Optuna's proposals the first.
        """
        self._told[number] = value
        state = {"state": self._failed} if value is None else {}
        self._study.tell(number, value, skip_if_finished=True, **state)

    @property
    def best(self) -> str:
        """The searched overrides of the best trial so far, and its result; "" if no trial has one."""
        first = {trial.number: trial.value for trial in self._study.get_trials(deepcopy=False)}
        values = {number: value for number, value in {**first, **self._told}.items() if value is not None}
        if not values:
            return ""
        best = max(values, key=lambda number: values[number])
        words = self._chosen(self._study.get_trials(deepcopy=False)[best].params)
        return f"{self.label(words)} ({self.metric} {values[best]:.4g})"


def _ends(distribution: Any) -> Sequence[Any]:
    """The lowest and highest value of a range, or all choices."""
    return getattr(distribution, "choices", None) or (distribution.low, distribution.high)


def _text(value: float, low: float, high: float) -> str:
    """A value of a range, rounded to be readable: by less than a thousandth of the range, and not beyond its ends."""
    size = math.log10(abs(value)) if value else 0.0
    digits = 4 + max(0, math.floor(size) - math.floor(math.log10(high - low) + 1e-9))
    text = f"{value:.{digits}g}"
    return text if low <= float(text) <= high else repr(min(max(value, low), high))
