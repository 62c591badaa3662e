"""What the causes share: when a loss is one, how figures read, how options add to a run's own."""

from __future__ import annotations

import math

from bitwright.diagnosis.symptoms import Symptoms

# Of the output's energy: with less noise than this (25 dB) few answers change.
LOST = 10**-2.5
# A place is a cause where at least this part of the noise goes without it.
SHARE = 0.3
# What says where, and not why, stands behind what says both.
GENERAL = 0.5


def say_share(share: float) -> str:
    """What leaving a place in float does, in words."""
    return f"{share:.0%} of the output's noise is gone when it is left in float"


def add_option(found: Symptoms, key: str, more: str) -> str:
    """What the run has under a key, with more behind it."""
    own = found.settings.get(key, "")
    return f"{own}, {more}" if own else more


def leave_in_float(found: Symptoms, units: tuple[str, ...]) -> dict[str, str]:
    """Adds and the like in float, as the target `paper` has them, and these units."""
    more = ", ".join(f"{unit}=float" for unit in dict.fromkeys(units))
    return {"target": "paper"} | ({"keep": add_option(found, "keep", more)} if more else {})


def decibels(noise: float) -> str:
    """Signal to noise of a share of noise, without its unit."""
    return f"{-10 * math.log10(noise):.1f}" if 0 < noise < math.inf else "no"
