"""The certificate of `verify.json`: which sums of a file fit, unit by unit, on every processor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from bitwright.export.verified import Certificate, UnitSums
from bitwright.graph.custom_ops import (
    BIAS_BITS,
    DEQUANTIZE,
    FAKE_QUANTIZE,
    MARK,
    is_stored_weight,
)
from bitwright.graph.model_graph import ModelGraph, get_tensor
from bitwright.graph.sites import is_zero_pad
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid
from bitwright.numerics.kernel_sums import (
    FLOAT_MOST,
    INT_MOST,
    InputSpan,
    any_pair_peaks,
    channel_rows,
    neighbours_of,
    pair_limit,
    pair_peaks,
    sum_peaks,
)
from bitwright.numerics.points import split

# Kernels of bytes; wider integers have none.
_BYTE = 8


def certify(graph: ModelGraph, marked: fx.GraphModule) -> Certificate:
    """What the integers of a simulation come to at most, as shares of what holds them.

    For each unit with quantised inputs and weights, over all inputs that their grid has:

    - `int32`: sums and integer biases in 32 bits; below 1 nothing wraps;
    - `float32`: the sums in float32, which holds integers below 2^24; to 1 a runtime that emulates
      integers in float is exact;
    - `pairs`: two products side by side in signed 16 bits, as x86 without VNNI adds them; to 1
      nothing is cut off. `any_pair` is the same for any two weights of a channel, whatever the
      order of the kernel. None where weights are unsigned or wider than a byte: other kernels.

    `holds` says whether the first and the third are kept in every unit, so that all processors give
    the same sums; `float_sums` whether the second is.

    Args:
        graph: the captured network, which knows the units' channels.
        marked: the simulation, stitched with marks.
    """
    axes = {unit.name: unit.channel_axis for unit in graph.units}
    units: dict[str, dict[str, float | None]] = {}
    for call in _marked_calls(marked):
        for record in _records(marked, call, axes):
            name, found = record
            before = units.get(name)
            units[name] = found if before is None else _worse(before, found)
    sums = {
        name: UnitSums(
            int32=shares["int32"] or 0.0,
            float32=shares["float32"] or 0.0,
            pairs=shares["pairs"],
            any_pair=shares["any_pair"],
        )
        for name, shares in units.items()
    }
    return Certificate(
        holds=all(s.int32 < 1 and (s.pairs is None or s.pairs <= 1) for s in sums.values()),
        float_sums=all(s.float32 <= 1 for s in sums.values()),
        units=sums,
    )


def _worse(one: dict[str, float | None], other: dict[str, float | None]) -> dict[str, float | None]:
    """Of two calls, or points, of one weight the greater share."""
    found: dict[str, float | None] = {}
    for key, share in one.items():
        known = [v for v in (share, other[key]) if v is not None]
        found[key] = max(known) if known else None
    return found


def _marked_calls(marked: fx.GraphModule) -> Iterator[fx.Node]:
    for node in marked.graph.nodes:
        if node.target is MARK and isinstance(node.args[0], fx.Node):
            yield node.args[0]


def _records(
    marked: fx.GraphModule, call: fx.Node, axes: dict[str, int]
) -> Iterator[tuple[str, dict[str, float | None]]]:
    """The shares of each stored tensor that a call multiplies by a quantised input."""
    read = [n.all_input_nodes[0] if is_zero_pad(n) else n for n in call.all_input_nodes]
    inputs = next((n for n in read if n.target is FAKE_QUANTIZE), None)
    stored = [n for n in read if n.target is DEQUANTIZE and is_stored_weight(n)]
    weight = next((n for n in stored if n.args[3] != BIAS_BITS), None)
    if inputs is None or weight is None or str(weight.args[5]) not in axes:
        return
    grid = _grid(inputs)
    span = InputSpan(grid.qmin, grid.qmax, int(_tensor(marked, inputs.args[2]).reshape(-1)[0]))
    bias = next((_tensor(marked, n.args[0]) for n in stored if n.args[3] == BIAS_BITS), None)
    name, points = str(weight.args[5]), int(weight.args[6])  # type: ignore[arg-type]
    q, scale, zero = (_tensor(marked, part) for part in weight.args[:3])
    whole = QParams(_grid(weight), scale, zero)
    for part, own in split(q, whole, points) if points > 1 else [(q, whole)]:
        yield name, _shares(part, own, axes[name], (grid, span), bias)


def _shares(
    q: Tensor, weight: QParams, axis: int, inputs: tuple[Grid, InputSpan], bias: Tensor | None
) -> dict[str, float | None]:
    rows = channel_rows(q, axis)
    zero = weight.zero_point
    if zero.numel() > 1:
        zero = channel_rows(zero.expand_as(q), axis)
    sums = sum_peaks(rows, inputs[1], zero)
    whole = float(sums.max())
    if bias is not None:
        spread = bias.reshape(-1, sums.numel()) if bias.numel() % sums.numel() == 0 else None
        most = bias.abs().max() if spread is None else spread.abs().amax(0)
        whole = float((sums + most.double()).max())
    pairs = any_pair = None
    if weight.grid.signed and weight.grid.bits <= _BYTE and q.dim() > 1:
        limit = pair_limit(inputs[0])
        pairs = float(pair_peaks(rows, neighbours_of(q, axis)).max()) / limit
        any_pair = float(any_pair_peaks(rows).max()) / limit
    return {
        "int32": whole / INT_MOST,
        "float32": float(sums.max()) / FLOAT_MOST,
        "pairs": pairs,
        "any_pair": any_pair,
    }


def _grid(node: fx.Node) -> Grid:
    bits, signed = node.args[3:5]
    return Grid(int(bits), bool(signed))  # type: ignore[arg-type]


def _tensor(marked: fx.GraphModule, node: object) -> Tensor:
    assert isinstance(node, fx.Node)
    return torch.as_tensor(get_tensor(marked, str(node.target)))
