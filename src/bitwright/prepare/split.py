"""Outlier channel splitting: inputs with the largest weights are there twice, weights halved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from bitwright.engine.note import Note
from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph, Unit, set_tensor, shallow_copy
from bitwright.graph.operators import WEIGHTED, arguments
from bitwright.graph.target import Target
from bitwright.graph.units import input_of
from bitwright.numerics.ranges import MinMaxRange, weight_qparams
from bitwright.prepare.joints import is_alone
from bitwright.prepare.rescale import put, rebuilt, tensor64

aten = torch.ops.aten

_KINDS = ("conv1d", "conv2d", "conv3d", "linear")


@dataclass(frozen=True)
class SplitOutliers:
    """w x = w' x + w'' x, w' = (w - s / 2) / 2, w'' = (w + s / 2) / 2: half the range, same sum.

    The network's answers stay what they are. Input channels are split one after the other, a share
    of them, rounded up; a half may be split again. s is the step that the weights get if their
    whole range is covered; then round(w' / s) + round(w'' / s) = round(w / s), so that splitting
    adds no noise, while the smaller range makes s smaller. Which channel: that of the greatest
    weight, as in the paper, where the weight has one scale; where each output channel has its own,
    the one that sets the greatest part of the sum of their squared ranges. The input is copied by a
    Gather.
    Depthwise and grouped layers are left alone.
    Zhao et al., arXiv 1901.09504, sections 3.2 and 3.3; weights only.

    Attributes:
        share: of the input channels of a layer.
        choices: the bits of each unit; units that stay in float are left alone.
        target: whose grids weights go on; None for the naive halves, w / 2 twice.
    """

    share: float = 0.05
    choices: Mapping[str, Choice] = field(default_factory=dict, hash=False)
    target: Target | None = None
    name: str = "ocs"

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise RecipeError(
                f"share={self.share} in {self.name}: a part of the channels is split, so give a "
                "number above 0 and up to 1."
            )

    def apply(self, graph: ModelGraph) -> ModelGraph:
        """The graph with wider weights, each behind a copy of its input's split channels."""
        module = shallow_copy(graph.module)
        nodes = {node.name: node for node in module.graph.nodes}
        units: dict[str, Unit] = {}
        notes = []
        for unit in graph.units:
            choice = self.choices.get(unit.name, Choice(8, 8))
            if unit.kind not in _KINDS or unit.groups > 1 or choice.is_float:
                continue
            if not is_alone(graph, unit):
                continue
            weight = tensor64(module, unit.weight)
            wide, index = self._split(weight, choice)
            units[unit.name] = _widen(module, nodes[unit.calls[0]], unit, wide, index)
            text = f"{self.name}: {wide.shape[1]} inputs instead of {weight.shape[1]}"
            notes.append(Note(unit.name, text))
        made = rebuilt(graph, module, units, {})
        return replace(made, notes=(*graph.notes, *notes))

    def _split(self, weight: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        """The weight with split inputs, and of which input each column is."""
        per_channel = self.target is None or self.target.weight_per_channel
        columns, parents = list(weight.unbind(1)), list(range(weight.shape[1]))
        order = split_order(weight, math.ceil(self.share * weight.shape[1]), per_channel)
        for place in order:
            columns.append(columns[place] / 2)
            columns[place] = columns[place] / 2
            parents.append(parents[place])
        if self.target is not None:
            step = _step(torch.stack(columns, 1), choice, self.target)
            columns = list(weight.unbind(1))
            for place in order:
                columns.append((columns[place] + step / 2) / 2)
                columns[place] = (columns[place] - step / 2) / 2
        return torch.stack(columns, 1), torch.tensor(parents)


def split_order(weight: Tensor, count: int, per_channel: bool) -> list[int]:
    """Which input channels [O, C, ...] to halve, one after the other; halves join at the end.

    Each time it is the one that sets the greatest part of the rows' squared ranges. Only rows
    whose range the halved channel had set are looked at again: a split costs what those rows
    hold, not the whole weight.
    """
    peaks = weight.abs().reshape(*weight.shape[:2], -1).amax(2)
    if not per_channel:
        peaks = peaks.amax(0, keepdim=True)
    rows, inputs = peaks.shape
    peaks = torch.cat([peaks, peaks.new_zeros(rows, count)], 1)
    # Halves of one split are equal: each in its turn sets the range.
    reach, setter = peaks[:, :inputs].max(dim=1)
    order = []
    for width in range(inputs + 1, inputs + count + 1):
        parts = peaks.new_zeros(width).index_add_(0, setter, reach.square())
        place = int(parts.argmax())
        order.append(place)
        peaks[:, place] /= 2
        peaks[:, width - 1] = peaks[:, place]
        again = (setter == place).nonzero().squeeze(1)
        reach[again], setter[again] = peaks[again, :width].max(dim=1)
    return order


def _step(weight: Tensor, choice: Choice, target: Target) -> Tensor:
    """The step of the grid that covers all of a weight, for each output channel [O, 1 ...]."""
    axis = 0 if target.weight_per_channel else None
    grid = target.weight_grid(choice.w_bits)
    qparams = weight_qparams(weight.float(), grid, axis, MinMaxRange(), target.weight_symmetric)
    return qparams.scale.double().reshape(-1, *[1] * (weight.dim() - 2))


def _widen(
    module: fx.GraphModule, call: fx.Node, unit: Unit, weight: Tensor, index: Tensor
) -> Unit:
    """Put the weight in place, and a Gather of the input's channels before it."""
    owner, _, leaf = unit.weight.rpartition(".")
    # A module may hold the weights of several layers.
    stem = "split" if leaf == "weight" else f"{leaf}_split"
    target = f"{owner}.{stem}" if owner else stem
    set_tensor(module, target, index)
    source = input_of(call)
    rank = len(unit.shape)
    axis = -1 if unit.kind == "linear" else 1
    known = source.meta.get("val")
    if isinstance(known, Tensor):
        axis = known.dim() - 1 if unit.kind == "linear" else known.dim() - rank + 1
    with module.graph.inserting_before(call):
        stored = module.graph.get_attr(target)
        copied = module.graph.call_function(aten.index_select.default, (source, axis, stored))
    if isinstance(known, Tensor):
        shape = list(known.shape)
        shape[axis] = len(index)
        copied.meta["val"] = known.new_empty(shape)
    args = list(call.args)
    args[arguments(WEIGHTED[call.target])[0]] = copied
    call.args = tuple(args)
    put(module, unit.weight, weight)
    grown = len(index) / unit.shape[1]
    return replace(unit, shape=tuple(weight.shape), macs=int(unit.macs * grown))
