"""What is on a report's page, where it is written, and what it never does. No browser is needed."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from mtrl import report
from mtrl.cli import main
from mtrl.experiment.runs import find_runs
from mtrl.monitoring.statistics import interquartile_mean
from mtrl.report import contents
from mtrl.report.method import Method
from tests.support.made_runs import HOSTILE, made_run
from tests.support.tiny_runs import TINY, run_folder


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:  # neither a script nor a style
            self.text += f"{data} "

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_report_has_the_figures_of_every_method(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "sweep"]) == 0
    assert capsys.readouterr().out == "Report: sweep/report.html\n"
    text = " ".join(Page(sweep / "report.html").text.split())
    middle = interquartile_mean([[0.9, 0.5, 0.1], [0.9, 0.5, 0.2]])
    assert f"{100 * middle.point:.1f} % {100 * middle.low:.1f} % to {100 * middle.high:.1f} %" in text
    assert "reward version v2" in text and "surgery.kind pcgrad none" in text and "python 3.11.7" in text
    for caption in ("over steps", "over time", "critic: conflicting pairs of tasks", "critic: mean cosine",
                    "Weights of the tasks", "share of scores above τ"):  # fmt: skip
        assert caption in text
    assert "git checkout 0123456789abcdef" in text and "mtrl train benchmark=mt10 seed=2" in text


def test_what_stands_in_runs_is_text(sweep: Path) -> None:
    page = Page(report.write([sweep]))
    assert len(page.named("script")) == 1 and not page.named("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 3 and HOSTILE.replace("/", "∕") in page.text
    (policy,) = (meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_a_report_needs_no_network(sweep: Path) -> None:
    path = report.write([sweep])
    page = Page(path)
    links = [attributes[name] for _, attributes in page.elements for name in ("src", "href") if name in attributes]
    assert links and not [link for link in links if not link.startswith(("#", "data:", "./"))]
    assert not re.search(r"@import|url\((?!#)", path.read_text(encoding="utf-8"))


def test_small_videos_are_in_the_page_and_others_beside_it(sweep: Path) -> None:
    """A link in a run's folder is not followed: it may lead to any file."""
    Path("secret.mp4").write_bytes(b"secret")
    (sweep / "plain/seed_1/videos/rollout.mp4").symlink_to(Path("secret.mp4").resolve())
    page = Page(report.write([sweep]))
    (video,) = (attributes["src"] for attributes in page.named("video"))
    assert base64.b64decode(video.partition(",")[2]) == b"small"
    (link,) = (attributes["href"] for attributes in page.named("a") if attributes["href"].startswith("./"))
    assert (sweep / unquote(link)).stat().st_size == 3_000_000


def test_policies_that_were_taken_over_are_listed(elsewhere: Path) -> None:
    numbers = {"success": 0.5, "returns": 663.04, "own_returns": 34.2}
    fact = {"step": 60000, "task": HOSTILE, "source": "basketball", **numbers}
    reuse = {"env_steps": 100, "taken_over": [fact]}
    for seed in (1, 2):
        made_run(Path("run"), seed, {HOSTILE: 0.9, "basketball": 1.0}, result={"reuse": reuse} if seed == 1 else {})
    text = " ".join(Page(report.write([Path("run")])).text.split())
    found = text.partition("return of the task’s own policy")[2]
    assert found.startswith(f" run/seed_1 60,000 {HOSTILE} basketball 50 % 663.0 34.2")


def test_runs_of_several_protocols_and_unfinished_ones_are_named(sweep: Path) -> None:
    made_run(sweep / "short", 1, {"reach": 1.0, "push": 1.0}, result={"horizon": 200})
    made_run(sweep / "short", 2, None)
    text = " ".join(Page(report.write([sweep])).text.split())
    assert "not all made by the same protocol" in text and "horizon (500, 200)" in text
    assert (
        "Runs that are not finished are left out of the results where other seeds have finished: short/seed_2." in text
    )


