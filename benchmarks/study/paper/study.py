"""What every artefact of the study is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.paper.networks import FULL, Scale
from benchmarks.tables import MEASURED, RESULTS


@dataclass(frozen=True)
class Study:
    """Where data are, where results go, how large the study is, and of which networks.

    `measures` is false where pages are written again from what was measured.
    """

    root: Path
    networks: tuple[str, ...]
    scale: Scale = FULL
    results: Path = RESULTS / "paper"
    pages: Path = MEASURED / "paper"
    store: Path | None = None
    measures: bool = True

    def of(self, names: Sequence[str]) -> list[str]:
        """Those of the names that are wanted."""
        return [name for name in names if name in self.networks]

    def store_of(self, network: str) -> Path | None:
        """Where solutions of a network are kept between artefacts."""
        return None if self.store is None else self.store / network

    def publish(self, name: str, text: str, picture: str | None = None) -> None:
        """Write a page of the documentation, and its picture."""
        self.pages.mkdir(parents=True, exist_ok=True)
        (self.pages / f"{name}.md").write_text(text)
        if picture is not None:
            (self.pages / f"{name}.svg").write_text(picture)


def percent(value: str | float) -> str:
    """A share as per cent, with two digits."""
    return f"{float(value):.2%}"
