"""How long a run still takes: its stages weighed beforehand, the speed taken from the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# Before so much of the work is done, the speed so far tells nothing.
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Forecast:
    """What a run has before it.

    Attributes:
        totals: what the ticks of a stage count up to, where that is known.
        works: the work of each stage that takes long, all in one unit.
    """

    totals: Mapping[str, int] = field(default_factory=dict)
    works: Mapping[str, float] = field(default_factory=dict)

    def left(self, spent: Mapping[str, float], stage: str, share: float) -> float | None:
        """Seconds until all stages are done; None while too little is known.

        Equation: (W - w) s / w, for W the work of all stages, w what is done of it and s the
        seconds that took.

        Args:
            spent: seconds of every stage so far, this one included.
            stage: the one that runs.
            share: of it that is done.
        """
        if stage not in self.works:
            return None
        passed = [name for name in self.works if name in spent and name != stage]
        done = sum(self.works[name] for name in passed) + share * self.works[stage]
        whole = sum(self.works.values())
        if done < _LEAST_SHARE * whole:
            return None
        seconds = sum(spent[name] for name in (*passed, stage))
        return (whole - done) * seconds / done
