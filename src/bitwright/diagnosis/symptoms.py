"""What a diagnosis is judged by: plain numbers of a network, its data and its file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

# Changes of an image that put right what goes wrong most often, by what is done.
REVERSED = "the channels in the other order (RGB for BGR)"
NORMALISED = "ImageNet's mean and standard deviation taken out"


@dataclass(frozen=True)
class EdgeSymptoms:
    """A grid of the run beside the float values that it stands for.

    Attributes:
        name: of the edge in the simulation.
        source: the node whose values it takes.
        place: what a person calls it: the unit that reads it, else the node.
        unit: that reads it; None where other operators of the chain do.
        lo, hi: the range that the grid covers.
        least, most: of the values.
        channels: each channel's usual largest magnitude, the median over the samples.
        spreads: each channel's standard deviation.
        samples: each sample's largest magnitude.
        masked: share of the values that are as far below zero as masks are.
        rest: largest magnitude of the other values.
        clipped: share of the values outside the range.
        clipped_channels: share of the channels in which that happens.
        clip_share: their part of the squared error.
    """

    name: str
    source: str
    place: str
    unit: str | None
    lo: float
    hi: float
    least: float
    most: float
    channels: tuple[float, ...] = ()
    spreads: tuple[float, ...] = ()
    samples: tuple[float, ...] = ()
    masked: float = 0.0
    rest: float = 0.0
    clipped: float = 0.0
    clipped_channels: float = 0.0
    clip_share: float = 0.0


@dataclass(frozen=True)
class UnitSymptoms:
    """A unit in the quantised network beside the float one.

    `noise` is that of its result, as a share of its energy; `silenced` of its channels vary in
    float and no longer in the quantised network.
    """

    name: str
    kind: str
    depthwise: bool
    noise: float
    silenced: int = 0
    channels: int = 1


@dataclass(frozen=True)
class JoinSymptoms:
    """An add or concat whose inputs lie on grids: the standard deviation of each input.

    `edges` are the grids in front of it and behind it, `units` those that read its result.
    """

    place: str
    kind: str
    inputs: tuple[str, ...]
    spreads: tuple[float, ...]
    edges: tuple[str, ...]
    units: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """The widest input over the narrowest that carries anything."""
        live = [s for s in self.spreads if s > 0]
        return max(live) / min(live) if len(live) > 1 else 1.0


@dataclass(frozen=True)
class NormSymptoms:
    """A folded batch-norm: how far its data are off what it remembers; whether it does at all."""

    name: str
    mismatch: float
    untouched: bool


@dataclass(frozen=True)
class FileSymptoms:
    """The file in the runtime beside the simulation.

    Attributes:
        plain, optimized: share of the answers that are the simulation's, without and with the
            runtime's optimisations.
        first_failure, difference: the first unit out of tolerance on equal inputs, and by how much.
        error: what the runtime refused.
        kernels: what is known of this processor's kernels, where optimisations change answers.
        altered: how it differs from the file that the run wrote.
    """

    plain: float
    optimized: float
    first_failure: str = ""
    difference: float = 0.0
    error: str = ""
    kernels: str = ""
    altered: str = ""


@dataclass(frozen=True)
class Symptoms:
    """Everything that causes are judged by.

    Attributes:
        samples: how many were looked at.
        noise: of the output, as a share of its energy; without the inputs' grids, and without the
            weights', as `noise_of_weights` and `noise_of_inputs`.
        edges, units, joins, norms: in order of execution.
        shares: of the output's noise that goes when the places of a cause are left in float.
        repaired: how far the first batch-norm's data are off, by change of the network's input.
        shift, shift_reversed: by how many standard deviations the means of that batch-norm's
            channels are off, on average; the same with the image's channels in the other order.
        in_training: the network came in training mode.
        saturated: tensors whose numbers ended at the limit of half precision, and how many.
        file: None where there is no file.
        settings: of the run, as its recipe has them.
    """

    samples: int = 0
    noise: float = 0.0
    noise_of_weights: float = 0.0
    noise_of_inputs: float = 0.0
    edges: tuple[EdgeSymptoms, ...] = ()
    units: tuple[UnitSymptoms, ...] = ()
    joins: tuple[JoinSymptoms, ...] = ()
    norms: tuple[NormSymptoms, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    repaired: Mapping[str, float] = field(default_factory=dict)
    shift: float = 0.0
    shift_reversed: float = 0.0
    in_training: bool = False
    saturated: Mapping[str, int] = field(default_factory=dict)
    file: FileSymptoms | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def outstanding(values: tuple[float, ...]) -> float:
    """The largest over the median of those that are not zero; 1 where there is no such."""
    live = [value for value in values if value > 0 and math.isfinite(value)]
    return max(live) / statistics.median(live) if len(live) > 2 else 1.0
