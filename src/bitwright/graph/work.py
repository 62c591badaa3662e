"""Counting forward work: multiply-accumulates of the operators that were really run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.operators import WEIGHTED, arguments

aten = torch.ops.aten

_PRODUCTS = (aten.matmul.default, aten.mm.default, aten.bmm.default)
_ATTENTION = aten.scaled_dot_product_attention.default


@dataclass
class OperationCount:
    """Multiply-accumulates run so far; a run adds to the one that it is given."""

    macs: int = 0

    def add(self, target: object, args: Sequence[Any], result: object) -> None:
        """Count one operator that was run."""
        self.macs += macs_of(target, args, result)


def macs_of(target: object, args: Sequence[Any], result: object) -> int:
    """Multiply-accumulates of one operator, from the sizes of its tensors.

    Equation: elements of the result x length of the sum behind each: C_in/g k^2 for a convolution,
    N for a product. A transposed convolution is counted from its input, attention as its two
    products. Elementwise operators count as nothing.
    """
    if not isinstance(result, Tensor):
        return 0
    if target is _ATTENTION:
        query, key, value = args[:3]
        return int(query.numel() * key.shape[-2] * (1 + value.shape[-1] / query.shape[-1]))
    kind = "matmul" if target in _PRODUCTS else WEIGHTED.get(target)
    if kind is None or kind == "embedding":
        return 0
    at_input, at_weight, _ = arguments(kind)
    if kind.startswith("conv"):
        taps = math.prod(args[at_weight].shape[1:])
        turned = kind.startswith("conv_transpose") or (kind == "convolution" and bool(args[6]))
        return int(taps * (args[at_input].numel() if turned else result.numel()))
    return int(result.numel() * args[at_input].shape[-1])
