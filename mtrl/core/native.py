"""C that is compiled when it is first needed: no file is kept, and who calls it has another way without a compiler."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

FAILURES = (OSError, AttributeError, subprocess.SubprocessError)
"""What `compiled` and the use of its library raise where there is no compiler, or not the right one."""


@functools.cache
def compiled(source: str, *flags: str) -> ctypes.CDLL:
    """The library of this C source, by ``cc`` or what the variable ``CC`` names; its functions release Python's lock.

    Raises one of `FAILURES`.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(prefix="mtrl-") as folder:
        library = str(Path(folder, "library.so"))
        command = [*compiler, "-shared", "-fPIC", *flags, "-x", "c", "-", "-o", library, "-lm"]
        subprocess.run(command, input=source, text=True, check=True, capture_output=True, timeout=120)
        return ctypes.CDLL(library)
