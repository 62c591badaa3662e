"""Outlier channels of linear layers' inputs, taken into the weights: equalisation with data.

A few channels of what a transformer's norms and activations give are tens of times as wide as the
others, and one grid for the whole tensor leaves those others almost no steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from bitwright.graph.choice import Choice
from bitwright.graph.execute import Open, run
from bitwright.graph.model_graph import ModelGraph, Unit, get_tensor, set_tensor, shallow_copy
from bitwright.graph.target import Target
from bitwright.graph.units import input_of
from bitwright.numerics.affine import dequantize, fake_quantize, quantize
from bitwright.numerics.exact import exact_range
from bitwright.numerics.stats import ChannelStats
from bitwright.prepare.names import SMOOTH
from bitwright.prepare.rescale import by_input, put, put_bias, scale_inputs

aten = torch.ops.aten
NAME = SMOOTH
# How far the channels' widths go into the weights: 0 not at all, 1 all of it.
POWERS = (0.5, 0.65, 0.8, 1.0)
SHRINK = tuple(1.0 - 0.06 * i for i in range(14))
# Of nearest rounding's error at the output a solver leaves about so much.
LEFT_BY_SOLVER = 0.25
ROWS = 1024
# Of a row's range, what nearest rounding to few bits makes best use of, about.
NARROWED = 0.9
ROWS_OF_BATCH = 64
# What inserted operators must gain at least; where a norm takes the change in, any gain will do.
GAIN = 0.15
# Errors relative to the outputs' energy below which nothing is worth two operators.
SMALL = 1e-4
_KINDS = ("linear", "addmm")
_FACTOR, _SHIFT = "smooth.factor", "smooth.shift"


@dataclass(frozen=True)
class SmoothPlace:
    """Linear layers that read one value; `norm` is the layer norm that makes it for them alone."""

    source: str
    readers: tuple[Unit, ...]
    norm: str | None = None

    @property
    def stem(self) -> str:
        """What the tensors of the place are called after."""
        return self.readers[0].name


@dataclass(frozen=True, eq=False)
class Smoothing:
    """x -> (x - shift) / factor in each channel, and what it does to the error at the outputs.

    `before` and `after` are squared errors relative to the outputs' energy.
    """

    place: SmoothPlace
    factor: Tensor
    shift: Tensor
    before: float
    after: float


@dataclass(eq=False)
class _Seen:
    """What passed a place: extremes of every channel, and some rows."""

    stats: ChannelStats | None
    rows: list[Tensor]

    def add(self, x: Tensor) -> None:
        """Take in one batch."""
        flat = x.reshape(-1, x.shape[-1]).float()
        here = ChannelStats.of(flat, axis=-1)
        self.stats = here if self.stats is None else self.stats.merge(here)
        self.rows.append(_thin(flat, ROWS_OF_BATCH))


def _thin(rows: Tensor, limit: int) -> Tensor:
    """At most so many rows, evenly from all; a copy."""
    count = min(limit, len(rows))
    return rows[torch.arange(count) * len(rows) // max(count, 1)]


def find_places(graph: ModelGraph) -> tuple[SmoothPlace, ...]:
    """Where channels can be scaled and shifted: values that linear layers read, in order."""
    nodes = graph.nodes()
    shared = _find_shared_tensors(graph)
    by_source: dict[str, list[Unit]] = {}
    for unit in graph.units:
        alone = len(unit.calls) == 1 and not {unit.weight, unit.bias} & shared
        call = nodes[unit.calls[0]]
        if unit.kind in _KINDS and alone and not call.kwargs and _has_stored_bias(unit, call):
            by_source.setdefault(input_of(call).name, []).append(unit)
    found = []
    for source, units in by_source.items():
        readers = {unit.calls[0] for unit in units}
        node = nodes[source]
        own = all(user.name in readers for user in node.users)
        norm = source if own and _is_norm(node, shared) else None
        if node.op != "get_attr":
            found.append(SmoothPlace(source, tuple(units), norm))
    return tuple(found)


def _find_shared_tensors(graph: ModelGraph) -> set[str]:
    """Stored tensors that more than one operator reads."""
    reads: dict[str, int] = {}
    for node in graph.module.graph.nodes:
        if node.op == "get_attr":
            reads[str(node.target)] = reads.get(str(node.target), 0) + len(node.users)
    return {target for target, count in reads.items() if count > 1}


def _has_stored_bias(unit: Unit, call: fx.Node) -> bool:
    at = 0 if unit.kind == "addmm" else 2
    return unit.bias is not None or len(call.args) <= at or call.args[at] is None


def _is_norm(node: fx.Node, shared: set[str]) -> bool:
    """Whether a node is a layer norm with a gain and an offset of its own."""
    if node.target is not aten.layer_norm.default or len(node.args) < 4:
        return False
    return all(
        isinstance(a, fx.Node) and a.op == "get_attr" and str(a.target) not in shared
        for a in node.args[2:4]
    )


def find_changes(
    graph: ModelGraph,
    batches: Open,
    choices: Mapping[str, Choice],
    target: Target,
    solved: bool = False,
) -> tuple[Smoothing, ...]:
    """For every place the change that lowers the error at its readers' outputs most, if any does.

    Equation: y = W x + b = (W diag(f)) ((x - t) / f) + (b + W t), with t the middle of each
    channel's range, its mean or zero; f_j = r_j^p / w_j^(1-p) with r_j half the channel's range,
    w_j the largest weight that reads it, and p one of `POWERS`. The error is
    ||W (x - Q(x))||^2 + k ||(W - Q(W)) x||^2.
    Reference: Xiao et al., arXiv 2211.10438 (SmoothQuant), equations 3 and 4; the shift is that of
    Wei et al., arXiv 2304.09145 (Outlier Suppression+), section 4.1.

    Args:
        graph: the captured network.
        batches: opens the calibration inputs, bound to the graph.
        choices, target: the bits at which the error is measured, and how a grid is used.
        solved: whether the method solves weights and bias on data. It then leaves about a quarter
            of nearest rounding's error, k = 1/4, and the bias takes the error's mean.
    """
    places = [
        place
        for place in find_places(graph)
        if target.inputs and all(_quantise(choices[unit.name]) for unit in place.readers)
    ]
    seen = {place.source: _Seen(None, []) for place in places}

    def visit(node: fx.Node, value: object) -> None:
        if node.name in seen and isinstance(value, Tensor):
            seen[node.name].add(value)

    for flat in batches():
        run(graph, flat, visit)
    found = []
    for place in places:
        change = _best(graph, place, seen.pop(place.source), choices, target, solved)
        if change is not None:
            found.append(change)
    return tuple(found)


def _quantise(choice: Choice) -> bool:
    return bool(choice.w_bits and choice.a_bits)


def _best(
    graph: ModelGraph,
    place: SmoothPlace,
    seen: _Seen,
    choices: Mapping[str, Choice],
    target: Target,
    solved: bool,
) -> Smoothing | None:
    stats = seen.stats
    assert stats is not None
    rows = _thin(torch.cat(seen.rows), ROWS)
    weights = [by_input(graph.tensor(u.weight).float(), u).t() for u in place.readers]
    ones = torch.ones(rows.shape[1])
    trials = [(ones, torch.zeros_like(ones))]
    for shift in ((stats.lo + stats.hi) / 2, stats.mean.float(), torch.zeros_like(ones)):
        reach = torch.maximum(stats.hi - shift, shift - stats.lo).clamp_min(1e-6)
        largest = torch.stack([w.abs().amax(0) for w in weights]).amax(0).clamp_min(1e-6)
        for power in POWERS:
            factor = reach.pow(power) / largest.pow(1 - power)
            trials.append((factor / factor.log().mean().exp(), shift))
    errors = []
    for factor, shift in trials:
        bounds = ((stats.lo - shift) / factor, (stats.hi - shift) / factor)
        x = (rows - shift) / factor
        total = 0.0
        for unit, weight in zip(place.readers, weights, strict=True):
            scaled = weight * factor
            total += _error(x, bounds, scaled, choices[unit.name], target, solved)
        errors.append(total)
    best = min(range(len(trials)), key=errors.__getitem__)
    needed = 1.0 if place.norm is not None else 1.0 - GAIN
    small = place.norm is None and errors[0] < SMALL * len(place.readers)
    if best == 0 or small or not errors[best] < needed * errors[0]:
        return None
    return Smoothing(place, *trials[best], errors[0], errors[best])


def _error(
    x: Tensor,
    bounds: tuple[Tensor, Tensor],
    weight: Tensor,
    choice: Choice,
    target: Target,
    solved: bool,
) -> float:
    """Squared error at a linear layer's output, of its input's grid and of its weights' grid."""
    grid, symmetric = target.input_grid(choice.a_bits), target.input_symmetric
    low, high = bounds[0].min(), bounds[1].max()
    importance = weight.square().sum(0)
    best, nearest = float("inf"), x
    for factor in SHRINK:
        tried = fake_quantize(x, exact_range(low * factor, high * factor, grid, symmetric))
        value = float(((tried - x).square() * importance).sum())
        if value < best:
            best, nearest = value, tried
    energy_of = _about_mean if solved else _energy
    from_input = energy_of((nearest - x) @ weight.t())
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if not target.weight_per_channel:
        low, high = low.min(), high.max()
    # Nearest rounding in one range: a search for every trial would take longer than the solving.
    grid = target.weight_grid(choice.w_bits)
    qparams = exact_range(low * NARROWED, high * NARROWED, grid, target.weight_symmetric)
    rounded = dequantize(quantize(weight, qparams), qparams)
    from_weight = energy_of(x @ (rounded - weight).t())
    energy = max(_about_mean(x @ weight.t()), 1e-30)
    return (from_input + (LEFT_BY_SOLVER if solved else 1.0) * from_weight) / energy


