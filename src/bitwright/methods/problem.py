"""The interface of every method: one unit's problem in, one unit's solution out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import Unit
from bitwright.numerics.affine import QParams
from bitwright.numerics.gram import Gram
from bitwright.numerics.grid import Grid


@dataclass(frozen=True, eq=False)
class UnitProblem:
    """All that a method may see of a unit.

    Attributes:
        name: the unit's module path; for messages and seeds only.
        kind: the kind of operation (`linear`, `conv2d`, ...).
        weight, bias: the float parameters, batch-norm folded in.
        channel_axis: the weight's axis of output channels.
        groups: the convolution's groups.
        choice: the bits asked for.
        grid: the weight's grid; `symmetric` and `per_channel` how the target wants it used.
        inputs: the grids already chosen for the inputs, one a call; None where they stay float.
        seed: derived from (run seed, unit, choice, method); a method draws from nothing else.
        unit: the unit's place in the network, which tells how its weight is a matrix.
        gram, held_out: second moments of its quantised input and float target, over the rows to
            fit and over rows kept apart; None for methods that need no data.
    """

    name: str
    kind: str
    weight: Tensor
    bias: Tensor | None
    channel_axis: int
    groups: int
    choice: Choice
    grid: Grid
    symmetric: bool
    per_channel: bool
    inputs: tuple[QParams | None, ...]
    seed: int
    unit: Unit | None = None
    gram: Gram | None = None
    held_out: Gram | None = None


@dataclass(frozen=True, eq=False)
class UnitSolution:
    """A solved unit: integers on the grid, their parameters, the bias, the inputs' grids.

    `error` is the squared weight error relative to the weight's own energy.
    `loss_before` and `loss_after` are squared output errors on held-out rows relative to the
    output's energy: of nearest rounding and of this solution; None where there were no data.
    `fallback` says why another method's result was taken, where that happened.
    """

    q: Tensor
    weight: QParams
    bias: Tensor | None
    inputs: tuple[QParams | None, ...]
    method: str
    error: float
    fallback: str | None = None
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True)
class Needs:
    """What a method asks for, for `bitwright list methods`."""

    data: bool
    labels: bool
    backward: bool
    paper: str
    cost: str


class Method(Protocol):
    """A frozen dataclass of hyper-parameters with a pure `solve`."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def needs(self) -> Needs:
        """What it asks for."""

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit; deterministic, and the problem is left as it was."""


Catalogue = Mapping[str, Method]
