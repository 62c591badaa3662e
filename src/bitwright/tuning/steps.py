"""The steps after the bits are chosen: the network is put right by its own statistics and answers.

Each step is judged on calibration samples that neither solving nor tuning has seen
(`Samples.held_out`), and undone where they find it no better.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, cast

from bitwright.engine.progress import Progress
from bitwright.evaluation.figures import TuningFigures
from bitwright.evaluation.judge import Loss
from bitwright.methods.problem import Method
from bitwright.recipe.registered import load_registered
from bitwright.solving.configuration import Configuration
from bitwright.solving.samples import Samples
from bitwright.tuning.catalogue import ABOUT, PLACED, REFINE, find_tuning_steps
from bitwright.tuning.report import TuneReport
from bitwright.tuning.there import bring_back, is_elsewhere, send, send_samples


class TuningStep(Protocol):
    """A frozen object that makes a configuration better, or leaves it as it is."""

    @property
    def name(self) -> str:
        """As `--tune` and the reports have it."""

    def apply(self, start: Configuration, samples: Samples) -> tuple[Configuration, TuneReport]:
        """The configuration afterwards, `start` itself where it is no better; and what happened."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """A configuration after tuning, and what each step did."""

    configuration: Configuration
    reports: tuple[TuneReport, ...] = ()

    def figures(self) -> tuple[TuningFigures, ...]:
        """What metrics.json says of tuning: losses on the samples held out from it."""
        return tuple(_figures(report) for report in self.reports)


def tune(
    start: Configuration,
    samples: Samples,
    steps: str | Iterable[str | TuningStep],
    *,
    refine: Method | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Apply tuning steps, in their order, to one solved configuration.

    Args:
        start: the solved configuration.
        samples: calibration samples in two parts (`split_samples`): one to learn from, and one that
            judges every step and undoes what is no better.
        steps: such as "bn, bias", or names and objects with `name` and `apply`.
        refine: the method of the step `refine`; the one that solved `start` where none is given.
        progress: told of every step.

    Raises:
        RecipeError: an unknown step.
    """
    progress = progress or Progress()
    found, reports, made = start, tuple[TuneReport, ...](), list[TuningStep]()
    for asked in find_tuning_steps(steps) if isinstance(steps, str) else tuple(steps):
        if asked == REFINE:
            again = refine or start.work.method
            step = make_step(REFINE, method=again, begun=start, earlier=tuple(made))
        else:
            step = make_step(asked, start.work.seed) if isinstance(asked, str) else asked
        with progress.stage(f"tune {step.name}"):
            found, report = _apply(step, found, samples)
        made.append(step)
        # Steps within a step are reported before it, in the order of what happened.
        reports += (*report.inner, report)
        for one in (*report.inner, report):
            _say(progress, one)
    return Tuned(found, reports)


def _apply(
    step: TuningStep, start: Configuration, samples: Samples
) -> tuple[Configuration, TuneReport]:
    """Apply a step where the run computes.

    Solving again moves its own passes; steps of the caller's may know of no device.
    """
    if step.name not in PLACED or not is_elsewhere(start):
        return step.apply(start, samples)
    there = send(start)
    made, report = step.apply(there, send_samples(there, samples))
    return (start if made is there else bring_back(start, made)), report


def make_step(name: str, seed: int = 0, **more: Any) -> TuningStep:
    """The step of a name, with its settings and the run's seed.

    Raises:
        RecipeError: an unknown step.
    """
    (name,) = find_tuning_steps(name)
    if name not in ABOUT:
        return cast(TuningStep, load_registered("tuning step", name))
    module, _, kind = ABOUT[name].home.partition(":")
    home = getattr(importlib.import_module(f"bitwright.tuning.{module}"), kind)
    made = home(**ABOUT[name].settings, **more)
    if is_dataclass(made) and any(field.name == "seed" for field in fields(made)):
        made = replace(cast(Any, made), seed=seed)
    return cast(TuningStep, made)


def _say(progress: Progress, report: TuneReport) -> None:
    _tell(progress, f"tune {report.stage}", report.before, report.after, len(report.units))
    if report.note:
        progress.note(f"tune {report.stage}", report.note)


def _tell(progress: Progress, stage: str, before: Loss, after: Loss, units: int) -> None:
    progress.figures(stage, loss_before=before.plain, loss=after.plain, units_changed=units)


def _figures(report: TuneReport) -> TuningFigures:
    return TuningFigures(
        step=report.stage,
        kept=report.kept,
        loss_before=report.before.plain,
        loss_after=report.after.plain,
        softened_before=report.before.soft,
        softened_after=report.after.soft,
        units=len(report.units),
        fit_samples=report.fit,
        held_out_samples=report.held_out,
        note=report.note,
    )
