"""Rivals' updates come from a process of another interpreter, and tables on pages say what a result's rows say."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mtrl import cli
from mtrl.agents.sac import SAC
from mtrl.bench import envs, pages, update
from mtrl.bench.plain_sac import PlainSAC
from mtrl.core.errors import UserError
from tests.support.clock import Clock

MODULES = {
    "jax": "__version__ = '1'\ndef block_until_ready(tree): assert len(tree) == 3",
    "flax": "__version__ = '2'",
    "optax": "__version__ = '3'",
    "metaworld_algorithms/config/networks": "ContinuousActionPolicyConfig = QValueFunctionConfig = dict",
    "metaworld_algorithms/config/nn": "MultiHeadConfig = dict",
    "metaworld_algorithms/config/optim": "OptimizerConfig = dict\ndef PCGradConfig(num_tasks): return num_tasks",
    "metaworld_algorithms/rl/algorithms": """
from pathlib import Path

MTSACConfig = dict


class MTSAC:
    actor = critic = alpha = None

    @staticmethod
    def initialize(config, spaces, seed):
        agent = MTSAC()
        layers = config["actor_config"]["network_config"]
        assert layers == config["critic_config"]["network_config"]
        assert (layers["width"], layers["depth"], layers["num_tasks"], config["num_tasks"]) == (8, 3, 10, 10)
        agent.milliseconds = 60 if layers["optimizer"] == 10 else 20
        assert spaces.observation_space.shape == (49,) and spaces.action_space.shape == (4,)
        return agent

    def spawn_replay_buffer(self, spaces, config, seed):
        self.rows = []
        assert config.buffer_size == 10 * 2000
        return self

    def add(self, observations, following, actions, rewards, dones):
        assert observations.shape == following.shape == (10, 49) and actions.shape == (10, 4)
        assert rewards.shape == dones.shape == (10,) and (observations[:, 39:].argmax(1) == range(10)).all()
        self.rows.append(rewards)

    def sample(self, rows):
        assert len(self.rows) == 2000
        return rows

    def update(self, data):
        print("what libraries print")
        assert data == 10 * 4
        with Path(__file__).parents[2].joinpath("spent").open("a") as spent:
            print(self.milliseconds, file=spent)
        return self, {}
""",
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for a checkout and, beside it, for JAX; its updates say that they take 20 and 60 ms."""
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(update, "BATCH", 4)
    return tmp_path


def bench(*arguments: str) -> int:
    return cli.main(["bench", "update", "--quick", "--json", "--suites", "mt10", "--width", "8", *arguments])


