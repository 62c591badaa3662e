"""Solutions put together: the parameters of a whole quantised network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment, IntegerBias, QuantizedTensor
from bitwright.graph.target import Target
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import BIAS_LIMIT, QParams, quantize_bias
from bitwright.numerics.exact import coarsen, exact_bias


def assemble(
    graph: ModelGraph,
    solved: Mapping[str, UnitSolution],
    edges: Mapping[tuple[str, str], QParams],
    target: Target,
) -> Assignment:
    """Solutions and grids as one assignment, biases in the target's form."""
    weights: dict[str, QuantizedTensor] = {}
    biases: dict[str, Tensor | IntegerBias] = {}
    for unit in graph.units:
        if unit.name not in solved:
            continue
        own = deploy(solved[unit.name], target)
        weights[unit.name] = QuantizedTensor(
            own.q, own.weight, own.channel_bits, unit.channel_axis, own.points
        )
        if own.bias is not None:
            biases[unit.name] = _bias(own, target)
    # What tuning made of a grid, too, gives way to the tensor at hand where the target is dynamic.
    grids = {place: replace(grid, dynamic=target.dynamic) for place, grid in edges.items()}
    return Assignment(weights, biases, grids)


def deploy_bias(solution: UnitSolution, target: Target) -> Tensor:
    """The bias as the deployed network adds it."""
    bias = _bias(deploy(solution, target), target)
    return bias if isinstance(bias, Tensor) else bias.q.float() * bias.scale


def deploy(solution: UnitSolution, target: Target) -> UnitSolution:
    """A solution whose biases fit the integers of the accumulators.

    A channel whose weights all but vanish has a scale so small that its bias is beyond 32 bits in
    steps of s_x s_w; runtimes that make integers of biases would let it wrap. Its weights take a
    coarser grid, on which they weigh as little: the bias is 2^29 of its steps or more.
    """
    scale = _lattice(solution, target)
    if scale is None or target.bias_bits != 32 or solution.points > 1:
        return solution
    assert solution.bias is not None
    steps = solution.bias.double().abs() / scale.double()
    if not bool((steps >= BIAS_LIMIT).any()):
        return solution
    own = solution.weight
    octaves = torch.frexp(steps / BIAS_LIMIT).exponent.clamp(min=0)
    widest = octaves.reshape(-1, own.scale.numel()).amax(0).reshape(own.scale.shape)
    q, weight = coarsen(solution.q, own, widest)
    return replace(solution, q=q, weight=weight)


def _lattice(solution: UnitSolution, target: Target) -> Tensor | None:
    """The step of the sums of each channel, s_x s_w; None where they have no one."""
    known = [qp for qp in solution.inputs if qp is not None]
    if solution.bias is None or target.dynamic:
        return None
    if len({float(qp.scale) for qp in known}) != 1:
        return None
    if solution.weight.scale.numel() > solution.bias.numel():  # in groups
        return None
    # One scale for all, or (grouped transposed convolutions) one for each channel of a group.
    scale = (known[0].scale * solution.weight.scale).reshape(-1)
    return scale.repeat(solution.bias.numel() // scale.numel())


def _bias(solution: UnitSolution, target: Target) -> Tensor | IntegerBias:
    assert solution.bias is not None
    scale = _lattice(solution, target)
    if scale is None:
        return solution.bias
    if target.bias_bits != 32:
        widest = max(qp.grid.bits for qp in solution.inputs if qp is not None)
        spare = 16 - widest - solution.weight.grid.bits
        return exact_bias(solution.bias, scale, max(0, spare))
    q = quantize_bias(solution.bias, scale)
    return solution.bias if q is None else IntegerBias(q, scale)
