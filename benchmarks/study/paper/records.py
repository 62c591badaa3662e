"""Rows of measurements on disk: what was measured is not measured again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Row = dict[str, str]


@dataclass
class Records:
    """The rows of one CSV file; rows of one identity are there together or not at all."""

    path: Path
    identity: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def has(self, wanted: Mapping[str, object]) -> bool:
        """Whether rows of this identity are there."""
        return any(all(row[k] == str(wanted[k]) for k in self.identity) for row in self.rows)

    def need(
        self, wanted: Mapping[str, object], measure: Callable[[], Sequence[Mapping[str, object]]]
    ) -> None:
        """Measure what is not there yet, and keep it."""
        if self.has(wanted):
            return
        for row in measure():
            self.rows.append({k: str(v) for k, v in {**wanted, **row}.items()})
            print(self.path.stem, self.rows[-1], flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(k for row in self.rows for k in row))
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def where(self, **wanted: object) -> list[Row]:
        """The rows with these values."""
        return [row for row in self.rows if all(row[k] == str(v) for k, v in wanted.items())]
