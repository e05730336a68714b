"""Writes tables of a benchmark's result into Markdown pages.

    python -m mtrl.bench.pages results/bench/rivals.json README.md docs/speed.md

Each table follows an HTML comment that begins with `BENCH: NAME`, such as `rivals: summary`. NAME is one of the
benchmark's `TABLES`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtrl.bench import rivals, scale

TABLES: dict[str, dict[str, Callable[[dict[str, Any]], list[list[str]]]]] = {
    "rivals": rivals.TABLES,
    "scale": scale.TABLES,
}


def rewritten(page: str, result: dict[str, Any]) -> str:
    """The page, with the tables of this benchmark replaced by those of `result`."""
    for name, make in TABLES[result["bench"]].items():
        head, *rows = ["| " + " | ".join(cells).lstrip() + " |" for cells in make(result)]
        rule = re.sub(r"[^|]+", "---", head)
        table = "".join(f"{line}\n" for line in (head, rule, *rows))
        pattern = rf"(<!-- {result['bench']}: {name}\b.*?-->\n\n)(?:\|.*\n)+"
        page = re.sub(pattern, lambda found, table=table: found[1] + table, page)
    return page


def main() -> None:
    result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for path in map(Path, sys.argv[2:]):
        path.write_text(rewritten(path.read_text(encoding="utf-8"), result), encoding="utf-8")


if __name__ == "__main__":
    main()