def test_rows_of_the_jax_baselines(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only durations are those of our updates, 2 ms each, and those that the baselines' process reports."""
    clock, spent = Clock(monkeypatch), checkout / "spent"
    spent.touch()
    (checkout / ".git").mkdir()  # in which git finds no commit
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now + 1e-3 * sum(map(int, spent.read_text().split())))
    for agent in (SAC, PlainSAC):
        clock.takes(agent, "update", 2.0)
    assert bench("--jax-baselines", str(checkout)) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["update"]: row for row in result["rows"]}
    assert [rows[name]["ms"] for name in ("joint", "jax_joint", "jax_pcgrad")] == pytest.approx([2.0, 20.0, 60.0])
    assert rows["jax_pcgrad"]["ratio"] == pytest.approx(30.0) and rows["jax_joint"]["repetitions"] == 5
    assert result["jax"] == {"commit": None, "jax": "1", "flax": "2", "optax": "3", "python": sys.version.split()[0]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jax-baselines", "."], "Option `--jax-baselines` should be a checkout of metaworld-algorithms"),
        (["--jax-baselines", "CHECKOUT", "--jax-python", "no-such-python"], "Found 'no-such-python'"),
        (["--jax-baselines", "CHECKOUT"], "Option `--jax-python` should be a Python 3.12 or later with jax"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    arguments: list[str],
    message: str,
    checkout: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(checkout / "metaworld_algorithms")
    (checkout / "jax.py").write_text("raise ModuleNotFoundError('no JAX here')", encoding="utf-8")
    assert bench(*(word.replace("CHECKOUT", str(checkout)) for word in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert "no JAX here" in error or arguments != ["--jax-baselines", "CHECKOUT"]


def test_baselines_are_timed_on_a_cpu_only(checkout: Path) -> None:
    with pytest.raises(UserError, match="should be cpu where --jax-baselines is given"):
        update.measure(True, suites=("mt10",), device="cuda", jax_baselines=checkout)


def rows(engines: dict[str, float], updates: dict[str, float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"suite": "mt10", "copies": 4, "engine": name, "steps_per_second": value} for name, value in engines.items()
    ]
    return [*found, *({"suite": "mt10", "update": name, "ms": ms} for name, ms in updates.items())]


ENGINES = {"ours": 20000.4, "bound": 22000.0, "envpool": 9000.0, "envpool_overlapped": 12345.6, "package_sync": 2500.0}
UPDATES = {"joint": 90.0, "pcgrad": 99.6, "jax_joint": 95.0, "jax_pcgrad": 245.0, "torchjd_pcgrad": 535.0}
PICTURES = [
    {"suite": "mt10", "copies": 1, "engine": name, "steps_per_second": value}
    for name, value in {"pixels": 172.4, "package_pixels": 13.5001}.items()
]
RESULT = {
    "bench": "rivals",
    "machine": {"cores": 2, "processor": "Fast"},
    "rows": [*rows(ENGINES, UPDATES), *PICTURES],
}
PAGE = """# Page

<!-- rivals: summary; written. -->

| old | table |

Text | with a bar.

<!-- rivals: updates -->

| ? |

<!-- rivals: environments -->

| x |

<!-- rivals: pictures -->

| y |
"""
WRITTEN = """# Page

<!-- rivals: summary; written. -->

| 2 cores, Fast | `mtrl` | rivals |
|---|---|---|
| PCGrad update, MT10 | 100 ms, joint training 90 ms | \
JAX baselines 245 ms, their joint training 95 ms, torchjd 535 ms |
| Environments of MT10, 4 copies | 20,000 steps/s | \
EnvPool 12,346 steps/s, `metaworld` 2,500 steps/s, bare MuJoCo physics 22,000 steps/s |

Text | with a bar.

<!-- rivals: updates -->

| update | what it is | MT10 |
|---|---|---|
| joint | joint training | 90 ms |
| **PCGrad** | ours | 100 ms |
| joint, JAX | the JAX baselines (metaworld-algorithms), compiled | 95 ms |
| PCGrad, JAX | likewise | 245 ms |
| PCGrad, torchjd | by torchjd | 535 ms |

<!-- rivals: environments -->

| | ours | bare physics | EnvPool, in turn | EnvPool, overlapped | `metaworld`, sync |
|---|---|---|---|---|---|
| MT10, 4 copies | 20,000 | 22,000 | 9,000 | 12,346 | 2,500 |

<!-- rivals: pictures -->

| | ours | `metaworld` |
|---|---|---|
| MT10 | 172 | 14 |
"""


def test_tables_take_the_places_of_those_on_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, page = tmp_path / "rivals.json", tmp_path / "page.md"
    result.write_text(json.dumps(RESULT), encoding="utf-8")
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["rivals", str(result), str(page)])
    for _ in range(2):
        pages.main()
        assert page.read_text(encoding="utf-8") == WRITTEN


def test_one_command_has_the_rows_of_both(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: dict[str, Any] = {}

    def measure(quick: bool, **options: Any) -> dict[str, Any]:
        chosen.update(options)
        return {"bench": "update", "width": 400, "machine": RESULT["machine"], "rows": rows({}, UPDATES)}

    monkeypatch.setattr(update, "measure", measure)
    monkeypatch.setattr(envs, "measure", lambda _: {"rows": rows(ENGINES, {})})
    assert cli.main(["bench", "rivals", "--json", "--repetitions", "7", "--jax-baselines", "there"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["bench"], result["width"], result["rows"]) == ("rivals", 400, rows(ENGINES, UPDATES))
    assert result["packages"]["mujoco"] and result["packages"]["torch"]
    assert chosen["suites"] == ("mt10", "mt50") and chosen["compiled"] and chosen["repetitions"] == 7
    assert chosen["jax_baselines"] == Path("there")
