"""What a comparison of two files finds, as typed records."""

from __future__ import annotations

from dataclasses import dataclass, field

from bitwright.engine.record import OPTIONAL, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleDifference(Record):
    """One sample, by its place in the data and its name, and how far an output of it is off."""

    index: int
    name: str
    difference: float


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputDifference(Record):
    """An output of both files as users run them, all optimisations on.

    Attributes:
        name, other: in the first and in the second file.
        difference: relative, over all samples.
        worst: the largest difference of a number, of the largest number.
        agreement: the share of rows whose largest entry is the same; of outputs with rows.
        samples: the worst ones.
        per_sample: relative, in the data's order.
        optimized: what each runtime's optimisations change in each file's own output, relative.
    """

    name: str
    other: str
    difference: float
    worst: float
    agreement: float | None = None
    samples: tuple[SampleDifference, ...] = ()
    per_sample: tuple[float, ...] = ()
    optimized: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class TensorDifference(Record):
    """A value inside both files, as they are written.

    Attributes:
        name, other: in the first and in the second file.
        kind: the operator that makes it.
        by: how it was matched, by structure or by name.
        difference: relative, over all samples.
        worst: the largest difference of a number, of the largest number.
        enters: the largest difference among the matched values that it is made of.
        rounding: what the second file's own quantiser adds behind it, where it has one.
        sample: the place of the sample that is furthest off.
    """

    name: str
    other: str
    kind: str
    by: str
    difference: float
    worst: float
    enters: float
    rounding: float | None = None
    sample: int = 0

    @property
    def added(self) -> float:
        """How much of the difference arises here."""
        return self.difference - self.enters


@dataclass(frozen=True, eq=False, kw_only=True)
class FileTimes(Record):
    """Milliseconds of a run with one thread, and how many times as fast the second file is."""

    batch: int
    first_ms: float
    second_ms: float
    times: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, kw_only=True)
class FileComparison(Record):
    """All that was found of two files.

    Attributes:
        first, second: the files.
        samples: how many were run, of which `data`.
        tolerance, passed: the bound on outputs, and whether all hold it.
        outputs: of the files as users run them.
        begins: the first value that differs by more than rounding of floats.
        grows: the values where most of the difference arises.
        tensors: all that were matched, in the first file's order.
        alone: operators of each file that have no like in the other.
        times: of both, in turns.
        notes: what is to be told.
    """

    first: str
    second: str
    data: str
    samples: int
    tolerance: float
    passed: bool
    outputs: tuple[OutputDifference, ...]
    tensors: tuple[TensorDifference, ...]
    alone: tuple[tuple[str, ...], ...]
    begins: str | None = None
    grows: tuple[str, ...] = ()
    times: FileTimes | None = None
    notes: tuple[str, ...] = ()
    page: str | None = field(default=None, metadata=OPTIONAL)
