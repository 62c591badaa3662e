"""A budget of latency beside what a file of the chosen bits takes, and how much tighter it must be.

A table of latencies predicts; the file that a user gets is timed. Both are told, and a budget that
the file breaks by more than the noise of timing is tightened by what prediction and time differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from bitwright.allocation.budget import Budget
from bitwright.allocation.latencies import LATENCY
from bitwright.engine.record import Record

# What no timing can tell, whatever its quartiles say: a file of the same operators, timed again.
LEAST_NOISE = 0.01


@dataclass(frozen=True)
class FileTime:
    """What a file takes, and what share of float's time that is; two standard errors of the share.

    `noise` is relative.
    """

    ms: float
    share: float
    noise: float


@dataclass(frozen=True, eq=False)
class LatencyCheck(Record):
    """A budget of latency, what the table predicts and what was measured, all in its own unit.

    Attributes:
        asked: as the user wrote it.
        limit: the most; a share of float's time, or milliseconds.
        relative: which of the two.
        predicted, measured: of the chosen bits; `noise` is what the second may be off by.
        rounds: how often the budget was tightened.
        file: what was timed.
    """

    asked: str
    limit: float
    relative: bool
    predicted: float
    measured: float
    noise: float
    rounds: int = 0
    file: str = ""

    @property
    def held(self) -> bool:
        """Whether the budget is held, as far as timing can tell."""
        return self.measured - self.noise <= self.limit

    def to_json(self) -> dict[str, Any]:
        """As metrics.json has it."""
        return {**super().to_json(), "held": self.held}


def check_time(
    budgets: Iterable[Budget], predicted: FileTime, measured: FileTime, rounds: int, file: str
) -> LatencyCheck | None:
    """The budget of this machine's latency that is broken most; None where there is none.

    Args:
        budgets: those asked for.
        predicted: by the table; its noise counts for nothing.
        measured: of a file of the chosen bits.
        rounds: how often they were tightened.
        file: what was timed.
    """
    found = []
    for budget in budgets:
        if budget.name == LATENCY:
            kind = "share" if budget.relative else "ms"
            told, took = getattr(predicted, kind), getattr(measured, kind)
            noise = took * max(measured.noise, LEAST_NOISE)
            limit = float(budget.amount)
            found.append(
                LatencyCheck(budget.text, limit, budget.relative, told, took, noise, rounds, file)
            )
    return max(found, key=lambda c: c.measured / max(c.limit, 1e-12), default=None)


def tighten(budgets: Iterable[Budget], found: LatencyCheck) -> tuple[Budget, ...]:
    """Budgets of latency lowered so that, with the same error, what is predicted next holds.

    Equation: limit = asked * predicted / measured, which is below what is predicted now.
    """
    share = Fraction(found.predicted / found.measured)
    return tuple(replace(b, amount=b.amount * share) if b.name == LATENCY else b for b in budgets)
