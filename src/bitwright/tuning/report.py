"""What a tuning stage did, as numbers."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.evaluation.judge import Judge, Loss
from bitwright.solving.samples import Samples


@dataclass(frozen=True)
class TuneReport:
    """The outcome of one tuning stage on the samples held out from it.

    Attributes:
        stage: the name of the step, as `--tune` has it.
        before, after: loss of the network as it came and as it leaves; equal where it was kept.
        tried: loss of the best attempt, kept or not.
        units: those whose scale or bias changed, in order of execution.
        temperature: by which answers were divided for the loss.
        fit, held_out: how many samples it was tuned on, and judged by.
        history: (iteration or pass, loss) at every moment that was judged.
        note: why nothing was changed, or empty.
        inner: of the steps that were applied within this one, in order.
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
    inner: tuple[TuneReport, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the network was changed."""
        return bool(self.units)


def report_attempt(
    stage: str,
    judged: tuple[Loss, Loss],
    units: tuple[str, ...],
    kept: bool,
    judge: Judge,
    samples: Samples,
    note: str = "",
) -> TuneReport:
    """Of one attempt, judged before and after, that was kept as a whole or not at all."""
    before, after = judged
    undone = f"the held-out loss is {after}, it was {before}: left as it was"
    return TuneReport(
        stage=stage,
        before=before,
        after=after if kept else before,
        tried=after,
        units=units if kept else (),
        temperature=judge.temperature,
        fit=samples.fit_count,
        held_out=samples.held_out_count,
        note=note if kept else note or undone,
    )


def report_moments(
    stage: str,
    history: list[tuple[int, Loss]],
    best: Loss,
    units: tuple[str, ...],
    judge: Judge,
    samples: Samples,
    note: str,
) -> TuneReport:
    """Of a stage that was judged at many moments, the first of them before it began."""
    before = history[0][1]
    return TuneReport(
        stage=stage,
        before=before,
        after=best,
        tried=min((loss for _, loss in history[1:]), key=lambda loss: loss.soft, default=before),
        units=units,
        temperature=judge.temperature,
        fit=samples.fit_count,
        held_out=samples.held_out_count,
        history=tuple(history),
        note=note,
    )
