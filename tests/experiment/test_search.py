"""Searches: what they propose and refuse, and how they continue. The tests report made-up results of trials."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from mtrl import cli
from mtrl.core.errors import UserError
from mtrl.experiment.search import Search

WORDS = ["benchmark=toy", "steps=100", "agent.learning_rate=log(1e-5,1e-1)", "network.width=interval(8,64)"]
WORDS += ["surgery=none,pcgrad"]


def search(count: int = 30, words: list[str] = WORDS) -> Search:
    pytest.importorskip("optuna", reason="needs Optuna: pip install -e '.[ray]' -c constraints.txt")
    return Search(words, [], count, "score")


def values(words: list[str]) -> tuple[float, int, str]:
    chosen = dict(word.split("=") for word in words)
    return float(chosen["agent.learning_rate"]), int(chosen["network.width"]), chosen["surgery"]


def score(words: list[str]) -> float:
    """The largest score is at a learning rate of 1e-3 with pcgrad, for any width."""
    rate, _, surgery = values(words)
    return -abs(math.log10(rate) + 3) - (surgery == "none")


def test_trials_lie_in_the_search_space_and_improve(elsewhere: Path) -> None:
    made, found = search(), list[float]()
    while asked := made.ask():
        rate, width, surgery = values(asked[1])
        assert 1e-5 <= rate <= 1e-1 and 8 <= width <= 64 and surgery in ("none", "pcgrad")
        assert asked[1][:2] == WORDS[:2] and made.config(asked[1]).network.width == width
        found.append(score(asked[1]))
        made.tell(asked[0], found[-1])
    assert len(found) == 30 and sum(found[20:]) / 10 > sum(found[:10]) / 10 and max(found) > -0.7
    assert made.best.startswith("agent.learning_rate=") and "surgery=pcgrad" in made.best


def test_the_same_search_continues_with_its_earlier_proposals_and_results(elsewhere: Path) -> None:
    first = search(4)
    asked = [first.ask() for _ in range(3)]
    assert asked[0] and asked[1]
    first.tell(asked[0][0], 0.5)
    first.tell(asked[1][0], None)
    again = search(4)
    assert [again.ask() for _ in range(3)] == asked
    new = again.ask()
    assert new is not None and new not in asked and again.ask() is None
    assert "(score 0.5)" in again.best
    again.tell(asked[0][0], 0.4)
    again.tell(asked[1][0], 0.45)
    assert "(score 0.45)" in again.best, "of trials that were continued, the last report counts"
    assert search(4, [*WORDS, "seed=2"]).ask() not in asked, "another search has another journal"
    more = search(5)
    assert sum(more.ask() is not None for _ in range(6)) == 5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("agent.tau=log(0,1)", r"`agent.tau` should be log\(LOW,HIGH\) of two positive numbers, the lower first"),
        ("agent.tau=interval(0.5,0.1)", r"`agent.tau` should be interval\(LOW,HIGH\) of two numbers, the lower first"),
        ("agent.tau=interval(0.5)", "`agent.tau` should be interval"),
        ("agent.tau=interval(0.5,2)", r"`agent.tau` should be in \(0, 1\]. Found 2"),
        ("agent.tua=interval(0.1,0.2)", "`agent.tua` should be one of"),
        ("network=interval(1,2)", "`network` should be"),
        ("experiment=mine", "`experiment` should be left out of a search"),
    ],
)
def test_impossible_ranges_are_refused_before_the_first_trial(word: str, message: str, elsewhere: Path) -> None:
    with pytest.raises(UserError, match=message):
        search(words=["benchmark=toy", "agent.gamma=interval(0.9,0.99)", word])
    assert not list(elsewhere.rglob("*.journal"))


def test_without_optuna_one_line_says_what_to_install(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert cli.main(["sweep", *WORDS]) == 2
    error = capsys.readouterr().err
    assert "A search should be used with Optuna installed: pip install -e '.[ray]'" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "low", "high"),
    [
        ("agent.gamma=interval(0.9995,0.99999)", 0.9995, 0.99999),
        ("agent.gamma=interval(0.12345678,0.12345679)", 0.12345678, 0.12345679),
        ("agent.learning_rate=log(1.23456e-5,9.87654e-3)", 1.23456e-5, 9.87654e-3),
        ("network.width=interval(8.4,11.6)", 9, 11),
    ],
)
def test_proposals_stay_within_their_range_and_differ(word: str, low: float, high: float, elsewhere: Path) -> None:
    found = search(12, ["benchmark=toy", "steps=100", word])
    proposed = [asked[1][2].partition("=")[2] for _ in range(12) if (asked := found.ask())]
    assert all(low <= float(text) <= high for text in proposed)
    assert len(set(proposed)) == 12 or "width" in word
    assert max(map(len, proposed)) <= 14


def test_a_damaged_journal_is_refused_in_one_line(elsewhere: Path) -> None:
    search(2).ask()
    (journal,) = Path("runs").glob("*/search_*.journal")
    journal.write_text("{damaged\n" + journal.read_text())
    with pytest.raises(UserError, match=r"search_.*journal.* should be a search's journal"):
        search(2)
