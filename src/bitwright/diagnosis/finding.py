"""diagnosis.json: the named causes of lost accuracy, each with its figure and what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bitwright.engine.record import Record


@dataclass(frozen=True, eq=False, kw_only=True)
class Cause(Record):
    """One cause.

    Attributes:
        cause: its name, such as `outlier-channel`.
        place: the unit, tensor or edge.
        text: what is wrong there, as a sentence.
        figure: the figure that shows it.
        severity: how much of the output's noise it stands for, 0 to 1; 1 for what makes all that
            follows doubtful, such as data that the network was not trained on.
        sets: the options that mend it.
        command: the line that mends it.
    """

    cause: str
    place: str
    text: str
    figure: str
    severity: float
    sets: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Findings(Record):
    """The whole of diagnosis.json.

    Attributes:
        findings: at most three causes, the best-founded first.
        samples: that were looked at.
        noise: of the network's output beside the float network's, as a share of its energy.
        noise_of_weights, noise_of_inputs: the same with these alone quantised.
    """

    findings: tuple[Cause, ...]
    samples: int
    noise: float
    noise_of_weights: float
    noise_of_inputs: float
