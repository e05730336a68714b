"""Compiles C code when it is first needed. No file is kept, and callers have a fallback if there is no compiler."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

FAILURES = (OSError, AttributeError, subprocess.SubprocessError)
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
        subprocess.run(command, input=source, text=True, check=True, capture_output=True, timeout=120)
        return ctypes.CDLL(library)
