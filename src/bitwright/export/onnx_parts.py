"""Pieces that stay as they are in the user's file, put back into an exported one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
from onnx.defs import OpSchema

from bitwright.errors import CaptureError
from bitwright.export.onnx_tape import redirect
from bitwright.graph.opaque import PART, key_of, parse_shapes

DOMAIN = "bitwright"
_PART = "Part"
# The most results of a piece.
_MOST = 16
_TYPES = [
    f"tensor({kind})"
    for kind in ("float", "double", "int64", "int32", "int16", "int8", "uint8", "bool")
]


def register_parts() -> None:
    """Tell onnx of one operator for each number of results; the exporter asks for a schema."""
    options = OpSchema.FormalParameterOption
    for count in range(1, _MOST + 1):
        if onnx.defs.has(f"{_PART}{count}", domain=DOMAIN):
            continue
        onnx.defs.register_schema(
            OpSchema(
                f"{_PART}{count}",
                DOMAIN,
                1,
                inputs=[
                    OpSchema.FormalParameter(
                        "inputs", "T", param_option=options.Variadic, is_homogeneous=False
                    )
                ],
                outputs=[OpSchema.FormalParameter(f"y{i}", "T") for i in range(count)],
                type_constraints=[("T", _TYPES, "tensors")],
                attributes=[OpSchema.Attribute("name", OpSchema.AttrType.STRING)],
            )
        )


def translate_part(ops: onnxscript.values.Opset) -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` should emit for a piece."""

    def part(inputs: Any, model: Any, key: str, name: str, shapes: str) -> Any:
        del key
        count = len(parse_shapes(shapes))
        if count > _MOST:
            raise CaptureError(
                f"the part {name!r} of the file has {count} results, and {_MOST} at most are "
                "written. Cut the file before it."
            )
        made = getattr(ops, f"{_PART}{count}")(model, *inputs, name=name)
        return [made] if count == 1 else list(made)

    return {PART: part}


def put_parts(model: ir.Model, opset: int) -> None:
    """Put the operators of each piece in its place.

    Raises:
        CaptureError: an operator of a piece has no form in the opset of the file.
    """
    graph = model.graph
    for node in [n for n in graph if n.domain == DOMAIN and n.op_type.startswith(_PART)]:
        name = str(node.attributes["name"].as_string())
        stored = node.inputs[0]
        assert stored is not None and stored.const_value is not None
        content = np.asarray(stored.const_value.numpy()).tobytes()
        part = _in_opset(content, opset, name)
        _inline(graph, node, ir.from_proto(part), f"{name}.{key_of(content)[:6]}")
        for entry in part.opset_import:
            if entry.domain not in ("", "ai.onnx"):
                model.opset_imports[entry.domain] = entry.version


def _in_opset(content: bytes, opset: int, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(content)
    own = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), opset)
    if own == opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise CaptureError(
            f"the part {name!r} of the file is of opset {own} and cannot be brought to {opset}, "
            f"which the quantised types need ({first[:200]}). Export the float file with opset "
            f"{opset}."
        ) from error


def _inline(graph: ir.Graph, node: ir.Node, part: ir.Model, stem: str) -> None:
    inner = part.graph
    for given, value in zip(inner.inputs, node.inputs[1:], strict=True):
        assert value is not None
        ir.convenience.replace_all_uses_with(given, value)
    for value in list(inner.initializers.values()):
        inner.initializers.pop(str(value.name))
        value.name = f"{stem}.{value.name}"
        graph.initializers[value.name] = value
    results = list(inner.outputs)
    inner.outputs.clear()
    moved = list(inner)
    inner.remove(moved)
    for inside in moved:
        inside.name = f"{stem}.{inside.name or inside.op_type}"
        for value in inside.outputs:
            if value.name:
                value.name = f"{stem}.{value.name}"
    graph.insert_before(node, moved)
    for old, new in zip(node.outputs, results, strict=True):
        redirect(old, new)
    graph.remove(node, safe=True)
