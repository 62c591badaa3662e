"""Run directories side by side: what each became, and which units have other bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitwright.engine.record import OPTIONAL, Record
from bitwright.errors import InputError
from bitwright.evaluation.figures import Metrics
from bitwright.export import rundir
from bitwright.export.rundir import RunDirectory
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census
from bitwright.graph.choice import Choice
from bitwright.pipeline.runs import recipe_of


@dataclass(frozen=True, eq=False, kw_only=True)
class RunFigures(Record):
    """One run in a line.

    Attributes:
        run: its folder.
        model, data, method, target: of its recipe.
        samples, evaluated_on: what its figures were measured on.
        agreement, kl: against the float network.
        metric: the metric's name where labels told one.
        before, after: it, of the float and of the quantised network.
        weight_ratio, bops_ratio: against float.
        onnx_bytes: of model.onnx, where it was written.
        verified: whether the file gave the simulation's answers; None where nobody asked.
        times: how many times float's time the file takes, where both were timed.
        seconds: what the run took, all stages.
    """

    run: str
    model: str
    data: str
    method: str
    target: str
    samples: int
    evaluated_on: str | None = field(default=None, metadata=OPTIONAL)
    agreement: float
    kl: float
    metric: str | None = field(default=None, metadata=OPTIONAL)
    before: float | None = field(default=None, metadata=OPTIONAL)
    after: float | None = field(default=None, metadata=OPTIONAL)
    weight_ratio: float
    bops_ratio: float
    onnx_bytes: int | None = field(default=None, metadata=OPTIONAL)
    verified: bool | None = field(default=None, metadata=OPTIONAL)
    times: float | None = field(default=None, metadata=OPTIONAL)
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitBits(Record):
    """A unit whose bits are not the same in all runs; None in a run that has no such unit.

    Attributes:
        name: of the unit.
        params: how large its weight is.
        bits: in each run.
    """

    name: str
    params: int
    bits: tuple[str | None, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class RunComparison(Record):
    """Runs beside one another.

    Attributes:
        runs: in the order in which they were named.
        same: how many units have the same bits in all.
        units: the others, in the first run's order.
        notes: what makes figures incomparable.
    """

    runs: tuple[RunFigures, ...]
    same: int
    units: tuple[UnitBits, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Runs are told of, not judged."""
        return True


def compare_runs(paths: Sequence[Path]) -> RunComparison:
    """What two or more runs became, from their own records: no network is run.

    Raises:
        RunDirectoryError: not a run, or one whose records are damaged.
        InputError: one folder alone, or one named twice.
    """
    if len(paths) < 2:
        raise InputError("one run has nothing beside it. Name two or more: 'compare RUN OTHER'.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a run is named twice. Name each once.")
    directories = [rundir.open_existing(path) for path in paths]
    figures = tuple(_read_figures(one) for one in directories)
    bits = [_read_bits(one) for one in directories]
    names = list(dict.fromkeys(name for own in bits for name in own))
    rows = [
        UnitBits(
            name=name,
            params=max(own[name][1] for own in bits if name in own),
            bits=tuple(own[name][0] if name in own else None for own in bits),
        )
        for name in names
    ]
    other = tuple(row for row in rows if len(set(row.bits)) > 1)
    return RunComparison(
        runs=figures, same=len(rows) - len(other), units=other, notes=tuple(_doubts(figures))
    )


def _read_figures(directory: RunDirectory) -> RunFigures:
    recipe, metrics = recipe_of(directory), directory.read(rundir.METRICS, Metrics)
    there = directory.has(rundir.VERIFY)
    verify = directory.read(rundir.VERIFY, Verification) if there else None
    speed = verify.speed if verify is not None else None
    name = next(iter(metrics.after), None)
    return RunFigures(
        run=str(directory.path),
        model=recipe.model,
        data=recipe.data,
        method=recipe.method,
        target=recipe.target,
        samples=metrics.samples,
        evaluated_on=metrics.evaluated_on,
        agreement=metrics.agreement,
        kl=metrics.kl,
        metric=name,
        before=None if name is None else metrics.before.get(name),
        after=None if name is None else metrics.after[name],
        weight_ratio=metrics.size.weight_ratio,
        bops_ratio=metrics.bops_ratio,
        onnx_bytes=metrics.size.onnx_bytes,
        verified=None if verify is None else verify.passed,
        times=None if speed is None else speed.ratio,
        seconds=sum(stage.seconds for stage in metrics.stages),
    )


def _read_bits(directory: RunDirectory) -> dict[str, tuple[str, int]]:
    census = directory.read(rundir.CENSUS, Census)
    return {
        unit.name: (str(Choice(unit.w_bits, unit.a_bits, max(unit.points, 1))), unit.params)
        for unit in census.units
    }


def _doubts(figures: Sequence[RunFigures]) -> list[str]:
    """What the runs do not have in common and would have to, for figures to compare."""
    found = []
    for what, values in (
        ("networks", {one.model for one in figures}),
        ("calibration data", {one.data for one in figures}),
        ("data to measure on", {one.evaluated_on for one in figures}),
        ("numbers of samples", {one.samples for one in figures}),
    ):
        if len(values) > 1:
            told = ", ".join(sorted(str(value) for value in values))
            found.append(f"the runs have other {what} ({told}): their figures do not compare")
    return found
