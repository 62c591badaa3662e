"""verify.json: what ONNX Runtime computes from a file, beside what the simulation computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.engine.record import OPTIONAL, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class OptimizedRun(Record):
    """The whole network with the runtime's optimisations on.

    Attributes:
        agreement: share of the answers that are the simulation's.
        max_difference, max_relative_difference: of any number of the answers.
        operators: what the runtime really runs, and how often.
        note: why the answers are others, where they are.
    """

    agreement: float
    max_difference: float
    max_relative_difference: float
    operators: Mapping[str, int]
    note: str | None


@dataclass(frozen=True, eq=False, kw_only=True)
class PlainRun(Record):
    """The whole network without optimisations, operator by operator as the file is written.

    Of the first samples: units have proven already what it computes. 0: of all (older files).
    """

    agreement: float
    max_difference: float
    max_relative_difference: float
    undecided: int
    samples: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class JudgingRuntime(Record):
    """What ran the file."""

    name: str
    version: str


@dataclass(frozen=True, eq=False, kw_only=True)
class OtherSize(Record):
    """A few samples at another height and width."""

    larger_by: int
    agreement: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Speed(Record):
    """A file's time beside float's; above a ratio of 1 it is slower."""

    float_ms: float
    quantized_ms: float
    ratio: float
    samples: int
    threads: int
    turns: int


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitSums(Record):
    """What a unit's integers come to at most, as shares of what holds them.

    See `bitwright.export.certificate.certify`; None where other kernels add them.
    """

    int32: float
    float32: float
    pairs: float | None
    any_pair: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Certificate(Record):
    """Which sums of a file fit on every processor.

    Attributes:
        asked: whether that was promised.
        holds: whether all processors give the same sums, in every unit.
        float_sums: whether runtimes that add in float do too.
        units: the shares of each.
    """

    asked: bool = False
    holds: bool
    float_sums: bool
    units: Mapping[str, UnitSums]


@dataclass(frozen=True, eq=False, kw_only=True)
class AsRun(Record):
    """A file in another runtime than ONNX Runtime, with its optimisations and floats of 32 bits.

    Attributes:
        runtime, version: which one.
        agreement: share of the answers that are the simulation's.
        units: each unit's worst relative difference on equal inputs.
        error: what it refused to load or run.
    """

    runtime: str
    version: str
    agreement: float
    units: Mapping[str, float]
    error: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Rules(Record):
    """Rules of a runtime that cannot be asked: the nodes that break one, and which."""

    of: str
    broken: Mapping[str, str]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rejection(Record):
    """A file that answers at random; `bitwright.export.floor` says what that means.

    Attributes:
        agreement: share of its answers that are the float network's.
        chance: what answers drawn by lot would have, each as often as the file and float give it.
        bound: what its true agreement exceeds with 95 % confidence.
        samples: how many there were.
        written: whether it was written all the same, as model.rejected.onnx.
    """

    agreement: float
    chance: float
    bound: float
    samples: int
    written: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Verification(Record):
    """The whole of verify.json.

    Attributes:
        passed: whether the promise holds, in every unit and end to end.
        tolerance: of a unit's relative difference.
        units: each unit's worst relative difference on equal inputs.
        samples: that the whole network was given.
        undecided: answers that float rounding alone decides, where samples are few.
        error: what the runtime refused to load or run.
        agreement: share of the answers that are the simulation's, as the file runs: with all
            optimisations of the runtime (in files of earlier versions: without them).
        max_difference, max_relative_difference: of any number of the answers.
        outputs: of several outputs the relative difference of each.
        optimized: the same, with what the runtime made of the file.
        unoptimized: without optimisations.
        runtime: what judged.
        float_agreement: share of the answers that are the float network's, as the file runs.
        rejected: where the file answers at random, which is then not called model.onnx.
        other_size: at another size, where sizes are free.
        portable: which sums fit on every processor.
        first_failure: the first unit out of tolerance.
        speed: beside float, where both could be timed.
        as_run: in the runtime that the target names, where that is another.
        rules: those that the target wants kept.
    """

    passed: bool
    tolerance: float
    units: Mapping[str, float]
    samples: int
    undecided: int
    error: str | None
    agreement: float
    max_difference: float
    max_relative_difference: float
    outputs: Mapping[str, float] | None = field(default=None, metadata=OPTIONAL)
    optimized: OptimizedRun
    unoptimized: PlainRun | None = None
    runtime: JudgingRuntime | None = None
    float_agreement: float | None = None
    rejected: Rejection | None = field(default=None, metadata=OPTIONAL)
    other_size: OtherSize | None = None
    portable: Certificate | None = None
    first_failure: str | None
    speed: Speed | None = None
    as_run: AsRun | None = None
    rules: Rules | None = None

    @property
    def judge(self) -> str:
        """What judged the file, as people name it."""
        return self.runtime.name if self.runtime else "ONNX Runtime"

    @property
    def plain_agreement(self) -> float:
        """Share of the answers that are the simulation's, without optimisations."""
        return self.unoptimized.agreement if self.unoptimized else self.agreement

    def agrees(self, unit: str) -> bool:
        """Whether a unit's difference is within the tolerance; what is no number is not."""
        return self.units[unit] <= self.tolerance
