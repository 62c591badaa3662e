"""The interface of every method: one unit's problem in, one unit's solution out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from bitwright.graph.activation import Activation
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import Unit
from bitwright.numerics.affine import QParams
from bitwright.numerics.gram import Gram
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import RangeRule


@dataclass(frozen=True, eq=False)
class RowSamples:
    """Rows kept for methods that learn by gradients: the raw input and the float target.

    Attributes:
        x: rows [G, R, N] of what the unit gets, before its own input quantiser.
        y: float outputs [G, R, C] of the same rows, before the activation.
    """

    x: Tensor
    y: Tensor


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
        grid: the weight's grid, of several points that of their sum; `symmetric` and `per_channel`
            how the target wants it used.
        inputs: the grids already chosen for the inputs, one a call; None where they stay float.
        seed: derived from (run seed, unit, choice, method); a method draws from nothing else.
        unit: the unit's place in the network, which tells how its weight is a matrix.
        gram, held_out: second moments of its quantised input and float target, over the rows to
            fit and over rows kept apart; None for methods that need no data.
        samples, samples_apart: some of those rows themselves, where the method asks for them.
        activation: what follows the unit at once; a loss may be taken behind it.
        free_inputs: whether a method may move the input's grid; not where others share it.
        sample_count: how many calibration samples the rows come from; 0 where it is not known.
        input_means: the mean of what each call gets; None where it was not observed.
        tied: the weight is a table of embeddings too, whose rows are looked up: its own error
            counts as much as that of the output, each relative to its energy.
        portable: kernels without wide sums must add up its integers too (`methods.portable`).
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
    samples: RowSamples | None = None
    samples_apart: RowSamples | None = None
    activation: Activation | None = None
    free_inputs: bool = True
    sample_count: int = 0
    input_means: tuple[float | None, ...] = ()
    tied: bool = False
    portable: bool = False


@dataclass(frozen=True, eq=False)
class UnitSolution:
    """A solved unit: integers on the grid, their parameters, the bias, the inputs' grids.

    `error` is the squared weight error relative to the weight's own energy.
    `loss_before` and `loss_after` are squared output errors on held-out rows relative to the
    output's energy: of nearest rounding and of this solution; None where there were no data.
    `fallback` says why another method's result was taken, where that happened.
    `moves[k]` counts the weights that lie k grid steps from their nearest rounding, for methods
    that count them.
    `points`: how many tensors the integers are stored as; the grid is that of their sum.
    `channel_bits` are the bits of each output channel where they differ; `weight.grid` is then that
    of the widest, and a channel of m bits has only integers of the m-bit grid.
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
    moves: tuple[int, ...] = ()
    channel_bits: tuple[int, ...] = ()
    points: int = 1


@dataclass(frozen=True)
class Needs:
    """What a method asks for; `rows` is how many rows of activations a unit, 0 for none."""

    data: bool
    labels: bool
    backward: bool
    paper: str
    cost: str
    rows: int = 0


def store_in_points(solution: UnitSolution, choice: Choice) -> UnitSolution:
    """A method's solution with as many tensors as it is stored in.

    Methods solve for the sum of all points, which is one grid (`numerics.points`): how many tensors
    it is stored as is no matter of theirs. Where channels have points of their own, the tensors are
    as many as the channel of most points has.
    """
    several = solution.channel_bits and choice.points > 1
    points = solution.weight.grid.bits // choice.w_bits if several else choice.points
    return replace(solution, points=points)


class Method(Protocol):
    """A frozen dataclass of hyper-parameters with a pure `solve`."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def needs(self) -> Needs:
        """What it asks for."""

    def configured(self, weight_range: str | RangeRule) -> Method:
        """The same with what a recipe says of ranges."""

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Solve one unit; deterministic, and the problem is left as it was."""


Catalogue = Mapping[str, Method]
