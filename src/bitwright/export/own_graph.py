"""The user's own ONNX graph, quantised: Q/DQ pairs and packed weights, all else as it was.

A network that was read from a file is not exported anew. The marking operators that `torch.onnx`
would carry through an export are put into the user's graph at the places that the importer
recorded, and `onnx_rewrite` turns them into what it always turns them into: what is stored, widened
and fused is the same as in an exported file, so that the file is as fast. Node names, inputs,
outputs, metadata, free axes and the order of nodes stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx
import onnx_ir as ir
from torch import Tensor, fx

from bitwright.export.onnx_rewrite import rewrite
from bitwright.export.opset import LEAST, Need, check
from bitwright.export.opset_of_file import need_of_module
from bitwright.export.own_changes import (
    add_bias,
    dequantize,
    drop_stored_inputs,
    give_names_back,
    look_up,
    lost_names,
    mark,
    skip,
)
from bitwright.export.own_edges import put_edges
from bitwright.export.own_values import OwnGraphRefusal, OwnValues, is_same
from bitwright.graph.custom_ops import DEQUANTIZE, is_stored_weight
from bitwright.graph.model_graph import ModelGraph, Unit, get_tensor
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.target import Target

_TABLE = "Gather"
_NORM = "BatchNormalization"


class UnitSite(Protocol):
    """Where a unit is in the user's file; see `onnx_in.imported.UnitPlace`."""

    @property
    def op(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> str: ...  # noqa: D102
    @property
    def bias(self) -> str: ...  # noqa: D102
    @property
    def bias_node(self) -> str: ...  # noqa: D102
    @property
    def bias_index(self) -> int: ...  # noqa: D102
    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def output(self) -> str: ...  # noqa: D102
    @property
    def transposed(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class OwnGraph:
    """The user's graph with a solution in it.

    Attributes:
        model: the file.
        units: for each unit's mark (input value, output value).
        notes: what else than quantisers is new, in sentences.
    """

    model: onnx.ModelProto
    units: dict[str, tuple[str, str]]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Work:
    """What all steps share: the simulation, and the user's graph as it is written to."""

    marked: fx.GraphModule
    nodes: Mapping[str, fx.Node]
    own: OwnValues
    notes: list[str]
    folded: list[str] = field(default_factory=list)

    def stored(self, node: object) -> np.ndarray:
        """The numbers of a stored tensor of the simulation."""
        assert isinstance(node, fx.Node) and node.op == "get_attr", "quantised tensors are stored"
        return np.asarray(get_tensor(self.marked, str(node.target)).detach().cpu().numpy())


def quantize_own_graph(
    original: onnx.ModelProto,
    places: Mapping[str, Sequence[UnitSite]],
    graph: ModelGraph,
    marked: fx.GraphModule,
    target: Target,
    opset: int = 0,
) -> OwnGraph:
    """Write a solution into the graph that its network was read from.

    Args:
        original: the user's file, weights in memory; it is not changed.
        places: where each unit is in it, call by call.
        graph: the network, which knows what the file calls its values.
        marked: the simulation, stitched with marks.
        target: how weights are written.
        opset: of the file; 0 keeps the user's where the types allow it.

    Raises:
        OwnGraphRefusal: the solution is of another graph than the user's.
        RecipeError: the opset is too low for the types.
    """
    need = need_of_module(marked, target)
    base, told = _raise_opset(original, need, opset)
    model = ir.from_proto(base)
    own = OwnValues.of(model.graph)
    work = _Work(marked, {n.name: n for n in marked.graph.nodes}, own, list(told))
    before = [node.name for node in model.graph]
    for unit in graph.units:
        _put_unit(work, graph, unit, places.get(unit.name, ()))
    put_edges(own, graph, marked)
    version = model.opset_imports.get("", LEAST)
    units = rewrite(model, version, target, pools=False)
    give_names_back(own)
    lost = [name for name in lost_names(own, before) if name not in work.folded]
    if lost:
        work.notes.append(f"gone, for nothing reads them any more: {', '.join(lost)}")
    drop_stored_inputs(own)
    made = ir.to_proto(model)
    # What the intermediate form left out: the user's words, not ours.
    made.ir_version = max(
        original.ir_version, onnx.helper.find_min_ir_version_for(made.opset_import)
    )
    return OwnGraph(
        made, {name: (str(a.name), str(b.name)) for name, (a, b) in units.items()},
        tuple(work.notes),
    )  # fmt: skip


def _raise_opset(
    original: onnx.ModelProto, need: Need, asked: int
) -> tuple[onnx.ModelProto, list[str]]:
    """The file in the opset that its types need, and what is to be told of it."""
    here = next((o.version for o in original.opset_import if o.domain in ("", "ai.onnx")), 1)
    if asked:
        check(asked, need)
    wanted = max(here, asked or need.opset)
    if asked and asked < here:
        raise OwnGraphRefusal(f"the file is of opset {here}, and --opset {asked} is below it")
    if wanted == here:
        return original, []
    try:
        made = onnx.version_converter.convert_version(original, wanted)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise OwnGraphRefusal(
            f"its operators of opset {here} cannot be written in opset {wanted}: "
            f"{str(error).strip().splitlines()[0][:160]}"
        ) from error
    told = "" if asked and asked > need.opset else f": {need.what.strip(', ')} needs it"
    return _keep_words(original, made, wanted), [
        f"the opset was raised from {here} to {wanted}{told}"
    ]


def _keep_words(original: onnx.ModelProto, made: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A converted file with what the converter drops: the words of its parts.

    Where it changed no operator the file is the user's with another number.
    """
    same = onnx.ModelProto()
    same.CopyFrom(original)
    if [_essence(node) for node in original.graph.node] != [_essence(n) for n in made.graph.node]:
        words = {node.name: node for node in original.graph.node if node.name}
        for node in made.graph.node:
            if node.name in words:
                node.doc_string = words[node.name].doc_string
                del node.metadata_props[:]
                node.metadata_props.extend(words[node.name].metadata_props)
        del same.graph.node[:], same.graph.initializer[:]
        same.graph.node.extend(made.graph.node)
        same.graph.initializer.extend(made.graph.initializer)
    for entry in same.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    return same


def _essence(node: onnx.NodeProto) -> tuple[object, ...]:
    """What a node computes, by what from what."""
    attributes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
    return node.op_type, node.domain, tuple(node.input), tuple(node.output), attributes


# ---- units -----------------------------------------------------------------------------------


def _put_unit(work: _Work, graph: ModelGraph, unit: Unit, places: Sequence[UnitSite]) -> None:
    """A unit's weights and biases at each of its places, and the mark of its result."""
    if len(places) != len(unit.calls):
        raise OwnGraphRefusal(f"the unit {unit.name} is not to be found in the file")
    for index, (call, place) in enumerate(zip(unit.calls, places, strict=True)):
        node = _find_call(work, unit, index, call)
        site = work.own.maker(place.output) if not place.bias_node else None
        result = work.own.value(place.output)
        made = site or _behind_bias(work, place)
        result = _fold_norms(work, graph.values.get(call, ()), result, unit.name)
        if place.op == _TABLE:
            result = _put_table(work, unit, made, node)
        else:
            _put_weight(work, unit, made, place, node)
            result = _put_bias(work, unit, made, place, (node, result))
        name = unit.name if index == 0 else f"{unit.name}#{index + 1}"
        mark(work.own, result, name)


def _find_call(work: _Work, unit: Unit, index: int, call: str) -> fx.Node:
    """The operator of a call in the simulation; a table's is what turns its rows into numbers."""
    if call in work.nodes and work.nodes[call].target in WEIGHTED:
        return work.nodes[call]
    rows: list[fx.Node] = [
        n for n in work.marked.graph.nodes
        if n.target is DEQUANTIZE and n.args[5] == unit.name and not is_stored_weight(n)
    ]  # fmt: skip
    place = index - (len(unit.calls) - unit.look_ups)
    if not 0 <= place < len(rows):
        raise OwnGraphRefusal(f"the call {call} of {unit.name} is not in the simulation")
    return rows[place]


def _behind_bias(work: _Work, place: UnitSite) -> ir.Node:
    """The product whose bias another node adds."""
    adder = work.own.maker(place.output)
    for value in adder.inputs:
        maker = value.producer() if value is not None else None
        reads = maker is not None and any(v and v.name == place.weight for v in maker.inputs)
        if reads:
            found: ir.Node = maker
            return found
    raise OwnGraphRefusal(f"the product in front of {place.bias_node} is not where it was")


def _fold_norms(work: _Work, names: Sequence[str], result: ir.Value, unit: str) -> ir.Value:
    """Take out the batch norms that the unit's weights hold; the result has the last one's name."""
    if result.name in names or not names:
        return result
    while result.name not in names:
        readers = [user for user, _ in result.uses()]
        if len(readers) != 1 or readers[0].op_type != _NORM or result.is_graph_output():
            raise OwnGraphRefusal(f"what follows {unit} in the file is not what follows in the run")
        name = str(readers[0].name or readers[0].outputs[0].name)
        work.folded.append(name)
        work.notes.append(f"folded into {unit}: {name}")
        result = skip(work.own, readers[0], result)
    return result


def _put_weight(work: _Work, unit: Unit, made: ir.Node, place: UnitSite, node: fx.Node) -> None:
    """The weight of a product: integers, or other floats where the run changed them."""
    at = next(
        (i for i, v in enumerate(made.inputs) if v is not None and v.name == place.weight), None
    )
    if at is None:
        raise OwnGraphRefusal(f"{unit.name} does not read {place.weight} as its weight")
    weight = node.args[arguments(WEIGHTED[node.target])[1]]
    assert isinstance(weight, fx.Node)
    shape = work.own.shape_of(place.weight)
    if weight.target is DEQUANTIZE:
        parts = [_turn(work.stored(part), place.transposed) for part in weight.args[:3]]
        _check_shape(unit, parts[0], shape)
        made.replace_input_with(at, dequantize(work.own, made, parts, weight.args[3:]))
        return
    numbers = _turn(work.stored(weight), place.transposed)
    _check_shape(unit, numbers, shape)
    if not is_same(numbers, work.own.numbers(place.weight)):
        made.replace_input_with(at, work.own.store(numbers, f"{unit.name}.weight"))
    for name in ("alpha", "beta"):
        factor = made.attributes.get(name)
        if made.op_type == "Gemm" and factor is not None and factor.as_float() != 1.0:
            raise OwnGraphRefusal(f"{unit.name} is a Gemm with {name} {factor.as_float():g}")


def _turn(array: np.ndarray, transposed: bool) -> np.ndarray:
    return np.ascontiguousarray(array.T) if transposed and array.ndim == 2 else array


def _check_shape(unit: Unit, array: np.ndarray, shape: tuple[int, ...] | None) -> None:
    if shape is not None and array.shape != shape:
        raise OwnGraphRefusal(
            f"the run changed the shape of {unit.name} from {list(shape)} to {list(array.shape)}"
        )


def _put_bias(
    work: _Work, unit: Unit, made: ir.Node, place: UnitSite, call: tuple[fx.Node, ir.Value]
) -> ir.Value:
    """The bias, where the run has one that the file has not; returns the unit's result."""
    node, result = call
    at = arguments(WEIGHTED[node.target])[2]
    bias = node.args[at] if at is not None and len(node.args) > at else None
    if bias is None:
        if place.bias:
            raise OwnGraphRefusal(f"the run has no bias at {unit.name}, and the file has one")
        return result
    assert isinstance(bias, fx.Node)
    name = f"{unit.name}.bias"
    if bias.target is DEQUANTIZE:
        value = dequantize(work.own, made, [work.stored(p) for p in bias.args[:3]], bias.args[3:])
    else:
        numbers = work.stored(bias)
        known = work.own.numbers(place.bias) if place.bias else None
        if (
            known is not None
            and is_same(numbers, known.reshape(-1)[: numbers.size])
            and (known.size == numbers.size)
        ):
            return result
        value = work.own.store(numbers, name)
    if made.op_type != "MatMul":
        made.resize_inputs(max(len(made.inputs), 3))
        made.replace_input_with(2, value)
        return result
    return add_bias(work.own, result, value, place.bias, name)


def _put_table(work: _Work, unit: Unit, made: ir.Node, node: fx.Node) -> ir.Value:
    """A table of embeddings: rows of integers are looked up and become numbers."""
    if node.target is not DEQUANTIZE:
        weight = node.args[0]
        numbers = work.stored(weight)
        if not is_same(numbers, work.own.numbers(str(made.inputs[0].name))):
            made.replace_input_with(0, work.own.store(numbers, f"{unit.name}.weight"))
        return made.outputs[0]
    parts: list[tuple[np.ndarray, bool]] = []
    for part in node.args[:3]:
        assert isinstance(part, fx.Node)
        looked_up = part.op != "get_attr"
        parts.append((work.stored(part.args[0] if looked_up else part), looked_up))
    return look_up(work.own, made, parts, node.args[3:])


def outputs_agree(expected: Sequence[Tensor], got: Sequence[np.ndarray], bound: float) -> bool:
    """Whether a file gives what the simulation gives, as far as it may differ by rounding."""
    for one, other in zip(expected, got, strict=True):
        a = one.detach().cpu().numpy().astype(np.float64)
        if a.shape != other.shape:
            return False
        gap = np.linalg.norm(a - other.astype(np.float64))
        if not gap <= bound * max(float(np.linalg.norm(a)), 1e-12):
            return False
    return True
