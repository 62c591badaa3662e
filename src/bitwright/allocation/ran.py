"""Configurations of a frontier that were run: what was predicted of each, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """One configuration, stitched and run.

    Attributes:
        method: ip, a greedy rule or uniform.
        used, share: of the cost, as in a `Point`.
        predicted: the change of the loss by the sum of single changes.
        measured: the same of the whole network on the samples of the table; `stderr` is its error.
        evaluated: figures on the evaluation data by name: agreement, KL, the metric.
    """

    method: str
    used: float
    share: float | None
    predicted: float
    measured: float
    stderr: float | None
    evaluated: dict[str, float]

    @property
    def error(self) -> float:
        """What the prediction left out: above 0 where the network loses more."""
        return self.measured - self.predicted
