"""Makes a web page about runs and their results: a single file that needs no network."""

from mtrl.report.page import NAME, write

__all__ = ["NAME", "write"]
