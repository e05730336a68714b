"""One web page of what runs were and what they reached: one file, without a network."""

from mtrl.report.page import NAME, write

__all__ = ["NAME", "write"]
