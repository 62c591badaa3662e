"""Numbers that half precision could not hold: where a conversion left its limit behind."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.graph.model_graph import FoldedBatchNorm, ModelGraph, Unit, name_tensors

HALF_MOST = float(torch.finfo(torch.float16).max)
# Folding multiplies by a rounded factor, and taking it out again rounds once more.
_NEAR = 1e-5


def find_saturated(graph: ModelGraph) -> dict[str, int]:
    """How many numbers of each tensor are the largest of half precision, or infinite.

    A weight that a batch-norm was folded into is looked at as it was before:
    w = w' sqrt(var + eps) / gamma.
    """
    units = {unit.weight: unit for unit in graph.units}
    found: dict[str, int] = {}
    for name, tensor in name_tensors(graph.module).items():
        if tensor.dtype.is_floating_point:
            unit = units.get(name)
            norm = graph.folded.get(unit.name) if unit is not None else None
            own = _unfold(tensor, unit, norm) if unit is not None and norm is not None else tensor
            found[name] = _count(own)
    for norm in graph.folded.values():
        for leaf in ("gamma", "beta", "mean", "var"):
            found[f"{norm.name}.{leaf}"] = _count(getattr(norm, leaf))
    return {name: count for name, count in found.items() if count}


def _unfold(weight: Tensor, unit: Unit, norm: FoldedBatchNorm) -> Tensor:
    factor = norm.gamma.double() / (norm.var.double() + norm.eps).sqrt()
    shape = [1] * weight.dim()
    shape[unit.channel_axis] = -1
    if factor.numel() != weight.shape[unit.channel_axis]:
        return weight
    return weight.double() / factor.reshape(shape)


def _count(tensor: Tensor) -> int:
    magnitude = tensor.detach().double().abs()
    return int((((magnitude / HALF_MOST) - 1).abs() < _NEAR).sum() + magnitude.isinf().sum())
