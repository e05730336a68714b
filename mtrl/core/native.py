"""Compiles C code when it is first needed. No file is kept, and callers have a fallback if there is no compiler."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FAILURES = (OSError, AttributeError, ValueError, subprocess.SubprocessError)
"""The errors of `compiled`, or of access to its library, if there is no suitable compiler."""


@functools.cache
def compiled(source: str, *flags: str) -> ctypes.CDLL:
    """Compile C source with `cc`, or the command in the environment variable `CC`, and load the library.

    Calls of the library's functions release the GIL.

    Raises one of `FAILURES`.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(prefix="mtrl-") as folder:
        library = str(Path(folder, "library.so"))
        command = [*compiler, "-shared", "-fPIC", *flags, "-x", "c", "-", "-o", library, "-lm"]
        done = subprocess.run(command, input=source, text=True, check=False, capture_output=True, timeout=120)
        if done.returncode != 0:
            raise OSError(f"{shlex.join(compiler)} ended with exit code {done.returncode}: {done.stderr.strip()[:500]}")
        return ctypes.CDLL(library)


@functools.cache
def function(
    source: str, name: str, flags: tuple[str, ...], otherwise: str, arguments: tuple[Any, ...], result: Any = None
) -> Any:
    """The function `name` of C source. If it cannot be compiled, log `otherwise` and the reason, and return None.

    flags: of the compiler; otherwise: a line that says what is done instead; arguments, result: types of ctypes.
    """
    try:
        found = getattr(compiled(source, *flags), name)
    except FAILURES as error:
        logger.info("%s: %s", otherwise, error)
        return None
    found.argtypes, found.restype = arguments, result
    return found
