"""How fast this machine does the parts of a run, found by doing a little of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.engine.task import one_thread
from bitwright.graph.choice import Choice
from bitwright.graph.execute import Flat, run
from bitwright.graph.kept import name_inputs
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.observe import observe
from bitwright.graph.replay import replay
from bitwright.graph.rows import solvable
from bitwright.graph.sites import Site
from bitwright.graph.units import input_of
from bitwright.methods.problem import UnitProblem
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.gram import Gram
from bitwright.numerics.grid import Grid
from bitwright.solving.collect import CollectedPart, collect_batch, plan_of
from bitwright.solving.work import inputs_key

# A probe takes about so long: as many samples as that allows, up to a batch.
PROBE_S = 0.4
# Few and many rows of a probe tell what a unit's sums cost by the sample and by the row.
FEW_ROWS, MANY_ROWS = 16, 512
# The unit that tells how fast units are solved, and what it took where the model was fitted.
REFERENCE, REFERENCE_S = (32, 288), 0.045


@dataclass(frozen=True, eq=False)
class Pace:
    """Processor seconds of one thread of this machine.

    Attributes:
        samples: how many each probe had.
        forward: the float network, for one sample.
        observe: the pass that takes statistics, for one sample.
        nodes: the float network by node, for one sample.
        quantisers: what the quantised network does beside it, by node that reads quantised values.
        sums: of every unit, for one sample and for one row.
        solver: how long units take to be solved here, relative to where `REFERENCE_S` was taken.
        load: wall seconds of one second of the processor: more than 1 where others work too.
    """

    samples: int
    forward: float
    observe: float
    nodes: Mapping[str, float]
    quantisers: Mapping[str, float]
    sums: Mapping[str, tuple[float, float]]
    solver: float
    load: float

    @property
    def quantised(self) -> float:
        """The quantised network, for one sample."""
        return self.forward + sum(self.quantisers.values())


def measure_pace(graph: ModelGraph, sites: tuple[Site, ...], flat: Flat, most: int) -> Pace:
    """Do a little of everything with a few samples; some seconds at most where networks are large.

    Args:
        graph: the captured network.
        sites: the edges that would be quantised.
        flat: a batch of inputs.
        most: samples of a forward pass.
    """
    started = time.perf_counter(), time.process_time()
    with one_thread(), torch.no_grad():
        few, count = _fitting(graph, flat, most)
        nodes: dict[str, float] = {}
        forward = _seconds(lambda: run(graph, few)) / count
        _time_nodes(graph, few, nodes)
        watched = {site.root for site in sites}
        inputs = tuple(t for t in few if isinstance(t, Tensor))
        seen = _seconds(lambda: observe(graph, [inputs], watched)) / count
        scale = forward / max(sum(nodes.values()) / count, 1e-9)
        return Pace(
            samples=count,
            forward=forward,
            observe=max(seen, forward),
            nodes={name: scale * spent / count for name, spent in nodes.items()},
            quantisers=_time_quantisers(graph, sites, few, count),
            sums=_time_sums(graph, few, count),
            solver=_time_solver() / REFERENCE_S,
            load=_load(started),
        )


def _load(started: tuple[float, float]) -> float:
    wall, busy = time.perf_counter() - started[0], time.process_time() - started[1]
    return max(1.0, wall / max(busy, 1e-6))


def _seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of the quicker of two turns: the first may compile or fill caches."""
    turns = []
    for _ in range(2):
        started = time.process_time()
        work()
        turns.append(time.process_time() - started)
    return min(turns)


def _fitting(graph: ModelGraph, flat: Flat, most: int) -> tuple[Flat, int]:
    """As many of a batch's samples as a probe has time for, and how many that are."""
    whole = next(int(t.shape[0]) for t in flat if isinstance(t, Tensor) and t.dim())
    if any(not spec.shape or spec.shape[0] is not None for spec in graph.inputs):
        return flat, whole
    one = _first(flat, 1)
    run(graph, one)
    single = _seconds(lambda: run(graph, one))
    count = max(1, min(whole, most, int(PROBE_S / max(single, 1e-6))))
    return _first(flat, count), count


def _first(flat: Flat, count: int) -> Flat:
    return tuple(t[:count] if isinstance(t, Tensor) and t.dim() else t for t in flat)


