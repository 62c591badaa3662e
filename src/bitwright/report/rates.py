"""How sure a rate is: confidence intervals, and what few samples can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

FEW_SAMPLES = 100
# The normal distribution's quantile at 97.5 %.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """Where the true rate lies, 95 times in 100."""

    low: float
    high: float

    def __str__(self) -> str:
        """In percent, rounded outwards, so that what is not certain is not said to be."""
        low = math.floor(1000 * self.low + 1e-9) / 10
        high = math.ceil(1000 * self.high - 1e-9) / 10
        return f"[{low:.1f}, {high:.1f}]"


def interval(rate: float | None, samples: float | None) -> Interval | None:
    """The 95 % interval of a rate seen on so many samples; None where it is no such rate.

    Equation: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if rate is None or samples is None or samples < 1 or not 0.0 <= rate <= 1.0:
        return None
    square = _Z * _Z / samples
    middle = rate + square / 2
    reach = math.sqrt(square * (rate * (1 - rate) + square / 4))
    # At the ends the formula is exact but for rounding.
    low = 0.0 if rate == 0.0 else max(0.0, (middle - reach) / (1 + square))
    high = 1.0 if rate == 1.0 else min(1.0, (middle + reach) / (1 + square))
    return Interval(low, high)


def say_count(count: float, noun: str, plural: str = "") -> str:
    """A number and its noun, in the singular where there is one."""
    return f"{count:.0f} {noun if count == 1 else plural or noun + 's'}"


def about_few(agreement: float | None, samples: float | None, answers: str = "") -> str:
    """What so few samples cannot tell; empty where there are enough."""
    if samples is None or samples >= FEW_SAMPLES:
        return ""
    said = f"measured on {say_count(samples, 'sample')} only"
    found = None if answers == "embedding" else interval(agreement, samples)
    if found is None:
        return f"{said}."
    return f"{said}: the true agreement may be as low as {math.floor(1000 * found.low) / 10:.1f} %."
