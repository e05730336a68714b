"""Connects to the Ray cluster on which sweeps and collectors run. Ray is imported only here."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from mtrl.core.errors import expected, missing

_LONGEST = 200
"""The most characters of Ray's message that an error quotes."""


@contextlib.contextmanager
def connected(what: str, address: str, option: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster. If this process is already connected, that connection is used.

    Inside the block of a new connection, Python's stdout goes to stderr: Ray reports dead workers on stdout, which is
    reserved for results.

    Args:
        what: what needs Ray, for error messages.
        address: `host:port`, or `auto` for the cluster that RAY_ADDRESS names, or else that this machine is part of. If
            empty, the environment variable RAY_ADDRESS is used. Without that, a new cluster of only this machine is
            started, and ends with the block.
        option: the option that gave the address, for error messages.

    Raises:
        UserError: Ray is not installed, there is no running cluster at the address, or a new one cannot be started.
    """
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    if place == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray would open ports for other machines
    try:
        import ray
    except ImportError as error:
        raise missing(what, "Ray", "ray") from error
    if ray.is_initialized():
        yield ray
        return
    alone: dict[str, Any] = {"include_dashboard": False} if place == "local" else {}
    try:
        ray.init(place, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:  # ray.init may raise any error
        found = f"{place}: {' '.join(str(error).split())[:_LONGEST]}"
        what = f"Option `{option}`" if address else "Ray on this machine" if alone else "RAY_ADDRESS"
        wanted = "able to start" if alone else "the address of a running Ray cluster"
        raise expected(what, wanted, found) from error
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield ray
        finally:
            ray.shutdown()  # inside the redirection, since Ray may report more as it ends
