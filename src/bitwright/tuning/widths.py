"""The step that suits each channel of what is quantised, and the factors that even them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from bitwright.graph.choice import Choice
from bitwright.graph.execute import Open, run
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.ties import find_shared_grids
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.exact import exact_range, round_alike
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import RangeRule
from bitwright.prepare.channel_sets import FIXED, ChannelStreams
from bitwright.prepare.streams import Streams
from bitwright.solving.grids import CHAIN_BITS

# Of a range, the parts at which it may end.
SHRINK = tuple(1.0 - 0.06 * i for i in range(14))
# Values of each place that its steps are found from, and of one channel there.
VALUES = 1 << 19
VALUES_OF_CHANNEL = 4096
VALUES_OF_BATCH = 256
# Of a whole that is one channel, all at once.
VALUES_OF_WHOLE = 1 << 14
# How far a factor may be from the others of its value, as a logarithm: beyond, a channel is noise.
FURTHEST = math.log(64.0)


@dataclass(frozen=True, eq=False)
class Aim:
    """The quantised network that the factors are for.

    Attributes:
        choices: the bits of every unit.
        target, rule: whose grids, and how their ranges are chosen.
        solved: whether rounding is solved on data afterwards.
    """

    choices: Mapping[str, Choice]
    target: Target
    rule: RangeRule
    solved: bool


@dataclass(frozen=True, eq=False)
class QuantisedInput:
    """One value that is quantised: its readers, its grid, and its channels.

    Attributes:
        source, readers: nodes of the graph.
        root: the node whose range it has, and the bits.
        key: the same, or of the first of those that share one grid with it.
        grid, symmetric, clamped: what its values are rounded to; see `exact_range`.
        dynamic: whether its scale is found as the network runs.
        channels: the streams of its channels, None where all of it must stay as it is.
        widths: the step that suits each channel alone.
        values: some of them, [channels, values].
        zero: the zero point that suits the whole.
    """

    source: str
    readers: tuple[str, ...]
    root: tuple[str, int]
    key: tuple[str, int]
    grid: Grid
    symmetric: bool
    clamped: bool
    dynamic: bool
    channels: ChannelStreams | None
    widths: Tensor | None
    values: Tensor
    zero: int


def measure_inputs(
    graph: ModelGraph, streams: Streams, sites: Sequence[Site], batches: Open, aim: Aim
) -> tuple[QuantisedInput, ...]:
    """What is quantised, with the best step of the whole and of each channel alone."""
    wanted: dict[tuple[str, int], list[Site]] = {}
    for site in sites:
        bits = aim.choices[site.unit].a_bits if site.unit is not None else CHAIN_BITS
        if bits:
            wanted.setdefault((site.source, bits), []).append(site)
    first = {n: same[0] for same in find_shared_grids(graph, aim.target) for n in same}
    rows = _gather_values(graph, streams, batches, {source for source, _ in wanted})
    return tuple(
        _measure_input(streams, own, aim, (first.get(own[0].root, own[0].root), bits), rows[source])
        for (source, bits), own in wanted.items()
        if source in rows
    )


def _measure_input(
    streams: Streams, sites: list[Site], aim: Aim, key: tuple[str, int], values: Tensor
) -> QuantisedInput:
    site, target, bits = sites[0], aim.target, key[1]
    grid, symmetric = target.input_grid(bits), target.input_symmetric
    whole = QParams(grid, *best_step(values.reshape(1, -1), grid, symmetric, site.clamped))
    zero = (round_alike(whole) if target.adds else whole).zero_point
    channels = streams.of(site.source)
    widths = None if channels is None else best_step(values, grid, symmetric, False)[0]
    return QuantisedInput(
        source=site.source,
        readers=tuple(other.reader for other in sites),
        root=(site.root, bits),
        key=key,
        grid=grid,
        symmetric=symmetric,
        clamped=site.clamped,
        dynamic=target.dynamic,
        channels=channels,
        widths=widths,
        values=values,
        zero=int(zero),
    )


def _gather_values(
    graph: ModelGraph, streams: Streams, batches: Open, sources: set[str]
) -> dict[str, Tensor]:
    """Some values of each source, [channels, values] or [1, values], evenly from all batches."""
    seen: dict[str, list[Tensor]] = {}

    def visit(node: fx.Node, value: object) -> None:
        if node.name in sources and isinstance(value, Tensor) and value.is_floating_point():
            channels = streams.of(node.name)
            rows = value.reshape(1, -1)
            if channels is not None:
                rows = value.movedim(channels.axis, 0).reshape(len(channels.streams), -1)
            seen.setdefault(node.name, []).append(
                _thin(rows, VALUES_OF_BATCH if channels is not None else VALUES_OF_WHOLE).float()
            )

    for flat in batches():
        run(graph, flat, visit)
    joined = ((name, torch.cat(parts, 1)) for name, parts in seen.items())
    return {
        name: _thin(rows, min(VALUES_OF_CHANNEL, VALUES // len(rows)) if len(rows) > 1 else VALUES)
        for name, rows in joined
    }


def _thin(rows: Tensor, limit: int) -> Tensor:
    count = min(limit, rows.shape[1])
    return rows[:, torch.arange(count) * rows.shape[1] // max(count, 1)]


def best_step(values: Tensor, grid: Grid, symmetric: bool, clamped: bool) -> tuple[Tensor, Tensor]:
    """The scale and the zero point of each line with the least squared error."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    best: Tensor | None = None
    scale = zero = torch.zeros(())
    for factor in SHRINK:
        tried = exact_range(low * factor, high * factor, grid, symmetric, clamped)
        error = (fake_quantize(values, tried) - values).double().square().sum(1, keepdim=True)
        if best is None:
            best, scale, zero = error, tried.scale, tried.zero_point
            continue
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, tried.scale, scale)
        zero = torch.where(better, tried.zero_point, zero)
    return scale.reshape(-1), zero.reshape(-1)


def log_factors(streams: Streams, inputs: Sequence[QuantisedInput], power: float) -> Tensor:
    """-p times the mean of log s_c about each value's own mean, over the places of a stream."""
    total = torch.zeros(streams.count).double()
    places = torch.zeros(streams.count).double()
    for given in inputs:
        if given.channels is None or given.widths is None:
            continue
        index = torch.from_numpy(given.channels.streams)
        logs = given.widths.double().clamp_min(1e-30).log()
        alive = given.widths > given.widths.amax() * math.exp(-FURTHEST)
        about = logs - logs[alive].mean()
        total.index_add_(0, index[alive], about[alive])
        places.index_add_(0, index[alive], torch.ones_like(about[alive]))
    logs = -power * total / places.clamp_min(1.0)
    logs[FIXED] = 0.0
    return logs.clamp(-FURTHEST, FURTHEST)
