"""Build and try docker/mujoco's image without a container engine: python scripts/check_image.py [--bind PATH]...

The script reads the Dockerfile, lays out the plain Debian that it begins with (by debootstrap), and runs its RUN steps
there, each with the sources mounted as the step says, if .dockerignore lets them through. Then it runs the entry point
and docker/compose.yaml's services as their users, and says how large each layer is. It needs root and debootstrap.
Everything is in a temporary folder that is removed at the end, and mounts end with the step that made them. The exit
code is 1 if something fails, and 2 without root or debootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE, COMPOSE = ROOT / "docker/mujoco/Dockerfile", ROOT / "docker/compose.yaml"
SHORT = "recipe=quick steps=60 seed=7 training.final_episodes=1 video=false"
"""Options of the training run, which make it short."""
PASSED = re.compile(r"PIP_|SSL_|REQUESTS_|.*_proxy$", re.IGNORECASE)
"""Environment variables of this machine that RUN steps get: they say how to reach a network."""
PATIENCE = 600
"""Seconds after training in which TensorBoard must have listed the run."""
Mount = tuple[Path, str, bool]
"""Source, target (a path inside), and whether it is mounted read-only."""


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(name, rest) of each instruction, without comments and with its continued lines as one."""
    kept = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(kept).replace("\\\n", " ").splitlines()
    parts = [line.partition(" ") for line in joined if line.strip()]
    return [(name, " ".join(rest.split())) for name, _, rest in parts]


def run_step(rest: str) -> tuple[list[dict[str, str]], str]:
    """The mounts of a RUN step, and its command."""
    found = re.findall(r"--mount=(\S+)", rest)
    mounts = [dict(item.split("=", 1) for item in mount.split(",")) for mount in found]
    return mounts, re.sub(r"--mount=\S+\s*", "", rest).strip()


