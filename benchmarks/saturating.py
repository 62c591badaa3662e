"""A processor without VNNI, emulated: pairs of products added in signed 16 bits, cut at the ends.

`vpmaddubsw` multiplies unsigned bytes by signed ones and adds neighbours with saturation;
`vpmaddwd` then adds in 32 bits. `saturating_sums` does that number by number. `Saturating` runs a
whole simulation so: of each product of a unit it takes away what a pair that exceeds would lose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from bitwright.graph.custom_ops import BIAS_BITS, DEQUANTIZE, FAKE_QUANTIZE, MARK
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.rows import geometry, input_rows, weight_rows
from bitwright.graph.sites import is_zero_pad

LOW, HIGH = -(2**15), 2**15 - 1


def kernel_order(unit: Unit) -> np.ndarray:
    """Where each weight of a channel stands in ONNX Runtime's kernels: (position, input)."""
    inputs = unit.shape[1] if unit.kind.startswith("conv") else unit.params // unit.shape[0]
    positions = int(np.prod(unit.shape[2:])) if unit.kind.startswith("conv") else 1
    if unit.kind in ("addmm", "matmul"):
        inputs, positions = unit.shape[0], 1
    return np.arange(inputs * positions).reshape(inputs, positions).T.reshape(-1)


def saturating_sums(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sums of x [R, N] (uint8) times w [C, N] (int8) as the instructions make them: [R, C]."""
    odd = [(0, 0), (0, x.shape[1] % 2)]
    left, right = (np.pad(v, odd).astype(np.int32).reshape(len(v), -1, 2) for v in (x, w))
    found = np.empty((len(x), len(w)), np.int32)
    for channel, row in enumerate(right):
        pairs = (left * row).sum(2)
        found[:, channel] = np.clip(pairs, LOW, HIGH).sum(1, dtype=np.int32)
    return found


def lost_sums(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The exact sums less the saturating ones: the same numbers, from the pairs that can exceed."""
    odd = [(0, 0), (0, x.shape[1] % 2)]
    left, right = (np.pad(v, odd).astype(np.int32).reshape(len(v), -1, 2) for v in (x, w))
    found = np.zeros((len(x), len(w)), np.int64)
    reach = left.max(initial=0)
    most = np.maximum(right, 0).sum(2) * reach > HIGH
    least = np.minimum(right, 0).sum(2) * reach < LOW
    for channel, pair in zip(*np.nonzero(most | least), strict=True):
        sums = left[:, pair] @ right[channel, pair]
        found[:, channel] += sums - np.clip(sums, LOW, HIGH)
    return found


class Saturating(fx.Interpreter):
    """A simulation, stitched with marks, on a processor without VNNI.

    `lost` has, by unit, how many sums were cut off and how many there were.
    """

    def __init__(self, graph: ModelGraph, marked: fx.GraphModule) -> None:
        super().__init__(marked, garbage_collect_values=False)
        self.units = {unit.name: unit for unit in graph.units}
        self.lost: dict[str, list[int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.target is MARK and isinstance(value, Tensor):
            return self._cut(n, value)
        return value

    def _cut(self, mark: fx.Node, value: Tensor) -> Tensor:
        parts = _parts(mark.args[0])
        unit = self.units.get(str(mark.args[1]))
        if parts is None or unit is None or unit.kind.startswith("conv_transpose"):
            return value
        call, weight, inputs, pads = parts
        if not weight.args[4] or weight.args[3] > 8:  # type: ignore[operator]
            return value
        q, s_w = (self.fetch_attr(str(a.target)) for a in weight.args[:2])  # type: ignore[union-attr]
        s_x, z_x = (self.fetch_attr(str(a.target)) for a in inputs.args[1:3])  # type: ignore[union-attr]
        form = geometry(unit, call)
        seen = self.env[pads if pads is not None else inputs]
        rows = input_rows(seen, form, 1 << 40, 0)
        raw = (rows / s_x + z_x).round().numpy().astype(np.uint8)
        order = kernel_order(unit)
        w = weight_rows(q, unit).numpy()
        lost = np.concatenate(
            [lost_sums(x[:, order], v[:, order]) for x, v in zip(raw, w, strict=True)], 1
        )
        self.lost.setdefault(unit.name, [0, 0])
        self.lost[unit.name][0] += int((lost != 0).sum())
        self.lost[unit.name][1] += lost.size
        if not lost.any():
            return value
        scale = (s_x * s_w).reshape(-1).double()
        missing = torch.from_numpy(lost) * scale
        if form is None:
            return value - missing.reshape(value.shape).float()
        batch, channels = value.shape[:2]
        spread = missing.reshape(batch, *value.shape[2:], channels).movedim(-1, 1)
        return value - spread.float()


def _parts(call: Any) -> tuple[fx.Node, fx.Node, fx.Node, fx.Node | None] | None:
    """The call, its stored weight, the quantiser of its input, and a padding between."""
    pads = next((n for n in call.all_input_nodes if is_zero_pad(n)), None)
    read = [n.all_input_nodes[0] if n is pads else n for n in call.all_input_nodes]
    inputs = next((n for n in read if n.target is FAKE_QUANTIZE), None)
    weight = next((n for n in read if n.target is DEQUANTIZE and n.args[3] != BIAS_BITS), None)
    return None if inputs is None or weight is None else (call, weight, inputs, pads)
