"""The quantised network as tuning sees it: stitched, with parameters that can be set anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.custom_ops import DEQUANTIZE
from bitwright.graph.model_graph import ModelGraph, Unit, set_tensor
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.simulate import Assignment, IntegerBias, stitch
from bitwright.methods.problem import UnitSolution
from bitwright.solving.configuration import Configuration

UnitSolutions = Mapping[str, UnitSolution]

_ALTERED_BY = ("bias", "alpha", "beta")


def admits_bias(graph: ModelGraph, unit: Unit) -> bool:
    """Whether all calls of a unit can take one bias of ours: the operator has a place for it.

    Not embeddings and plain products, nor calls whose biases differ or are computed at run time.
    """
    nodes = graph.nodes()
    for call in unit.calls:
        node = nodes[call]
        at = arguments(WEIGHTED[node.target])[2]
        if at is None or WEIGHTED[node.target] == "embedding":
            return False
        if any(name in node.kwargs for name in _ALTERED_BY):
            return False
        given = node.args[at] if len(node.args) > at else None
        own = str(given.target) if isinstance(given, fx.Node) and given.op == "get_attr" else None
        if own != unit.bias or (given is not None and own is None):
            return False
    return True


def channels_of(unit: Unit) -> int:
    """How many output channels a unit has."""
    if unit.kind.startswith("conv_transpose"):
        return unit.shape[1] * unit.groups
    return unit.shape[unit.channel_axis]


def channel_axis_of(unit: Unit, rank: int) -> int:
    """The channels' axis in a unit's result of so many dimensions, with a batch axis or without."""
    return rank - len(unit.shape) + 1 if unit.kind.startswith("conv") else rank - 1


def tunable(graph: ModelGraph, solved: UnitSolutions) -> tuple[Unit, ...]:
    """The quantised units that take a bias, in the order of their first calls."""
    order = {name: i for i, name in enumerate(graph.nodes())}
    units = [u for u in graph.units if u.name in solved and admits_bias(graph, u)]
    return tuple(sorted(units, key=lambda unit: order[unit.calls[0]]))


def with_biases(start: Configuration) -> dict[str, UnitSolution]:
    """The solutions, with a bias of zeros for units that have none but take one."""
    graph, solved = start.graph, start.solved
    zeros = {
        unit.name: torch.zeros(channels_of(unit), device=solved[unit.name].q.device)
        for unit in tunable(graph, solved)
        if solved[unit.name].bias is None
    }
    return {n: replace(s, bias=zeros[n]) if n in zeros else s for n, s in solved.items()}


@dataclass(frozen=True, eq=False)
class ParameterPlace:
    """Where a unit's parameters stand in the stitched graph: a node, two attribute paths."""

    weight: str
    scale: str
    bias: str


@dataclass(frozen=True, eq=False)
class Simulation:
    """The deployed network as a graph of its own; `places` tells what can be set."""

    start: Configuration
    graph: ModelGraph
    places: Mapping[str, ParameterPlace]

    @property
    def module(self) -> fx.GraphModule:
        """The stitched network."""
        return self.graph.module


def simulate(start: Configuration) -> Simulation:
    """Stitch solutions; every unit that takes a bias has one, as plain numbers."""
    graph, solved = start.graph, start.solved
    module = stitch(graph, _plain(start.having(with_biases(start)).assignment()))
    nodes = {node.name: node for node in module.graph.nodes}
    places = {}
    for unit in tunable(graph, solved):
        call = nodes[unit.calls[0]]
        _, at_weight, at_bias = arguments(WEIGHTED[call.target])
        weight, bias = call.args[at_weight], call.args[at_bias]
        assert isinstance(weight, fx.Node) and isinstance(bias, fx.Node)
        assert weight.target is DEQUANTIZE and isinstance(weight.args[1], fx.Node)
        places[unit.name] = ParameterPlace(
            weight.name, str(weight.args[1].target), str(bias.target)
        )
    return Simulation(start, replace(graph, module=module), places)


def install(simulation: Simulation, solution: UnitSolution, name: str) -> None:
    """Give one unit of a simulation another scale and bias; the integers stay."""
    place = simulation.places[name]
    deployed = _plain(simulation.start.having({name: solution}).assignment())
    bias = deployed.biases[name]
    assert isinstance(bias, Tensor)
    set_tensor(simulation.module, place.scale, deployed.weights[name].qparams.scale)
    set_tensor(simulation.module, place.bias, bias)


def deploy_biases(made: Configuration) -> dict[str, Tensor]:
    """The biases as the deployed network adds them."""
    return {name: _as_numbers(bias) for name, bias in made.assignment().biases.items()}


def _plain(assignment: Assignment) -> Assignment:
    biases = {name: _as_numbers(bias) for name, bias in assignment.biases.items()}
    return Assignment(assignment.weights, biases, assignment.edges)


def _as_numbers(bias: Any) -> Tensor:
    return bias.q.float() * bias.scale if isinstance(bias, IntegerBias) else bias
