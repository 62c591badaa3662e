"""The opset of one file: what its simulation needs, and what an old reader can take."""

from __future__ import annotations

import onnx
import torch
from torch import fx

from bitwright.errors import RecipeError
from bitwright.export.opset import TRANSLATED, Need, need_of_inputs, need_of_weights
from bitwright.graph.custom_ops import DEQUANTIZE, FAKE_QUANTIZE
from bitwright.graph.model_graph import get_tensor
from bitwright.graph.target import Target
from bitwright.numerics.blocks import block_of


def need_of_module(module: fx.GraphModule, target: Target) -> Need:
    """What the file of a stitched simulation needs."""
    found = Need()
    for node in module.graph.nodes:
        own = Need()
        if node.target is FAKE_QUANTIZE:
            own = need_of_inputs(int(node.args[3]))
        elif node.target is DEQUANTIZE:
            bits, points = int(node.args[3]), int(node.args[6]) if len(node.args) > 6 else 1
            grouped = _in_groups(module, node)
            own = need_of_weights(
                bits // points, grouped, target.stored_bits(bits // points, grouped)
            )
        found = max(found, own, key=lambda need: need.opset)
    return found


def _in_groups(module: fx.GraphModule, node: fx.Node) -> bool:
    scale, zero = node.args[1], node.args[2]
    if not all(isinstance(n, fx.Node) and n.op == "get_attr" for n in (scale, zero)):
        return False
    held = [get_tensor(module, str(n.target)) for n in (scale, zero) if isinstance(n, fx.Node)]
    return block_of(held[0], held[1].expand(held[0].shape).to(torch.int32)) is not None


def stamp(model: onnx.ModelProto, opset: int) -> None:
    """Write a file for older readers too: the least format that the opset allows, checked.

    Raises:
        RecipeError: the network holds an operator that the opset lacks.
    """
    model.ir_version = min(
        model.ir_version, onnx.helper.find_min_ir_version_for(model.opset_import)
    )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"--opset {opset} is too low for this network: {first[:200]}. Give --opset "
            f"{TRANSLATED} or more, or leave it out."
        ) from error
