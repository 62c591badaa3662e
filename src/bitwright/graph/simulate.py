"""Stitching solutions into a network: an ordinary nn.Module that computes what will be deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.graph.custom_ops import BIAS_BITS, DEQUANTIZE, FAKE_QUANTIZE, MARK
from bitwright.graph.model_graph import (
    ModelGraph,
    Unit,
    drop_unused_tensors,
    set_tensor,
    shallow_copy,
)
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.sites import Site
from bitwright.numerics.affine import QParams

EMBEDDING = torch.ops.aten.embedding.default


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """Integers on a grid with what turns them back into numbers.

    `channel_bits`: the bits of each output channel, along `channel_axis`, where they differ; the
    grid is that of the widest.
    `points`: how many tensors of `bits / points` bits each are stored, whose sum this is.
    """

    q: Tensor
    qparams: QParams
    channel_bits: tuple[int, ...] = ()
    channel_axis: int = 0
    points: int = 1

    @property
    def point_bits(self) -> int:
        """The bits of each point's integers."""
        return self.qparams.grid.bits // self.points


@dataclass(frozen=True, eq=False)
class IntegerBias:
    """An int32 bias of scale s_x s_w, as integer kernels take it."""

    q: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class Assignment:
    """Everything that makes a network quantised: weights, biases and the edges' grids.

    `weights` and `biases` go by unit name; `edges` by (source, reader) node names. Units and edges
    that are not named stay in float.
    """

    weights: Mapping[str, QuantizedTensor]
    biases: Mapping[str, Tensor | IntegerBias]
    edges: Mapping[tuple[str, str], QParams]


def stitch(graph: ModelGraph, assignment: Assignment, marks: bool = False) -> fx.GraphModule:
    """The quantised network: same inputs and outputs as the user's, on any device.

    Args:
        graph: the captured float network; it is not changed.
        assignment: the solved parameters.
        marks: name every unit's result, for export and verification.
    """
    module = shallow_copy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    for unit in graph.units:
        if unit.name in assignment.weights:
            _put_weight(module, nodes, unit, assignment)
        if marks:
            _put_marks(module, nodes, unit)
    _put_edges(module, nodes, assignment.edges)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    drop_unused_tensors(module)
    module.eval()
    return module


def _put_weight(
    module: fx.GraphModule, nodes: dict[str, fx.Node], unit: Unit, assignment: Assignment
) -> None:
    solved = assignment.weights[unit.name]
    owner, _, leaf = unit.weight.rpartition(".")
    stem = "quantized" if leaf == "weight" else f"{leaf}_quantized"
    base = f"{owner}.{stem}" if owner else stem
    first = next(node for node in module.graph.nodes if node.name in unit.calls)
    parts = _store(module, first, base, solved)
    grid = (solved.qparams.grid.bits, solved.qparams.grid.signed, unit.name, solved.points)
    bias = _insert_bias(module, first, base, unit, assignment)
    # Rows of several points are looked up in each of their tables, which the export takes apart.
    whole = solved.points > 1
    multiplied = [c for c in unit.calls if whole or nodes[c].target is not EMBEDDING]
    weight: fx.Node | None = None
    if multiplied:
        with module.graph.inserting_before(first):
            weight = module.graph.call_function(DEQUANTIZE, (*parts, *grid))
    for call in unit.calls:
        node = nodes[call]
        if call not in multiplied:
            nodes[call] = _gather(module, node, parts, solved, grid)
            continue
        _, at_weight, at_bias = arguments(WEIGHTED[node.target])
        args = list(node.args)
        args[at_weight] = weight
        if bias is not None and at_bias is not None:
            args += [None] * (at_bias + 1 - len(args))
            args[at_bias] = bias
        node.args = tuple(args)


def _gather(
    module: fx.GraphModule,
    node: fx.Node,
    parts: tuple[fx.Node, ...],
    solved: QuantizedTensor,
    grid: tuple[int, bool, str, int],
) -> fx.Node:
    """A look-up that takes integers from the table and turns only those into numbers.

    The numbers are the same as after turning the whole table, which may be most of the network,
    into numbers for a few rows of it.
    """
    indices = node.args[1]
    scales = solved.qparams.scale
    by_row = scales.dim() > 0 and scales.shape[0] > 1
    graph = module.graph
    with graph.inserting_before(node):
        rows = [
            graph.call_function(EMBEDDING, (part, indices)) if by_row or part is parts[0] else part
            for part in parts
        ]
        made = graph.call_function(DEQUANTIZE, (*rows, *grid))
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    return made