def test_a_run_that_ended_before_its_first_row_is_left_out_and_named(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = made_run(Path("sweep/plain"), 3, None) / "metrics.jsonl"
    metrics.write_text("")
    for _ in range(2):
        assert main(["report", "sweep"]) == 0
        assert capsys.readouterr().err == "mtrl: sweep/plain/seed_3 is left out, as it has no metrics.\n"
        metrics.unlink(missing_ok=True)
    assert "seed_3" not in Page(sweep / "report.html").text
    assert main(["report", "sweep/plain/seed_3"]) == 2, "it is named itself"


def test_changed_code_is_not_said_to_be_a_commit(elsewhere: Path) -> None:
    made_run(Path("plain"), 1, {"reach": 1.0}, provenance={"git": {"commit": "0123456789abcdef", "dirty": True}})
    text = Page(report.write([Path("plain")])).text
    assert "git checkout" not in text and "0123456789ab, with changes" in text


@pytest.mark.parametrize("kept", [("config.yaml", "metrics.jsonl"), ("config.yaml", "metrics.jsonl", "result.json")])
def test_a_run_with_less_than_all_of_its_files_is_reported(elsewhere: Path, kept: tuple[str, ...]) -> None:
    run = made_run(Path("plain"), 1, {"reach": 1.0, "push": 0.5})
    for file in run.iterdir():
        if file.is_file() and file.name not in kept:
            file.unlink()
    text = Page(report.write([run])).text
    assert "reach" in text and "mtrl train --config config.yaml" in text


def test_returns_are_reported_as_they_are(elsewhere: Path) -> None:
    rows = {"reach": {"mean_return": -250.5}, "push": {"mean_return": 31.25}}
    made_run(Path("plain"), 1, {"reach": 1.0, "push": 1.0}, result={"headline": "return", "tasks": rows})
    text = Page(report.write([Path("plain")])).text
    assert "-250.5" in text and "31.25" in text and "solved" not in text


def test_profiles_are_of_methods_with_the_metric_of_the_page(elsewhere: Path) -> None:
    made_run(Path("shares"), 1, {"reach": 1.0, "push": 0.5})
    rows = {"reach": {"mean_return": -250.5}, "push": {"mean_return": 31.25}}
    made_run(Path("returns"), 1, {"reach": 1.0, "push": 1.0}, result={"headline": "return", "tasks": rows})
    methods = [Method(name, k, find_runs([Path(name)])) for k, name in enumerate(("shares", "returns"))]
    assert contents._profiles(methods, "success") == contents._profiles(methods[:1], "success")


def test_the_page_lies_in_the_run_or_around_all_of_them(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = Path("sweep/plain/seed_1"), Path("sweep/plain/seed_2")
    assert report.write([run]) == run / "report.html"
    assert report.write([run, other]) == Path("sweep/plain/report.html")
    monkeypatch.chdir("sweep")
    assert report.write([Path("plain/seed_1"), sweep]) == Path("report.html")
    assert report.write([sweep], Path("new/page.html")) == Path("new/page.html")


def test_only_a_report_is_overwritten(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = sweep / "report.html"
    report.write([sweep], title="first")
    assert main(["report", "sweep", "--title", "second"]) == 0
    assert "second" in page.read_text(encoding="utf-8")
    page.write_text("<html>my own notes</html>")
    assert main(["report", "sweep"]) == 2
    captured = capsys.readouterr()
    assert "an earlier report to overwrite" in captured.err and captured.err.count("\n") == 1
    assert page.read_text() == "<html>my own notes</html>"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "existing folder"),
        (["empty"], "a run, or a folder that holds runs"),
        (["sweep", "--output", "empty"], "a file"),
        (["sweep", "toy"], "of one benchmark"),
        (["result"], "result.json should be one with a mapping"),
        (["headline"], "one with `mean_loss` of every task"),
        (["config"], "config.yaml should be one with a mapping with text as its keys as `benchmark`"),
        (["metrics"], "a JSON object with a step"),
        (["provenance"], "provenance.json should be one with a mapping with text as its keys as `git`"),
        (["reuse"], "result.json should be one with a number as `reuse.taken_over[0].returns`"),
        (["ragged"], "Line 4 of ragged/seed_1/metrics.jsonl should be"),
        ([], "required"),
    ],
)
def test_bad_input_is_one_line(sweep: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    made_run(Path("toy"), 1, {"reach": 1.0}, config={"benchmark": {"kind": "toy"}})
    made_run(Path("config"), 1, {"reach": 1.0}, config={"benchmark": "mt10"})
    made_run(Path("result"), 1, {"reach": 1.0}, result={"tasks": [1, 2]})
    made_run(Path("headline"), 1, {"reach": 1.0}, result={"headline": "loss"})
    made_run(Path("provenance"), 1, {"reach": 1.0}, provenance={"git": "none"})
    fact = {"step": 1000, "task": "reach", "source": "push", "success": 0.5, "returns": "12"}
    made_run(Path("reuse"), 1, {"reach": 1.0}, result={"reuse": {"env_steps": 1, "taken_over": [fact]}})
    ragged = {"step": 4000, "critic/cosine": [[1.0], [1.0, 0.5]]}
    with (made_run(Path("ragged"), 1, {"reach": 1.0, "push": 1.0}) / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps(ragged) + "\n")
    (made_run(Path("metrics"), 1, {"reach": 1.0}) / "metrics.jsonl").write_text("[1]\n")
    assert main(["report", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_a_finished_run_has_its_report_and_names_it(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "surgery=pcgrad"]) == 0
    page = run_folder() / "report.html"
    assert f"Report: {page}\n" in capsys.readouterr().out
    assert "turn-180" in Page(page).text and "pcgrad" in Page(page).text


def test_a_report_that_cannot_be_written_fails_no_run(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr(report, "write", fails)
    assert main(["train", *TINY]) == 0
    captured = capsys.readouterr()
    assert "mtrl: no report (no ink)" in captured.err and f"Run: {run_folder()}" in captured.out
    assert (run_folder() / "result.json").exists()