def _energy(error: Tensor) -> float:
    return float(error.double().square().sum())


def _about_mean(error: Tensor) -> float:
    """The energy about the mean of each output, which the bias takes."""
    return float((error - error.mean(0)).double().square().sum())


def apply_changes(graph: ModelGraph, changes: tuple[Smoothing, ...]) -> ModelGraph:
    """The network with channels scaled and shifted, computing what it did before.

    A norm that only these layers read takes the change into its gain and offset; elsewhere two
    operators are inserted before the layers, and other readers see the value as it was.
    """
    module = shallow_copy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    units: dict[str, Unit] = {}
    for change in changes:
        place = change.place
        for unit in place.readers:
            weight = graph.tensor(unit.weight).float()
            units[unit.name] = _shift_bias(module, nodes, unit, weight, change.shift)
            put(module, unit.weight, scale_inputs(weight, unit, change.factor))
        if place.norm is not None:
            _into_norm(graph, module, nodes[place.norm], change)
            continue
        set_tensor(module, f"{place.stem}.{_SHIFT}", change.shift.contiguous())
        set_tensor(module, f"{place.stem}.{_FACTOR}", change.factor.reciprocal().contiguous())
        _insert(module, nodes, place)
    return _rebuilt(graph, module, units)


def with_places(graph: ModelGraph, stored: Mapping[str, Tensor]) -> ModelGraph:
    """The network with the operators that a run inserted, known by the tensors that it stored."""
    places = [p for p in find_places(graph) if f"{p.stem}.{_FACTOR}" in stored]
    if not places:
        return graph
    module = shallow_copy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    for place in places:
        for leaf in (_SHIFT, _FACTOR):
            set_tensor(module, f"{place.stem}.{leaf}", stored[f"{place.stem}.{leaf}"])
        _insert(module, nodes, place)
    return _rebuilt(graph, module, {})


