"""Float and quantised side by side on a few samples: what passes each grid, unit and join."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.diagnosis.signatures import MASK_VALUE
from bitwright.diagnosis.symptoms import EdgeSymptoms, JoinSymptoms, NormSymptoms, UnitSymptoms
from bitwright.graph.custom_ops import FAKE_QUANTIZE
from bitwright.graph.execute import Flat, walk
from bitwright.graph.model_graph import ModelGraph, Unit, get_tensor
from bitwright.graph.observe import norm_mismatch
from bitwright.graph.operators import CHAIN
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.grid import Grid
from bitwright.numerics.stats import ChannelStats

_JOINS = ("add", "concat")


@dataclass(frozen=True, eq=False)
class EdgePlace:
    """One quantiser of the simulation: what it reads, and who reads it."""

    name: str
    source: str
    place: str
    readers: tuple[str, ...]
    unit: str | None
    qparams: QParams


def list_edges(graph: ModelGraph, stitched: fx.GraphModule) -> tuple[EdgePlace, ...]:
    """The quantisers of a simulation, in order of execution; those of the moment have no range."""
    calls = {call: unit.name for unit in graph.units for call in unit.calls}
    found = []
    for node in stitched.graph.nodes:
        if node.target is not FAKE_QUANTIZE or len(node.args) > 6:
            continue
        source, scale, zero, bits, signed = node.args[:5]
        readers = tuple(user.name for user in node.users)
        unit = next((calls[name] for name in readers if name in calls), None)
        qparams = QParams(
            Grid(bits, signed),
            get_tensor(stitched, str(scale.target)),
            get_tensor(stitched, str(zero.target)),
        )
        place = f"the input of {unit}" if unit else f"{source.name}, read by {', '.join(readers)}"
        found.append(EdgePlace(node.name, source.name, place, readers, unit, qparams))
    return tuple(found)


@dataclass
class EdgeTally:
    """What has passed one grid so far."""

    place: EdgePlace
    channels: ChannelStats | None = None
    magnitudes: list[Tensor] = field(default_factory=list)
    least: float = 0.0
    most: float = 0.0
    count: int = 0
    masked: int = 0
    rest: float = 0.0
    clipped: int = 0
    cut_channels: Tensor | None = None
    error: float = 0.0
    clip_error: float = 0.0

    def add(self, value: Tensor) -> None:
        """One batch of float values."""
        x = value.detach().float()
        axis = 1 if x.dim() == 4 else -1
        here = ChannelStats.of(x, axis)
        self.channels = here if self.channels is None else self.channels.merge(here)
        by_channel = x.movedim(axis, 1).flatten(2) if x.dim() > 2 else x[:, :, None]
        self.magnitudes.append(by_channel.abs().amax(2))
        self.least, self.most = min(self.least, float(x.min())), max(self.most, float(x.max()))
        far = x <= MASK_VALUE
        self.count, self.masked = self.count + x.numel(), self.masked + int(far.sum())
        self.rest = max(self.rest, float(x.masked_fill(far, 0.0).abs().max()))
        self._compare(x, by_channel)

    def _compare(self, x: Tensor, by_channel: Tensor) -> None:
        lo, hi = ends(self.place.qparams)
        # A value within the last half step is rounded, not cut off.
        half = float(self.place.qparams.scale) / 2
        outside = (by_channel < lo - half) | (by_channel > hi + half)
        self.clipped += int(outside.sum())
        cut = outside.flatten(2).any(2).any(0)
        self.cut_channels = cut if self.cut_channels is None else self.cut_channels | cut
        self.error += float((fake_quantize(x, self.place.qparams) - x).double().square().sum())
        self.clip_error += float((x.clamp(lo, hi) - x).double().square().sum())

    def symptoms(self) -> EdgeSymptoms:
        """The same as plain numbers."""
        assert self.channels is not None and self.cut_channels is not None
        magnitudes = torch.cat(self.magnitudes)
        lo, hi = ends(self.place.qparams)
        return EdgeSymptoms(
            name=self.place.name,
            source=self.place.source,
            place=self.place.place,
            unit=self.place.unit,
            lo=lo,
            hi=hi,
            least=self.least,
            most=self.most,
            channels=tuple(magnitudes.median(0).values.tolist()),
            spreads=tuple(self.channels.var.clamp_min(0).sqrt().tolist()),
            samples=tuple(magnitudes.amax(1).tolist()),
            masked=self.masked / max(self.count, 1),
            rest=self.rest,
            clipped=self.clipped / max(self.count, 1),
            clipped_channels=float(self.cut_channels.double().mean()),
            clip_share=self.clip_error / self.error if self.error else 0.0,
        )


@dataclass
class UnitTally:
    """A unit's result in both networks so far."""

    unit: Unit
    signal: float = 0.0
    error: float = 0.0
    float_ends: tuple[Tensor, Tensor] | None = None
    quantized_ends: tuple[Tensor, Tensor] | None = None

    def add(self, before: Tensor, after: Tensor) -> None:
        """One batch of both."""
        self.signal += float(before.double().square().sum())
        self.error += float((after - before).double().square().sum())
        self.float_ends = _widen(self.float_ends, before)
        self.quantized_ends = _widen(self.quantized_ends, after)

    def symptoms(self) -> UnitSymptoms:
        """The same as plain numbers."""
        unit, silenced, channels = self.unit, 0, 1
        if self.float_ends is not None and self.quantized_ends is not None:
            lives = self.float_ends[1] > self.float_ends[0]
            lived = self.quantized_ends[1] > self.quantized_ends[0]
            silenced, channels = int((lives & ~lived).sum()), lives.numel()
        depthwise = unit.kind.startswith("conv") and 1 < unit.groups == unit.shape[0]
        noise = self.error / self.signal if self.signal else 0.0
        return UnitSymptoms(unit.name, unit.kind, depthwise, noise, silenced, channels)


