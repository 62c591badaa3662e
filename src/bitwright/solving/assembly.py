"""Solutions put together: the parameters of a whole quantised network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.simulate import Assignment, IntegerBias, QuantizedTensor
from bitwright.graph.target import Target
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams, quantize_bias
from bitwright.numerics.exact import exact_bias


def assemble(
    graph: ModelGraph,
    solved: Mapping[str, UnitSolution],
    edges: Mapping[tuple[str, str], QParams],
    target: Target,
) -> Assignment:
    """Solutions and grids as one assignment, biases in the target's form."""
    axes = {unit.name: unit.channel_axis for unit in graph.units}
    weights = {
        name: QuantizedTensor(s.q, s.weight, s.channel_bits, axes[name], s.points)
        for name, s in solved.items()
    }
    biases: dict[str, Tensor | IntegerBias] = {}
    for unit in graph.units:
        solution = solved.get(unit.name)
        if solution is None or solution.bias is None:
            continue
        biases[unit.name] = _bias(unit, solution, target)
    # What tuning made of a grid, too, gives way to the tensor at hand where the target is dynamic.
    own = {place: replace(grid, dynamic=target.dynamic) for place, grid in edges.items()}
    return Assignment(weights, biases, own)


def deploy_bias(unit: Unit, solution: UnitSolution, target: Target) -> Tensor:
    """The bias as the deployed network adds it."""
    bias = _bias(unit, solution, target)
    return bias if isinstance(bias, Tensor) else bias.q.float() * bias.scale


def _bias(unit: Unit, solution: UnitSolution, target: Target) -> Tensor | IntegerBias:
    assert solution.bias is not None
    known = [qp for qp in solution.inputs if qp is not None]
    if len(known) != 1 or len(unit.calls) != 1 or target.dynamic:
        return solution.bias
    if solution.weight.scale.numel() > solution.bias.numel():  # in groups: no one lattice of sums
        return solution.bias
    scale = (known[0].scale * solution.weight.scale).reshape(-1)
    # One scale for all, or (grouped transposed convolutions) one for each channel of a group.
    scale = scale.repeat(solution.bias.numel() // scale.numel())
    if target.bias_bits != 32:
        spare = 16 - known[0].grid.bits - solution.weight.grid.bits
        return exact_bias(solution.bias, scale, max(0, spare))
    q = quantize_bias(solution.bias, scale)
    # A channel whose weights all but vanish has a scale so small that its bias does not fit.
    return solution.bias if q is None else IntegerBias(q, scale)