def _shift_bias(
    module: fx.GraphModule, nodes: dict[str, fx.Node], unit: Unit, weight: Tensor, shift: Tensor
) -> Unit:
    inputs = by_input(weight, unit)
    moved = (inputs * shift.reshape(-1, 1)).sum(0)
    if unit.bias is None:
        return put_bias(module, nodes, unit, moved) if bool(shift.any()) else unit
    put(module, unit.bias, get_tensor(module, unit.bias) + moved)
    return unit


def _into_norm(graph: ModelGraph, module: fx.GraphModule, node: fx.Node, change: Smoothing) -> None:
    gain, offset = (str(a.target) for a in node.args[2:4])  # type: ignore[union-attr]
    put(module, gain, graph.tensor(gain) / change.factor)
    put(module, offset, (graph.tensor(offset) - change.shift) / change.factor)


def _insert(module: fx.GraphModule, nodes: dict[str, fx.Node], place: SmoothPlace) -> None:
    """(x - shift) * (1 / factor) between the value and the layers of the place."""
    source = nodes[place.source]
    first = next(n for n in module.graph.nodes if n in source.users)
    with module.graph.inserting_before(first):
        shift = module.graph.get_attr(f"{place.stem}.{_SHIFT}")
        factor = module.graph.get_attr(f"{place.stem}.{_FACTOR}")
        centred = module.graph.call_function(aten.sub.Tensor, (source, shift))
        scaled = module.graph.call_function(aten.mul.Tensor, (centred, factor))
    centred.meta, scaled.meta = dict(source.meta), dict(source.meta)
    for unit in place.readers:
        nodes[unit.calls[0]].replace_input_with(source, scaled)


def _rebuilt(graph: ModelGraph, module: fx.GraphModule, units: Mapping[str, Unit]) -> ModelGraph:
    module.graph.lint()
    module.recompile()
    return replace(graph, module=module, units=tuple(units.get(u.name, u) for u in graph.units))
