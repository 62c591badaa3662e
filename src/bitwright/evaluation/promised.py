"""What a run found of its promise, as metrics.json has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.engine.record import OPTIONAL, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class LookRecord(Record):
    """One file judged by the samples that took no part.

    Attributes:
        number: of the look, from 1: every later one may err less.
        holds: whether the bound keeps the limit.
        estimate: the figure on the samples.
        bound: what the figure of all data keeps, with confidence 1 - alpha.
        alpha: the chance of error that this look may spend.
        samples: that it was judged by.
        needed: how many would show it, if they went on as these; None if none would.
        by: the method of the bound, or why there is none.
    """

    number: int
    holds: bool
    estimate: float
    bound: float
    alpha: float
    samples: int
    needed: int | None
    by: str


@dataclass(frozen=True, eq=False, kw_only=True)
class RungRecord(Record):
    """One thing that was tried for the promise.

    Attributes:
        name: what it changes, in words.
        settings: the keys of the recipe that it changes.
        figure, kl: on calibration samples kept apart for choosing, in the simulation: the promise's
            figure, or what agreement says of it without labels; the divergence from float.
        kept: whether it is no worse there than what was kept before.
        look: what the file showed, where it was looked at.
    """

    name: str
    settings: Mapping[str, str]
    figure: float
    kl: float
    kept: bool
    look: LookRecord | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Promised(Record):
    """What became of a promise.

    Attributes:
        asked: as the user wrote it.
        holds: whether it holds in the file that was written.
        look: of that file, by the proof samples.
        judged, proof: where the samples come from that choices, and that proof were made by.
        runtime: that ran the file, with its optimisations.
        rungs: what was tried, in order.
        settings: the keys of the recipe that the kept rungs changed, as the network was made.
        cost, used: what was to be small, and how much of it is used; None without a search.
        finer: the units with more bits than the scheme, or in float, where a search chose them.
        remedy: the cheapest thing that may help, where it does not hold.
        told: all this in a sentence.
        file: SHA-256 of the file that was judged.
    """

    asked: str
    holds: bool
    look: LookRecord
    judged: str
    proof: str
    runtime: str
    rungs: tuple[RungRecord, ...]
    settings: Mapping[str, str]
    cost: str | None = field(default=None, metadata=OPTIONAL)
    used: float | None = field(default=None, metadata=OPTIONAL)
    finer: tuple[str, ...] = ()
    remedy: str | None = field(default=None, metadata=OPTIONAL)
    told: str
    file: str
