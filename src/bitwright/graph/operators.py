"""Tables of ATen operators: which carry weights, which are activations, what they are called."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from bitwright.graph.opaque import PART

aten = torch.ops.aten

WEIGHTED: dict[Any, str] = {
    aten.conv1d.default: "conv1d",
    aten.conv1d.padding: "conv1d",
    aten.conv2d.default: "conv2d",
    aten.conv2d.padding: "conv2d",
    aten.conv3d.default: "conv3d",
    aten.conv3d.padding: "conv3d",
    aten.conv_transpose1d.default: "conv_transpose1d",
    aten.conv_transpose2d.input: "conv_transpose2d",
    aten.conv_transpose3d.input: "conv_transpose3d",
    aten.convolution.default: "convolution",
    aten.linear.default: "linear",
    aten.addmm.default: "addmm",
    aten.matmul.default: "matmul",
    aten.mm.default: "matmul",
    aten.embedding.default: "embedding",
}

# Where the input, the weight and the bias stand among the arguments.
ARGUMENTS: dict[str, tuple[int, int, int | None]] = {
    "addmm": (1, 2, 0),
    "matmul": (0, 1, None),
    "embedding": (1, 0, None),
}
DEFAULT_ARGUMENTS: tuple[int, int, int | None] = (0, 1, 2)

# Operators that a batch-norm can fold into, and the weight's axis of output channels.
CHANNEL_AXIS: dict[Any, int] = {
    aten.conv1d.default: 0,
    aten.conv1d.padding: 0,
    aten.conv2d.default: 0,
    aten.conv2d.padding: 0,
    aten.conv3d.default: 0,
    aten.conv3d.padding: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.conv_transpose3d.input: 1,
    aten.linear.default: 0,
}

ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.hardtanh.default: "hardtanh",
    aten.relu6.default: "relu6",
    aten.clamp.default: "clamp",
    aten.clamp_min.default: "clamp",
    aten.silu.default: "silu",
    aten.gelu.default: "gelu",
    aten.hardswish.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.leaky_relu.default: "leaky_relu",
    aten.elu.default: "elu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.mish.default: "mish",
    aten.softplus.default: "softplus",
    aten.prelu.default: "prelu",
}

# Activations that a saturating quantiser can stand for: a runtime fuses them away.
CLAMPS = {"relu", "hardtanh", "relu6", "clamp"}

# Operators beside the weighted ones whose inputs a target may quantise, by the target's word.
CHAIN: dict[Any, str] = {
    aten.add.Tensor: "add",
    aten.mul.Tensor: "mul",
    aten.cat.default: "concat",
    aten.avg_pool2d.default: "avg_pool",
    aten.adaptive_avg_pool2d.default: "global_avg_pool",
    aten.mean.dim: "global_avg_pool",
    aten.matmul.default: "matmul",
    aten.bmm.default: "matmul",
    aten.softmax.int: "softmax",
    aten._softmax.default: "softmax",
}

# Operators that only move or select values: what is on the grid before is on it after.
TRANSPARENT: set[Any] = {
    aten.max_pool2d.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints,
    aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.unsqueeze.default,
}  # fmt: skip


# Recurrent operators, and all that carry stored weights in a form that no runtime quantises.
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}
STORED = {
    *RECURRENT, *(f"{name}_cell" for name in RECURRENT),
    "einsum", "bmm", "baddbmm", "bilinear",
}  # fmt: skip


def plain_name(node: fx.Node) -> str:
    """An operator's name without its library and its overload; that of a file's part in ONNX."""
    text = str(node.target)
    if node.target is PART:
        return str(node.args[3]).partition(" ")[0]
    return (
        text.split(".")[1] if text.startswith("aten.") else getattr(node.target, "__name__", text)
    )


def arguments(kind: str) -> tuple[int, int, int | None]:
    """Positions of (input, weight, bias) among the arguments of a unit of this kind."""
    return ARGUMENTS.get(kind, DEFAULT_ARGUMENTS)


def unit_name(weight: str) -> str:
    """The module path of a weight: `layer1.conv` for `layer1.conv.weight`."""
    owner, _, leaf = weight.rpartition(".")
    return owner if leaf == "weight" and owner else weight
