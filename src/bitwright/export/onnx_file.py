"""From the simulated network to a standard ONNX file of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from google.protobuf.message import EncodeError
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bitwright.engine.files import write_atomically
from bitwright.errors import CaptureError
from bitwright.export.onnx_names import name_axes, name_outputs
from bitwright.export.onnx_rewrite import rewrite
from bitwright.export.onnx_scalars import protect_small_terms
from bitwright.export.onnx_schema import translation_table
from bitwright.export.opset import TRANSLATED, choose_opset
from bitwright.export.opset_of_file import need_of_module, stamp
from bitwright.graph.capture import quiet_torch
from bitwright.graph.model_graph import InputSpec, ModelGraph
from bitwright.graph.names import OUTPUT
from bitwright.graph.target import Target

_EXPORT_ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True)
class OnnxFile:
    """Where the parts of the simulation are found in the file.

    `units` maps a unit's mark to (input value, output value): cutting the file there gives the
    unit alone, which is what the verification runs.
    """

    path: Path
    units: dict[str, tuple[str, str]]


def export_onnx(
    graph: ModelGraph,
    module: fx.GraphModule,
    example: tuple[Tensor, ...],
    path: Path,
    target: Target | None = None,
    opset: int = 0,
) -> OnnxFile:
    """Write the simulated network, stitched with marks, as standard ONNX.

    The marking operators travel through torch.onnx.export as operators of our own and are then
    rewritten: weights become packed integer initialisers behind DequantizeLinear, activations pass
    QuantizeLinear and DequantizeLinear, marks disappear and leave their names. The target
    says how sums of several tensors are written. Inputs and outputs have the network's names;
    `opset` is that of the file, 0 for what its types need.

    Raises:
        CaptureError: torch.onnx cannot translate an operator of the network.
        RecipeError: the opset is too low for the types or the operators.
    """
    target = target or Target("any runtime")
    written = choose_opset(opset, need_of_module(module, target))
    model = _translate(module, example, graph.inputs, max(written, TRANSLATED))
    values = rewrite(model, written, target)
    _strip(model)
    name_outputs(model.graph, _output_names(graph, module))
    units = {unit: (start.name, end.name) for unit, (start, end) in values.items()}
    proto = ir.to_proto(model)
    name_axes(proto, graph.inputs)
    if opset:
        stamp(proto, opset)
    onnx.helper.set_model_props(
        proto, {"bitwright.units": json.dumps(units, separators=(",", ":"))}
    )
    _write(proto, path)
    return OnnxFile(path, units)


def _output_names(graph: ModelGraph, module: fx.GraphModule) -> list[str]:
    """What the network calls the outputs of the file: those of its results that are tensors."""
    places = output_places(module)
    known = graph.outputs if len(graph.outputs) == len(places) else ()
    names = known or tuple(f"{OUTPUT}_{index}" for index in range(len(places)))
    return [name for name, place in zip(names, places, strict=True) if place is not None]


def unit_values(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Read back from a file which values are the input and the output of each unit."""
    for entry in model.metadata_props:
        if entry.key == "bitwright.units":
            return {name: (pair[0], pair[1]) for name, pair in json.loads(entry.value).items()}
    return {}


def _translate(
    module: fx.GraphModule, example: tuple[Tensor, ...], inputs: tuple[InputSpec, ...], opset: int
) -> ir.Model:
    flat = _flat_signature(module)
    protect_small_terms(flat)
    auto = torch.export.Dim.AUTO
    dynamic = tuple(
        {i: auto for i, size in enumerate(spec.shape) if size is None} for spec in inputs
    )
    try:
        with quiet_torch(), torch.no_grad():
            program = torch.onnx.export(
                flat,
                example,
                dynamo=True,
                custom_translation_table=translation_table(),
                dynamic_shapes=dynamic,
                opset_version=opset,
                input_names=[spec.label for spec in inputs],
                verbose=False,
                optimize=True,
                external_data=False,
            )
    except _EXPORT_ERRORS as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"torch.onnx cannot translate the network: {first[:300]} The quantised network is "
            "complete in the run directory (model.safetensors); only model.onnx is missing. "
            "Replace the operator that is named, or use result.model in torch."
        ) from error
    assert program is not None
    return program.model


def _flat_signature(module: fx.GraphModule) -> fx.GraphModule:
    """The same graph, taking and giving flat tensors: ONNX knows no dictionaries."""
    graph = fx.Graph()
    result = graph.graph_copy(module.graph, {})
    leaves = pytree.tree_leaves(result)
    unused = [n for n in graph.nodes if n.op == "placeholder" and not n.users and not _is_tensor(n)]
    for node in unused:
        graph.erase_node(node)
    kept = [leaf for leaf in leaves if _is_tensor(leaf)]
    # One ONNX name cannot be an input and an output: an input handed through gets a copy.
    graph.output(tuple(_copy(graph, n) if n.op == "placeholder" else n for n in kept))
    flat = fx.GraphModule(module, graph)
    flat.eval()
    return flat


def _copy(graph: fx.Graph, node: fx.Node) -> fx.Node:
    copy = graph.call_function(torch.ops.aten.clone.default, (node,))
    copy.meta = dict(node.meta)
    return copy


def output_places(module: fx.GraphModule) -> list[int | None]:
    """Which output of the file each leaf of the network's result is; None for what is no tensor."""
    result = next(n for n in module.graph.nodes if n.op == "output").args[0]
    found: list[int | None] = []
    count = 0
    for leaf in pytree.tree_leaves(result):
        found.append(count if _is_tensor(leaf) else None)
        count += _is_tensor(leaf)
    return found


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and (
        isinstance(node.meta.get("val"), Tensor) or "val" not in node.meta
    )


def _strip(model: ir.Model) -> None:
    """Drop what only the exporter's authors read: it would outweigh small networks."""
    # The pass leaves the model's own entries and those of values.
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    made = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (*model.graph.inputs, *model.graph.initializers.values(), *made):
        value.metadata_props.clear()
        value.doc_string = None
    for value in (value for node in model.graph for value in node.outputs):
        if not value.is_graph_output():
            value.shape = value.type = None
    model.producer_name = "bitwright"
    model.producer_version = None


def _write(proto: onnx.ModelProto, path: Path) -> None:
    """Whole or not at all: a reader, or a kill at any instant, never sees half a file."""
    try:
        content = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise CaptureError(
            f"model.onnx would hold {proto.ByteSize() / 1e9:.1f} GB, and a file of this format "
            "holds 2 at most. The quantised network is complete in the run directory "
            "(model.safetensors); use result.model in torch, or fewer bits."
        ) from error
    write_atomically(path, content)
