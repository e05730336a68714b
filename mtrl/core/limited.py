"""Warnings that do not flood a terminal."""

from __future__ import annotations

import logging
from typing import Any


class LimitedWarnings:
    """Logs the first few warnings of a kind, and says that further ones are left out."""

    def __init__(self, logger: logging.Logger, most: int = 5) -> None:
        self._logger, self._most, self._count = logger, most, 0

    def __call__(self, message: str, *arguments: Any, exc_info: bool = False) -> None:
        self._count += 1
        if self._count <= self._most:
            self._logger.warning(message, *arguments, exc_info=exc_info)
        if self._count == self._most:
            self._logger.warning("Further warnings of this kind are not shown.")
