"""Something that a user should know."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.engine.record import Record


@dataclass(frozen=True)
class Note(Record):
    """Something a user should know about one place: of the network, the data, the run."""

    place: str
    text: str
