"""metrics.json: what was measured of a float network and its quantised form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.allocation.timed import LatencyCheck
from bitwright.engine.note import Note
from bitwright.engine.progress import StageRecord
from bitwright.engine.record import OPTIONAL, Record, store_as
from bitwright.evaluation.promised import Promised

# Metrics that are errors: what grows is lost.
LESS_IS_BETTER = frozenset({"perplexity", "mae", "rmse", "wer", "cer"})


@dataclass(frozen=True, eq=False, kw_only=True)
class OutputFigures(Record):
    """One of several outputs, beside the float network's.

    Attributes:
        kind: what it means, a word of `graph.heads`.
        agreement: share of its answers that are the same.
        counted: what counts as the same, in words.
        loss: its mean loss: divergence of what is read by its largest entry or sign, of numbers
            the squared error relative to their variance.
    """

    kind: str
    agreement: float
    counted: str
    loss: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Record):
    """Two networks on the same samples; rates are fractions.

    Attributes:
        samples: how many.
        before, after: the metric of the float and of the quantised network, where labels tell it.
        answers: what the outputs mean, a word of `graph.answers` (which takes torch to import).
        agreement: share of answers that are the same; of embeddings the mean cosine; of several
            outputs the mean over samples of the worst output's.
        kl: mean divergence of the answers from float's; of several outputs their mean loss.
        relative_noise: energy of the difference against that of float's outputs.
        evaluated_on: which data, in words.
        outputs: of several outputs each by itself.
    """

    samples: int
    before: Mapping[str, float] = field(metadata=store_as("float"))
    after: Mapping[str, float] = field(metadata=store_as("quantized"))
    answers: str = "scores"
    agreement: float
    kl: float
    relative_noise: float
    evaluated_on: str | None = field(default=None, metadata=OPTIONAL)
    outputs: Mapping[str, OutputFigures] | None = field(default=None, metadata=OPTIONAL)

    @property
    def has_vectors(self) -> bool:
        """Whether the answers are embeddings, of which no two are simply the same."""
        return self.answers == "embedding"


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluated(Comparison):
    """What `bitwright evaluate` finds: a comparison, and what it is blind to."""

    warnings: tuple[Note, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class TuningFigures(Record):
    """One tuning step: losses on the samples held out from it."""

    step: str
    kept: bool
    loss_before: float
    loss_after: float
    softened_before: float
    softened_after: float
    units: int
    fit_samples: int
    held_out_samples: int
    note: str


@dataclass(frozen=True, eq=False, kw_only=True)
class ActivationPeak(Record):
    """The most bytes of one sample's activations that are alive together."""

    float_bytes: int
    quantized_bytes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Figures(Comparison):
    """What a run knows of its network before any file is written."""

    tuning: tuple[TuningFigures, ...]
    latency: LatencyCheck | None = field(default=None, metadata=OPTIONAL)
    promise: Promised | None = field(default=None, metadata=OPTIONAL)
    activation_peak: ActivationPeak


@dataclass(frozen=True, eq=False, kw_only=True)
class Sizes(Record):
    """Bytes of the float tensors, of the weights at their bits, and of the files once written.

    `ratio` is that of model.safetensors to float, `weight_ratio` that of the weights alone.
    """

    float_bytes: int
    weight_bytes: int
    file_bytes: int | None
    onnx_bytes: int | None
    ratio: float | None
    weight_ratio: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Environment(Record):
    """What a figure was measured with."""

    python: str
    torch: str
    onnxruntime: str
    machine: str
    threads: int
    created: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Metrics(Figures):
    """The whole of metrics.json."""

    stages: tuple[StageRecord, ...]
    size: Sizes
    warnings: tuple[Note, ...] = ()
    bops_ratio: float
    environment: Environment
