"""What a tuning stage did, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.tune.judge import Loss


@dataclass(frozen=True)
class TuneReport:
    """The outcome of one tuning stage on the samples held out from it.

    Attributes:
        stage: `bn` or `bias`.
        before, after: loss of the network as it came and as it leaves; equal where it was kept.
        tried: loss of the best attempt, kept or not.
        units: those whose scale or bias changed, in order of execution.
        temperature: by which answers were divided for the loss.
        fit, held_out: how many samples it was tuned on, and judged by.
        history: (iteration or pass, loss) at every moment that was judged.
        note: why nothing was changed, or empty.
    """

    stage: str
    before: Loss
    after: Loss
    tried: Loss
    units: tuple[str, ...]
    temperature: float
    fit: int
    held_out: int
    history: tuple[tuple[int, Loss], ...] = ()
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the network was changed."""
        return bool(self.units)
