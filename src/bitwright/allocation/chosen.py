"""allocation.json of a run: the bits that were taken, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bitwright.allocation.as_json import as_record
from bitwright.engine.record import OPTIONAL, Record
from bitwright.graph.choice import Choice

if TYPE_CHECKING:
    from bitwright.allocation.allocate import Allocation


@dataclass(frozen=True, eq=False, kw_only=True)
class LosslessRun(Record):
    """A configuration that was run in the search for one that loses nothing."""

    used: float
    share: float | None
    agreement: float
    samples: int
    disagreement_bound: float


@dataclass(frozen=True, eq=False, kw_only=True)
class LosslessSearch(Record):
    """What a search for a lossless configuration was asked, found and tried.

    Attributes:
        tolerance: share of the answers that may differ.
        cost: what was to be small.
        attained: whether the deployed network holds the tolerance.
        used, share: the cost, and its share of float's.
        agreement, samples: share of the held-out answers that are float's, and how many these are.
        disagreement_bound: what the true share of different answers is below, with 95 % confidence.
        runs: what was run, in order.
        told: all this in a sentence, once it holds for the deployed network.
    """

    tolerance: float
    cost: str
    attained: bool
    used: float
    share: float | None
    agreement: float
    samples: int
    disagreement_bound: float
    runs: tuple[LosslessRun, ...]
    told: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, eq=False, kw_only=True)
class Pairwise(Record):
    """What the pairwise correction measured and gained."""

    pairs: int
    measured: int
    predicted_loss: Mapping[str, float | None]
    measured_loss: Mapping[str, float]
    gain: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ChosenBits(Record):
    """The bits of every unit; of a fixed scheme, which nobody had to solve.

    `lossless` is what a search for a configuration that loses nothing found, where there was one.
    """

    choices: Mapping[str, Choice]
    lossless: LosslessSearch | None = None

    def to_json(self) -> dict[str, Any]:
        """The object of allocation.json."""
        return {
            "solver": None,
            "status": "fixed",
            "objective": None,
            "bound": None,
            "gap": None,
            "budgets": {},
            "uniform": None,
            "choices": {name: choice.to_json() for name, choice in self.choices.items()},
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class AllocatedBits(ChosenBits):
    """Bits that were allocated under budgets.

    Attributes:
        allocation: with its certificate; of `choices`, unless uniform bits were better when run.
        measured_loss: of whole networks on the calibration samples.
        pairwise: what the pairwise correction measured and gained, where it was asked for.
        note: why another than the allocation is taken.
    """

    allocation: Allocation
    measured_loss: Mapping[str, float]
    pairwise: Pairwise | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object of allocation.json."""
        found = as_record(self.allocation)
        found["choices"] = super().to_json()["choices"]
        found["measured_loss"] = dict(self.measured_loss)
        found |= {"pairwise": self.pairwise.to_json()} if self.pairwise else {}
        found |= {"lossless": self.lossless.to_json()} if self.lossless else {}
        found["note"] = self.note or found["note"]
        return found