def _time_nodes(graph: ModelGraph, flat: Flat, spent: dict[str, float]) -> None:
    last = time.process_time()

    def visit(node: fx.Node, value: Any) -> None:
        nonlocal last
        del value
        now = time.process_time()
        spent[node.name] = now - last
        last = now

    run(graph, flat, visit)


def _time_quantisers(
    graph: ModelGraph, sites: tuple[Site, ...], flat: Flat, count: int
) -> dict[str, float]:
    """By reader, what quantising the values that it reads takes for one sample."""
    sizes: dict[str, int] = {}

    def visit(node: fx.Node, value: Any) -> None:
        sizes[node.name] = value.numel() if isinstance(value, Tensor) else 0

    run(graph, flat, visit)
    grid = QParams(Grid(8, False), torch.tensor(0.01), torch.tensor(0, dtype=torch.int32))
    typical = max(1, min(1 << 22, max(sizes.values(), default=1)))
    values = torch.rand(typical)
    one = _seconds(lambda: fake_quantize(values, grid)) / typical
    found: dict[str, float] = {}
    for site in sites:
        found[site.reader] = found.get(site.reader, 0.0) + one * sizes.get(site.source, 0) / count
    return found


def _time_sums(graph: ModelGraph, flat: Flat, count: int) -> dict[str, tuple[float, float]]:
    """What the sums of every unit take, for a sample and for a row of its input."""
    nodes = graph.nodes()
    by_source: dict[str, list[tuple[Unit, int]]] = {}
    for unit in filter(solvable, graph.units):
        for call, name in enumerate(unit.products):
            by_source.setdefault(input_of(nodes[name]).name, []).append((unit, call))
    found: dict[str, tuple[float, float]] = {}

    def visit(source: str, x: Tensor) -> None:
        for unit, call in by_source[source]:
            sample, row = _sums_of(graph, unit, call, x, count)
            known = found.get(unit.name, (0.0, 0.0))
            found[unit.name] = (known[0] + sample, max(known[1], row))

    replay(graph, name_inputs(graph, flat), by_source, visit=visit)
    return found


def _sums_of(
    graph: ModelGraph, unit: Unit, call: int, x: Tensor, count: int
) -> tuple[float, float]:
    """By two numbers of rows; both inputs, the float and the quantised one, are looked at."""
    free: tuple[QParams | None, ...] = (None,) * len(unit.calls)
    plan = plan_of(graph, unit, {inputs_key(free): free}, 1, 0, 0)
    rows = max(1, unit.positions) * count
    spent = []
    for limit in (min(FEW_ROWS, rows), min(MANY_ROWS, rows)):
        one = replace(plan, limit=limit)
        started = time.process_time()
        collect_batch(one, CollectedPart({}), 0, call, x, x[:])
        spent.append(time.process_time() - started)
    gap = min(MANY_ROWS, rows) - min(FEW_ROWS, rows)
    row = max(0.0, spent[1] - spent[0]) / gap if gap else spent[1] / rows
    return max(0.0, spent[0] - row * min(FEW_ROWS, rows)) / count, row


def _time_solver() -> float:
    """Solve one made-up unit, the same everywhere."""
    problem = _reference()
    return _seconds(lambda: QuadraticSolver().solve(problem))


def _reference() -> UnitProblem:
    channels, inputs = REFERENCE
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    unit = Unit(
        "reference", "linear", ("reference",), ("reference",), "weight", "bias", 0, 1, None,
        (channels, inputs), channels * inputs, 1,
    )  # fmt: skip
    weight, mixing = draw(channels, inputs), draw(inputs, inputs) / inputs**0.5

    def sums(rows: int) -> Gram:
        x = (draw(rows, inputs) @ mixing).clamp_min(0)
        return Gram.of(x[None], (x @ weight.t())[None])

    return UnitProblem(
        name=unit.name, kind=unit.kind, weight=weight, bias=torch.zeros(channels),
        channel_axis=0, groups=1, choice=Choice(8, 8), grid=Grid(8, True), symmetric=True,
        per_channel=True, inputs=(None,), seed=0, unit=unit, gram=sums(1024),
        held_out=sums(256), sample_count=1024,
    )  # fmt: skip
