"""What the benchmarks share: tables as Markdown and CSV, the machine, and what data are missing."""

from __future__ import annotations

import csv
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MEASURED = DOCS / "measured"
RESULTS = Path(__file__).parent / "results"
NEEDED = ("models.py", "loaders.py")

Row = Mapping[str, Any]


def data_root(text: str) -> Path:
    """The data folder; where it is not there, say what is missing and end with success."""
    root = Path(text)
    missing = [name for name in NEEDED if not (root / name).is_file()]
    if missing:
        print(
            f"skipped: --data-root {text} lacks {' and '.join(missing)}. The benchmark data are "
            "not part of this repository: name a folder whose models.py and loaders.py give the "
            "networks and the labelled data."
        )
        sys.exit(0)
    return root.absolute()


def markdown(rows: Iterable[Row], columns: Mapping[str, str]) -> str:
    """A Markdown table; `columns` maps a heading to a format such as '{top1:.2%}'."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(f, row) for f in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def _cell(form: str, row: Row) -> str:
    try:
        return form.format(**row)
    except (KeyError, TypeError, ValueError):
        return "-"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All rows, under the union of their keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run, numbers as numbers; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: _number(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"True": True, "False": False}.get(text, text)


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers of a page; the rest is written by hand."""
    marked = re.compile("<!-- figures -->.*<!-- end of figures -->", re.DOTALL)
    fresh = f"<!-- figures -->\n{text}\n<!-- end of figures -->"
    page = path.read_text() if path.is_file() else "<!-- figures --><!-- end of figures -->\n"
    path.write_text(marked.sub(lambda _: fresh, page))


def machine(*packages: str) -> str:
    """What was measured on, in one line."""
    import importlib.metadata

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{platform.machine()}, {os.cpu_count()} cores{_vector()}; {versions}"


def _vector() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "AVX-512 VNNI"}
    found = [name for flag, name in known.items() if f" {flag} " in flags]
    return f" with {found[-1]}" if found else ""
