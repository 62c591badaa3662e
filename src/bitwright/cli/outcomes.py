"""What the commands that run a network found, as they show it and as `--json` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bitwright.allocation.chosen import LosslessSearch
from bitwright.engine.note import Note
from bitwright.engine.record import Record
from bitwright.evaluation.figures import Metrics
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census
from bitwright.report.summary import comparison

if TYPE_CHECKING:
    from bitwright.latency.trial import SpeedTrial
    from bitwright.pipeline.outlook import StageOutlook


@dataclass(frozen=True, eq=False, kw_only=True)
class RunOutcome(Record):
    """What `quantize` made.

    Attributes:
        metrics, verify: as in the run directory.
        out: the run directory.
        scheme, target: that were asked for.
        lossless: what a search for a configuration that loses nothing found.
        notes: what a user should know of the network.
    """

    metrics: Metrics
    verify: Verification
    out: str
    scheme: str
    target: str
    lossless: LosslessSearch | None
    notes: tuple[Note, ...]

    @property
    def promised(self) -> bool:
        """Whether what was promised holds."""
        agrees = self.lossless is None or self.lossless.attained
        in_time = self.metrics.latency is None or self.metrics.latency.held
        kept = self.metrics.promise is None or self.metrics.promise.holds
        written = self.verify.passed and self.verify.rejected is None
        return written and agrees and in_time and kept

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it: `lossless` is an object, empty where nothing was searched."""
        found = super().to_json()
        return {**found, "lossless": found["lossless"] or {}}


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimate(Record):
    """What a run would take, from counts and a probe of this machine.

    Attributes:
        macs_per_sample: in units.
        float_macs: of operators that stay in float, by name.
        uncounted: operators of which nothing is known.
        float_mb: of the network's tensors.
        calibration_samples: that would be looked at, at most where they were not counted.
        samples_counted: whether they were.
        estimated_seconds, estimated_memory_mb: of a run of the default, on this machine as it is.
        processor_seconds: the same, of one thread and an idle machine.
        stages: the same, stage by stage.
        within: what `--time` would choose, in one line; "" where no time was given.
    """

    macs_per_sample: int
    float_macs: Mapping[str, int]
    uncounted: tuple[str, ...]
    float_mb: float
    calibration_samples: int
    samples_counted: bool
    estimated_seconds: int
    estimated_memory_mb: int
    processor_seconds: float = 0.0
    stages: tuple[StageOutlook, ...] = ()
    within: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class SpeedTrials(Record):
    """How fast a file of each target would be, at a scheme rounded to nearest."""

    scheme: str
    trials: tuple[SpeedTrial, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagnosis(Record):
    """What `doctor` found: what would be quantised, what a run would take, how fast a file is."""

    model: str
    inputs: tuple[str, ...]
    census: Census
    target: str
    plan: Estimate
    speed: SpeedTrials | None = None


def outcome_lines(found: RunOutcome) -> list[str]:
    """What `quantize` made, as a person reads it."""
    return comparison(
        found.metrics,
        found.metrics.size,
        found.metrics.warnings,
        lossless=found.lossless,
        verified=found.verify,
        target=found.target,
        out=found.out,
    )
