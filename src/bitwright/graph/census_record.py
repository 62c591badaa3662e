"""census.json: what became of every operation of a network, and by which rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.engine.note import Note
from bitwright.engine.record import OPTIONAL, Record


@dataclass(frozen=True, eq=False, kw_only=True)
class UnitEntry(Record):
    """One unit: what it is, its bits (0 is float), and how much of its signal they keep.

    Attributes:
        name, kind, shape: of its weight.
        w_bits, a_bits, points: what it became.
        params, macs: how large it is.
        activation: what follows it, where that is fused.
        calls: how often it is called.
        tied: whether its weight is also a table of embeddings.
        unknowns_per_channel, equations: what a fit has to find, and on how many equations.
        over_parameterised: whether the equations are too few, where their number is known.
        reason: why it stays in float.
        weight_sqnr_db, input_sqnr_db, sqnr_db: signal to noise of weight, input and output, dB.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    w_bits: int
    a_bits: int
    points: int
    params: int
    macs: int
    activation: str | None
    calls: int
    tied: bool = False
    unknowns_per_channel: int
    equations: int
    over_parameterised: bool | None = field(default=None, metadata=OPTIONAL)
    reason: str | None = field(default=None, metadata=OPTIONAL)
    weight_sqnr_db: float | None = field(default=None, metadata=OPTIONAL)
    input_sqnr_db: float | None = field(default=None, metadata=OPTIONAL)
    sqnr_db: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatOperator(Record):
    """Operators of one kind that compute in float, and why."""

    op: str
    count: int
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatWeights(Record):
    """How much of the stored numbers stays in float.

    Attributes:
        share: of all stored numbers.
        operators: the part of each operator that reads them, the largest first.
        size: what the numbers take at their bits against float, without names, scales, headers.
    """

    share: float
    operators: Mapping[str, float]
    size: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Conventions(Record):
    """The settings that literature leaves unsaid and that make figures incomparable."""

    schemes: Mapping[str, int]
    first: str | None
    last: str | None
    weights: str
    inputs: str
    residual_adds_quantised: bool
    network_input_quantised: bool
    biases: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture(Record):
    """The histogram of a weight or an input, and the range that its grid covers."""

    unit: str
    what: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    range: tuple[float, float]
    bits: int
    error: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Census(Record):
    """The whole of census.json.

    Attributes:
        target: whose rules apply.
        units: every weighted operation.
        float_ops: every other operator that computes.
        float_weights: what of the stored numbers stays in float; not known of old runs.
        notes: what a user should know.
        folded_batch_norms: module paths of those that are part of a weight now.
        protocol: the rules.
        calibration_samples: how many the run has seen.
        network: the class of the user's network; of a run only.
        histograms: of the units that keep least of their signal; of a run only.
        outputs: what each output means, and what told it; not known of old runs.
    """

    target: str
    units: tuple[UnitEntry, ...]
    float_ops: tuple[FloatOperator, ...]
    float_weights: FloatWeights | None = field(default=None, metadata=OPTIONAL)
    notes: tuple[Note, ...]
    folded_batch_norms: tuple[str, ...]
    protocol: Conventions
    calibration_samples: int
    network: str | None = field(default=None, metadata=OPTIONAL)
    histograms: tuple[Picture, ...] | None = field(default=None, metadata=OPTIONAL)
    outputs: Mapping[str, str] | None = field(default=None, metadata=OPTIONAL)
