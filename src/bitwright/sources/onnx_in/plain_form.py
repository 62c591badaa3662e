"""A file's graph in one plain form: operators in order, constants as numbers, no wrappings.

Functions of the file are written out, `Constant` nodes become constants, and of an `If` whose
condition is a constant the branch that is taken stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import inliner

from bitwright.errors import ModelError
from bitwright.sources.onnx_in.check import STANDARD, check_graph, in_order, opset_of, reads
from bitwright.sources.onnx_in.names import unit_names
from bitwright.sources.onnx_in.read import array_of

# So deep are branches written out that hold branches.
_DEEPEST = 20
_SMALL = 4096
_SHORT = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Op:
    """One operator as it is translated.

    `protos` are the nodes of the file that it stands for, the last one making its result; `index`
    is the place of the first in the file's graph, -1 where it lay inside of another node.
    """

    name: str
    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    protos: tuple[onnx.NodeProto, ...]
    indices: tuple[int, ...]

    @property
    def reads(self) -> list[str]:
        """The values it needs, those that graphs inside of it take from outside too."""
        if len(self.protos) > 1:
            return [value for value in self.inputs if value]
        return reads(self.protos[0])


@dataclass(frozen=True, eq=False)
class PlainForm:
    """A graph in its plain form.

    `shapes` and `types` are what the file or onnx's shape inference say of values; `turned` says
    of which constant another is the transpose.
    """

    ops: tuple[Op, ...]
    constants: dict[str, Array]
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[str, ...]
    opset: int
    opsets: dict[str, int]
    ir_version: int
    shapes: dict[str, tuple[int | None, ...]]
    types: dict[str, int]
    notes: tuple[str, ...] = ()
    turned: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def read(self) -> frozenset[str]:
        """The values that somebody reads."""
        return frozenset(v for op in self.ops for v in op.reads) | frozenset(self.outputs)


def plain_form(model: onnx.ModelProto, name: str) -> PlainForm:
    """The plain form of a file.

    Raises:
        ModelError: the graph is not sound; see `check.check_graph`.
    """
    opset = opset_of(model, name)
    model = _write_out_functions(model, name)
    check_graph(model, name)
    graph = model.graph
    constants = {t.name: array_of(t, name) for t in graph.initializer}
    if graph.sparse_initializer:
        raise ModelError(
            f"MODEL {name!r} holds the sparse weight {graph.sparse_initializer[0].values.name!r}, "
            "which is not read. Export it with plain weights."
        )
    inputs = tuple(v for v in graph.input if v.name not in constants)
    known = [*constants, *(v.name for v in inputs)]
    ordered = in_order(graph.node, known, name)
    places = {id(node): index for index, node in enumerate(graph.node)}
    names = dict(zip(map(id, graph.node), unit_names(graph.node), strict=True))
    ops = [make_op(n, names[id(n)], (places[id(n)],), name) for n in ordered]
    ops = _take_branches(ops, constants, name)
    notes = _note_short(graph)
    return PlainForm(
        tuple(ops), {k: as_single(v) for k, v in constants.items()}, inputs,
        tuple(v.name for v in graph.output), opset,
        {entry.domain: entry.version for entry in model.opset_import},
        model.ir_version, *_infer_shapes(model), notes,
    )  # fmt: skip


def make_op(node: onnx.NodeProto, name: str, indices: tuple[int, ...], file: str) -> Op:
    """A node of the file as an operator."""
    attributes = {a.name: _attribute(a, file) for a in node.attribute}
    domain = "" if node.domain in STANDARD else node.domain
    return Op(
        name, node.op_type, domain, tuple(node.input), tuple(node.output), attributes, (node,),
        indices,
    )  # fmt: skip


def as_single(array: Array) -> Array:
    """Numbers of short types as float32."""
    kind = str(array.dtype)
    return array.astype(np.float32) if kind in ("float16", "bfloat16") else array


def _attribute(attribute: onnx.AttributeProto, file: str) -> Any:
    if attribute.HasField("t"):
        return as_single(array_of(attribute.t, file))
    try:
        value = onnx.helper.get_attribute_value(attribute)
    except ValueError as error:
        raise ModelError(
            f"MODEL {file!r}: the attribute {attribute.name!r} has no value that can be read "
            f"({error}). Export it again."
        ) from error
    if value is None:
        raise ModelError(
            f"MODEL {file!r}: the attribute {attribute.name!r} has no value. Export it again."
        )
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if not isinstance(value, (int, float, str, onnx.GraphProto)) else value


def _write_out_functions(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"MODEL {name!r} has functions of its own that cannot be written out ({first[:200]}). "
            "Export it again without functions."
        ) from error


def _note_short(graph: onnx.GraphProto) -> tuple[str, ...]:
    short = {t.data_type for t in graph.initializer} & set(_SHORT)
    short |= {v.type.tensor_type.elem_type for v in graph.input} & set(_SHORT)
    if not short:
        return ()
    kinds = " and ".join(sorted(onnx.TensorProto.DataType.Name(k).lower() for k in short))
    return (
        f"it holds {kinds} numbers, which are read as float32: that is what it is compared with.",
    )


# ---- branches that are known -----------------------------------------------------------------


def _take_branches(ops: list[Op], constants: dict[str, Array], file: str) -> list[Op]:
    """The operators with constants taken out and known branches in place, as often as needed."""
    for _ in range(_DEEPEST):
        ops = _take_constants(ops, constants)
        found = next((op for op in ops if op.kind == "If" and op.inputs[0] in constants), None)
        if found is None:
            return ops
        place = ops.index(found)
        ops[place : place + 1] = _branch_of(found, constants, file)
    return ops


def _take_constants(ops: Iterable[Op], constants: dict[str, Array]) -> list[Op]:
    left = []
    for op in ops:
        value = _constant_of(op)
        if value is None:
            left.append(op)
        else:
            constants[op.outputs[0]] = value
    return left


def _constant_of(op: Op) -> Array | None:
    """The value of a Constant node of numbers."""
    if op.kind != "Constant" or op.domain:
        return None
    for key, kind in (("value_float", np.float32), ("value_int", np.int64),
                      ("value_floats", np.float32), ("value_ints", np.int64)):  # fmt: skip
        if key in op.attributes:
            return np.array(op.attributes[key], dtype=kind)
    value = op.attributes.get("value")
    return value if isinstance(value, np.ndarray) else None


def _branch_of(op: Op, constants: dict[str, Array], file: str) -> list[Op]:
    """The operators of the branch that an If takes; values of its own get names of their own."""
    taken = bool(constants[op.inputs[0]].reshape(-1)[0])
    graph = op.attributes["then_branch" if taken else "else_branch"]
    own = {t.name for t in graph.initializer} | {v for n in graph.node for v in n.output if v}
    renamed = {value: f"{op.outputs[0]}/{value}" for value in own}
    results = {v.name: o for v, o in zip(graph.output, op.outputs, strict=False)}
    renamed |= {value: results[value] for value in own if value in results}
    for tensor in graph.initializer:
        constants[renamed[tensor.name]] = array_of(tensor, file)
    made = []
    stored = {t.name for t in graph.initializer}
    names = dict(zip(map(id, graph.node), unit_names(graph.node), strict=True))
    for node in in_order(graph.node, (*stored, *_outer(graph, own)), file):
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        _rename(copied, renamed)
        made.append(make_op(copied, f"{op.name}.{names[id(node)]}", (-1,), file))
    passed = [(v.name, o) for v, o in zip(graph.output, op.outputs, strict=False)]
    for inner_name, outer in passed:
        if inner_name not in own:  # handed through from outside
            node = onnx.helper.make_node("Identity", [inner_name], [outer], name=op.protos[0].name)
            made.append(make_op(node, op.name, (-1,), file))
    return made


def _outer(graph: onnx.GraphProto, own: set[str]) -> list[str]:
    return [v for node in graph.node for v in reads(node) if v not in own]


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    for values in (node.input, node.output):
        for place, value in enumerate(values):
            values[place] = renamed.get(value, value)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                _rename(inner, renamed)
            for output in graph.output:
                output.name = renamed.get(output.name, output.name)


# ---- shapes ----------------------------------------------------------------------------------


def _infer_shapes(
    model: onnx.ModelProto,
) -> tuple[dict[str, tuple[int | None, ...]], dict[str, int]]:
    """What onnx knows of the shapes of values; nothing where it fails, for nothing depends on it
    but batches that a file fixes."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            graph.initializer.append(tensor)
        else:  # large numbers shape nothing, and copying them would take their memory twice
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        inferred = bare
    graph = inferred.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {v.name: shape_of(v) for v in values if v.type.tensor_type.HasField("shape")}
    types = {v.name: _single_type(v.type.tensor_type.elem_type) for v in values}
    return shapes, {name: kind for name, kind in types.items() if kind}


def _single_type(kind: int) -> int:
    return int(onnx.TensorProto.FLOAT) if kind in _SHORT else kind


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The declared shape; None where a dimension is free."""
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def with_ops(form: PlainForm, ops: Iterable[Op]) -> PlainForm:
    """The same graph of other operators."""
    return replace(form, ops=tuple(ops))
