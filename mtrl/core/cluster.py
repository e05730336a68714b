"""The one place where Ray is imported: a connection to the machines that sweeps and collectors run on."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from mtrl.core.errors import expected, missing

_LONGEST = 200
"""Letters that a complaint takes from Ray's own."""


@contextlib.contextmanager
def connected(what: str, address: str, option: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster; to the one that this process is connected to already, if it is.

    What is printed meanwhile goes to stderr: Ray tells of dead workers on stdout, where results alone belong.

    Args:
        what: what needs Ray, for a complaint.
        address: `host:port`, or `auto` for the cluster that this machine is part of. Empty: the variable RAY_ADDRESS;
            where there is none, a new cluster of this machine alone, which ends with the connection.
        option: the option that gave the address.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    if place == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # and open ports for other machines
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
    except Exception as error:  # Ray's own start raises nothing more special
        found = f"{place}: {' '.join(str(error).split())[:_LONGEST]}"
        raise expected(f"Option `{option}`", "the address of a Ray cluster that runs", found) from error
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield ray
        finally:
            ray.shutdown()  # it tells the rest