def let_through(context: Path) -> None:
    """Copy the files of the repository that .dockerignore lets through: its lines that begin with `!` name them."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    skipped = shutil.ignore_patterns(*(line.removeprefix("**/") for line in lines if line.startswith("**/")))
    for name in (line[1:] for line in lines if line.startswith("!")):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, context / name)


class Image:
    """A root folder that `build` fills, and the Dockerfile's user, variables and entry point for commands in it."""

    def __init__(self, root: Path, context: Path, binds: Sequence[str], arguments: Mapping[str, str]) -> None:
        self.root, self.context, self.arguments = root, context, dict(arguments)
        self.always: list[Mount] = [(Path(path), path, True) for path in ("/etc/hosts", "/etc/resolv.conf", *binds)]
        self.env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.user, self.folder, self.entry = "0", "/", [""]
        self.layers: dict[str, int] = {}

    def build(self, base: Path | None, mirror: str) -> None:
        for name, rest in instructions(DOCKERFILE):
            if name == "FROM":
                suite = rest.removeprefix("debian:").removesuffix("-slim")
                laid = ["debootstrap", "--variant=minbase", suite, str(self.root), mirror or apt_mirror(suite)]
                check(laid if base is None else ["cp", "--archive", f"{base}/.", str(self.root)])
                self.layers[rest] = size(self.root)
            elif name == "RUN":
                mounts, command = run_step(rest)
                before = size(self.root)
                found = [(self.context / m.get("source", "."), m["target"], True) for m in mounts]
                passed = {key: value for key, value in os.environ.items() if PASSED.match(key)}
                self.inside(["/bin/sh", "-c", command], found, {**passed, **self.arguments})
                self.layers[command.rpartition("/")[2]] = size(self.root) - before
            elif name == "ARG":
                argument, _, usual = rest.partition("=")
                self.arguments.setdefault(argument, usual.strip('"'))
            elif name == "ENV":
                pairs = [item.partition("=") for item in shlex.split(rest)]
                self.env |= {key: value.replace("$PATH", self.env["PATH"]) for key, _, value in pairs}
            elif name in ("USER", "WORKDIR"):
                setattr(self, {"USER": "user", "WORKDIR": "folder"}[name], rest)
            elif name == "ENTRYPOINT":
                self.entry = json.loads(rest)
            elif name not in ("CMD", "EXPOSE"):
                raise SystemExit(f"Instruction {name} is one that this script does not know.")

    def inside(self, command: Sequence[str], mounts: Sequence[Mount], env: Mapping[str, str]) -> None:
        check(self.command(command, mounts, env=env))
        self._remove_mount_points(mounts)

    def command(
        self,
        command: Sequence[str],
        mounts: Sequence[Mount] = (),
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The command line that runs `command` in the root as a container engine would. Its mounts end with it."""
        lines = [f"mount -t proc proc {self.root}/proc", f"mount --rbind /dev {self.root}/dev"]
        for source, target, read_only in (*self.always, *mounts):
            place = self.root / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(exist_ok=True) if source.is_dir() else place.touch()
            lines.append(shlex.join(["mount", "--bind", *(["-o", "ro"] if read_only else []), str(source), str(place)]))
        user = user or self.user
        variables = [f"{key}={value}" for key, value in {**self.env, **(env or {})}.items()]
        chroot = ["chroot", f"--userspec={user if ':' in user else f'{user}:{user}'}", str(self.root)]
        lines.append("exec " + shlex.join([*chroot, "env", "-i", "-C", self.folder, *variables, *command]))
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", "\n".join(lines)]

    def _remove_mount_points(self, mounts: Sequence[Mount]) -> None:
        """Remove the empty files and folders that ended mounts have left."""
        for top in {self.root / target.split("/")[1] for _, target, _ in mounts}:
            for path in (*sorted(top.rglob("*"), reverse=True), top):
                if path.is_dir():
                    path.rmdir()
                elif path.stat().st_size == 0:
                    path.unlink()


def check(command: Sequence[str]) -> None:
    code = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if code != 0:
        raise SystemExit(f"Exit code {code} of: {command[0]} ... {command[-1]}")


def size(folder: Path) -> int:
    """The size of a folder on disk, in MB."""
    done = subprocess.run(["du", "-sx", "--block-size=MB", str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[0].removesuffix("MB"))


def try_services(image: Image, runs: Path) -> None:
    """Check that TensorBoard, started first, lists a trained run, and that another user can evaluate it."""
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"ARGS": SHORT, "RUN_AS": ""}
    board, trainer = services["tensorboard"], services["train"]
    target = trainer["volumes"][0]["target"]
    words = [*board["entrypoint"], *board["command"].replace("6006", str(port)).split()]
    writing, reading = ([(runs, target, False)], [(runs, target, True)])
    started = subprocess.Popen(image.command(words, reading, user=filled(board["user"], variables)))
    try:
        train = [*image.entry, *shlex.split(filled(trainer["command"], variables))]
        check(image.command(train, writing, user=filled(trainer["user"], variables)))
        end = time.monotonic() + PATIENCE
        while "seed_7" not in (listed := answer(f"http://127.0.0.1:{port}/data/runs")):
            if started.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"TensorBoard should list the run within {PATIENCE} s. Found {listed!r}.")
            time.sleep(1)
        print(f"TensorBoard lists {listed}")
    finally:
        started.kill()
        started.wait()
    again = [*image.entry, "mtrl", "evaluate", *found_runs(runs), "--episodes", "1"]
    check(image.command(again, writing, user="4321:4321"))


def found_runs(runs: Path) -> list[str]:
    """The paths of finished runs inside the image, where the folder `runs` is /workspace/runs."""
    return [f"runs/{file.parent.relative_to(runs)}" for file in runs.rglob("result.json")]


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with `${NAME:-default}` filled in, as compose does."""
    return re.sub(r"\$\{(\w+):-(.*?)\}", lambda found: variables.get(found[1]) or found[2], text)


def answer(address: str) -> str:
    """What a server on this machine answers, without any proxy; "" if it does not answer."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(address, timeout=5) as response:
            return response.read().decode()
    except OSError:
        return ""


def apt_mirror(suite: str) -> str:
    """Where this machine's apt gets this release of Debian; Debian's own mirror if it gets none."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(CODENAME)"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    found = (line.split()[0] for line in lines if line.split()[1:] == ["Debian", suite])
    return next(found, "http://deb.debian.org/debian")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", default="", help="where debootstrap gets Debian (default: as this machine's apt)")
    parser.add_argument("--base", type=Path, help="a folder in which debootstrap has laid out the same Debian")
    parser.add_argument("--bind", action="append", default=[], metavar="PATH", help="made visible inside, read-only")
    parser.add_argument("--pip-args", default=os.environ.get("PIP_ARGS", ""), help="the build argument PIP_ARGS")
    options = parser.parse_args()
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        print("check_image.py should be run as root, with debootstrap (apt-get install debootstrap).", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="mtrl-image-"))
    try:
        for name in ("root", "context", "runs"):
            (folder / name).mkdir()
        (folder / "root").chmod(0o755)
        (folder / "runs").chmod(0o1777)
        let_through(folder / "context")
        image = Image(folder / "root", folder / "context", options.bind, {"PIP_ARGS": options.pip_args})
        image.build(options.base, options.mirror)
        for words in ([], ["mtrl", "list", "benchmarks"]):
            check(image.command([*image.entry, *(words or ["--help"])]))
        try_services(image, folder / "runs")
        for layer, megabytes in image.layers.items():
            print(f"{megabytes:6,} MB  {layer}")
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