@dataclass(frozen=True, eq=False)
class BothSeen:
    """What both networks did on all samples."""

    edges: tuple[EdgeSymptoms, ...]
    units: tuple[UnitSymptoms, ...]
    joins: tuple[JoinSymptoms, ...]
    norms: tuple[NormSymptoms, ...]


class SideBySide:
    """Both networks, run on batch after batch; memory is that of one batch."""

    def __init__(self, graph: ModelGraph, stitched: fx.GraphModule) -> None:
        self.graph, self.stitched = graph, stitched
        places = list_edges(graph, stitched)
        self.edges = [EdgeTally(place) for place in places]
        self.units = {unit.outputs[0]: UnitTally(unit) for unit in graph.units}
        self.norms = {unit.calls[0]: unit.name for unit in graph.units if unit.name in graph.folded}
        self.channels: dict[str, ChannelStats] = {}
        self.joins = find_joins(graph, places)
        self.inputs = {name for join in self.joins for name in join.inputs}
        self.moments: dict[str, Tensor] = {}

    def add(self, flat: Flat) -> None:
        """One batch through both."""
        kept: dict[str, Tensor] = {}

        def look(node: fx.Node, value: Any) -> None:
            if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
                return
            for edge in self.edges:
                if edge.place.source == node.name and value.dim() > 1 and value.numel():
                    edge.add(value)
            if node.name in self.norms:
                here = ChannelStats.of(value, axis=1)
                old = self.channels.get(node.name)
                self.channels[node.name] = here if old is None else old.merge(here)
            if node.name in self.inputs:
                x = value.double()
                here_sums = torch.stack([torch.ones_like(x).sum(), x.sum(), x.square().sum()])
                self.moments[node.name] = self.moments.get(node.name, 0) + here_sums
            if node.name in self.units:
                kept[node.name] = value

        def compare(node: fx.Node, value: Any) -> None:
            if node.name in kept:
                self.units[node.name].add(kept.pop(node.name), value)

        walk(self.graph.module, flat, look)
        walk(self.stitched, flat, compare)

    def seen(self) -> BothSeen:
        """All of it as plain numbers."""
        return BothSeen(
            tuple(edge.symptoms() for edge in self.edges if edge.channels is not None),
            tuple(unit.symptoms() for unit in self.units.values()),
            tuple(
                JoinSymptoms(
                    join.name,
                    join.kind,
                    join.inputs,
                    self._spreads(join.inputs),
                    join.edges,
                    join.units,
                )
                for join in self.joins
            ),
            tuple(self._norm(call, name) for call, name in self.norms.items()),
        )

    def _spreads(self, names: Iterable[str]) -> tuple[float, ...]:
        found = []
        for name in names:
            count, total, squares = self.moments[name].tolist()
            found.append(max(squares / count - (total / count) ** 2, 0.0) ** 0.5)
        return tuple(found)

    def _norm(self, call: str, name: str) -> NormSymptoms:
        norm = self.graph.folded[name]
        untouched = bool((norm.mean == 0).all()) and bool((norm.var == 1).all())
        return NormSymptoms(norm.name, norm_mismatch(norm, self.channels[call]), untouched)


@dataclass(frozen=True)
class Join:
    """An add or concat of the graph that has grids beside it."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    edges: tuple[str, ...]
    units: tuple[str, ...]


def find_joins(graph: ModelGraph, places: Iterable[EdgePlace]) -> tuple[Join, ...]:
    """Adds and concats of two or more float values, with the grids in front of and behind them."""
    places, found = tuple(places), []
    for node in graph.module.graph.nodes:
        inputs = tuple(i.name for i in node.all_input_nodes if _is_float(i))
        if CHAIN.get(node.target) in _JOINS and len(inputs) > 1:
            after = {node.name, *(user.name for user in node.users)}
            before = [p for p in places if node.name in p.readers]
            behind = [p for p in places if p.source in after]
            edges = tuple(p.name for p in (*before, *behind))
            units = tuple(p.unit for p in behind if p.unit is not None)
            if before:
                found.append(Join(node.name, str(CHAIN[node.target]), inputs, edges, units))
    return tuple(found)


def ends(qparams: QParams) -> tuple[float, float]:
    """The range that a grid covers."""
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    return (qparams.grid.qmin - zero) * scale, (qparams.grid.qmax - zero) * scale


def _widen(old: tuple[Tensor, Tensor] | None, value: Tensor) -> tuple[Tensor, Tensor]:
    axis = 1 if value.dim() == 4 else value.dim() - 1
    others = [i for i in range(value.dim()) if i != axis]
    lo, hi = (value.amin(others), value.amax(others)) if others else (value, value)
    return (lo, hi) if old is None else (torch.minimum(old[0], lo), torch.maximum(old[1], hi))


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op != "get_attr" and isinstance(value, Tensor) and value.dtype.is_floating_point
