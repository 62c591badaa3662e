"""Which change of the images brings the first batch-norm what it was trained on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.diagnosis.symptoms import NORMALISED, REVERSED
from bitwright.graph.execute import Flat, NodeValues, compute, interpret
from bitwright.graph.model_graph import FoldedBatchNorm, ModelGraph
from bitwright.graph.observe import norm_mismatch
from bitwright.numerics.stats import ChannelStats

_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
_Change = Callable[[Tensor], Tensor]
AS_IS = ""
_PARTS = 4
OF_ANY: Mapping[str, _Change] = {
    "values of 0..1 in place of 0..255": lambda x: x / 255,
    "values of 0..255 in place of 0..1": lambda x: x * 255,
    "values of -1..1 in place of 0..1": lambda x: 2 * x - 1,
    "values of 0..1 in place of -1..1": lambda x: (x + 1) / 2,
}
OF_COLOUR: Mapping[str, _Change] = {
    REVERSED: lambda x: x.flip(1),
    NORMALISED: lambda x: (x - _MEAN) / _STD,
    "ImageNet's mean and standard deviation not taken out": lambda x: x * _STD + _MEAN,
    "values of 0..1 and " + NORMALISED: lambda x: (x / 255 - _MEAN) / _STD,
}


@dataclass(frozen=True)
class Repairs:
    """See `Symptoms`, where these stand under the same names; `mismatch` is as the images are."""

    mismatch: float | None = None
    repaired: Mapping[str, float] = field(default_factory=dict)
    shift: float = 0.0
    shift_reversed: float = 0.0


def try_repairs(graph: ModelGraph, batches: Sequence[Flat]) -> Repairs:
    """How far the first batch-norm's data are off under each change of the network's images.

    Only the part of the network in front of that batch-norm is run. The order of the channels is
    told by means alone: most filters look at brightness, which no order changes, and the medians of
    `norm_mismatch` are theirs.
    """
    first = next((unit for unit in graph.units if unit.name in graph.folded), None)
    images = [flat[0] for flat in batches if isinstance(flat[0], Tensor) and flat[0].dim() == 4]
    if first is None or not images or not images[0].dtype.is_floating_point:
        return Repairs()
    norm, colour = graph.folded[first.name], images[0].shape[1] == 3
    changes: dict[str, _Change] = {AS_IS: lambda x: x, **OF_ANY, **(OF_COLOUR if colour else {})}
    seen = {}
    for name, change in changes.items():
        parts = [
            ChannelStats.of(
                _run_to(graph.module, (change(flat[0]), *flat[1:]), first.calls[0]), axis=1
            )
            for flat in batches
        ]
        seen[name] = parts
    shift = _shift(norm, seen[AS_IS])
    return Repairs(
        _usual_mismatch(norm, seen[AS_IS]),
        {name: _usual_mismatch(norm, parts) for name, parts in seen.items() if name != AS_IS},
        shift,
        _shift(norm, seen[REVERSED]) if colour else shift,
    )


def _usual_mismatch(norm: FoldedBatchNorm, parts: Sequence[ChannelStats]) -> float:
    """The median over four parts of the samples, so that a sample far out is not all there is."""
    count = _PARTS if len(parts) >= 2 * _PARTS else 1
    groups = [reduce(ChannelStats.merge, parts[start::count]) for start in range(count)]
    return statistics.median(norm_mismatch(norm, stats) for stats in groups)


def _shift(norm: FoldedBatchNorm, parts: Sequence[ChannelStats]) -> float:
    """Mean over live channels of |mean - beta| / |gamma|."""
    stats = reduce(ChannelStats.merge, parts)
    gamma = norm.gamma.abs().double()
    live = gamma > 0.05 * gamma.median()
    off = (stats.mean - norm.beta.double()).abs() / gamma
    return float(off[live].mean()) if bool(live.any()) else 0.0


def _run_to(module: fx.GraphModule, flat: Flat, name: str) -> Tensor:
    """The value of one node; nothing behind it is computed."""
    given = iter(flat)

    def evaluate(node: fx.Node, values: NodeValues) -> Any:
        return compute(module, node, values, given)

    with torch.no_grad():
        nodes = interpret(module.graph.nodes, {}, evaluate)
        found: Tensor = next(value for node, value in nodes if node.name == name)
    return found