def _store(
    module: fx.GraphModule, before: fx.Node, base: str, solved: QuantizedTensor
) -> tuple[fx.Node, ...]:
    """The integers, their scales and zero points as tensors of the module."""
    qparams = solved.qparams
    set_tensor(module, f"{base}.q", _in_one_layout(solved.q))
    set_tensor(module, f"{base}.scale", qparams.scale)
    set_tensor(module, f"{base}.zero_point", qparams.zero_point)
    graph = module.graph
    with graph.inserting_before(before):
        return tuple(graph.get_attr(f"{base}.{p}") for p in ("q", "scale", "zero_point"))


def _in_one_layout(q: Tensor) -> Tensor:
    """Strides that follow from the shape alone: float results then do too, saved or not."""
    layout = torch.channels_last if q.dim() == 4 else torch.contiguous_format
    return torch.empty(q.shape, dtype=q.dtype, device=q.device, memory_format=layout).copy_(q)


def _insert_bias(
    module: fx.GraphModule, before: fx.Node, base: str, unit: Unit, assignment: Assignment
) -> fx.Node | None:
    solved = assignment.biases.get(unit.name)
    if solved is None:
        return None
    graph = module.graph
    if isinstance(solved, Tensor):
        target = f"{base}.bias"
        set_tensor(module, target, solved)
        with graph.inserting_before(before):
            return graph.get_attr(target)
    target = f"{base}_bias"
    zero = torch.zeros(solved.scale.shape, dtype=torch.int32)
    for leaf, value in (("q", solved.q), ("scale", solved.scale), ("zero_point", zero)):
        set_tensor(module, f"{target}.{leaf}", value)
    with graph.inserting_before(before):
        parts = tuple(graph.get_attr(f"{target}.{p}") for p in ("q", "scale", "zero_point"))
        return graph.call_function(DEQUANTIZE, (*parts, BIAS_BITS, True, f"{unit.name}.bias", 1))


def _put_marks(module: fx.GraphModule, nodes: Mapping[str, fx.Node], unit: Unit) -> None:
    for index, call in enumerate(unit.calls):
        node = nodes[call]
        name = unit.name if index == 0 else f"{unit.name}#{index + 1}"
        with module.graph.inserting_after(node):
            marked = module.graph.call_function(MARK, (node, name))
        node.replace_all_uses_with(marked, delete_user_cb=lambda user: user.target is not MARK)


def _put_edges(
    module: fx.GraphModule,
    nodes: Mapping[str, fx.Node],
    edges: Mapping[tuple[str, str], QParams],
) -> None:
    """One fake-quantise node for each distinct (source, parameters), shared by its readers."""
    made: dict[tuple[str, int, float, int, bool, int], fx.Node] = {}
    for (source, reader), qparams in edges.items():
        node = nodes[source]
        grid = qparams.grid
        numbers = float(qparams.scale), int(qparams.zero_point)
        key = (source, grid.bits, *numbers, grid.signed, qparams.block)
        if key not in made:
            made[key] = _insert_fake_quantize(module, node, qparams, len(made))
        _redirect(nodes[reader], node, made[key])


def _redirect(reader: fx.Node, source: fx.Node, by: fx.Node) -> None:
    """Let the reader take `by` instead of the source (or of the mark that stands for it)."""
    for old in (source, *(u for u in source.users if u.target is MARK)):
        if old in reader.all_input_nodes:
            reader.replace_input_with(old, by)


def _insert_fake_quantize(
    module: fx.GraphModule, node: fx.Node, qparams: QParams, index: int
) -> fx.Node:
    base = f"edges.{node.name}_{index}"
    set_tensor(module, f"{base}.scale", qparams.scale)
    set_tensor(module, f"{base}.zero_point", qparams.zero_point)
    graph = module.graph
    marked = next((u for u in node.users if u.target is MARK), node)
    after = marked
    if node.op == "placeholder":
        after = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(after):
        scale = graph.get_attr(f"{base}.scale")
    with graph.inserting_after(scale):
        zero = graph.get_attr(f"{base}.zero_point")
    with graph.inserting_after(zero):
        grid = qparams.grid
        return graph.call_function(
            FAKE_QUANTIZE,
            (marked, scale, zero, grid.bits, grid.signed, f"{node.name}_{index}")
            + ((qparams.at_run,) if qparams.dynamic else ()),
        )


def sites_by_unit(sites: tuple[Site, ...]) -> dict[str, list[Site]]:
    """The input edges of each unit, by call."""
    found: dict[str, list[Site]] = {}
    for site in sites:
        if site.unit is not None:
            found.setdefault(site.unit, []).append(site)
    return found
