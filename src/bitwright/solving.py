"""Solving the units of a network on calibration data: in parallel, or one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph, Unit
from bitwright.graph.operators import WEIGHTED
from bitwright.graph.replay import Overrides, live_after, replay
from bitwright.graph.rows import Geometry, geometry, input_rows, solvable, weight_rows
from bitwright.graph.simulate import sites_by_unit
from bitwright.graph.sites import Site
from bitwright.graph.target import Target
from bitwright.graph.units import input_of
from bitwright.methods.problem import Method, UnitSolution
from bitwright.numerics.affine import QParams, dequantize, fake_quantize
from bitwright.numerics.exact import exact_range
from bitwright.numerics.gram import Gram
from bitwright.numerics.stats import TensorStats
from bitwright.stages import deployed_bias, problem

Edges = dict[tuple[str, str], QParams]
Open = Callable[[], Iterator[Any]]
Tick = Callable[[int], None]

ROWS = 1 << 16
ROWS_PER_INPUT = 48
RANGE_ROWS = 2048
HELD_OUT = 8
CUT_BYTES = 640 << 20
GRAM_BYTES = 512 << 20
WIDE_SAMPLES = 256
SHRINK = tuple(1.0 - 0.05 * i for i in range(15))


@dataclass(frozen=True, eq=False)
class Work:
    """What a solving run works on."""

    graph: ModelGraph
    choices: Mapping[str, Choice]
    target: Target
    method: Method
    sites: tuple[Site, ...]
    stats: Mapping[str, TensorStats]
    batches: Open
    samples: int
    batch: int
    seed: int
    by_output: bool = False


@dataclass
class Rows:
    """Sums of one unit while its rows stream by: every eighth batch is held out."""

    unit: Unit
    forms: tuple[Geometry | None, ...]
    weight: Tensor
    bias: Tensor | None
    limit: int
    sites: tuple[Site | None, ...] = ()
    fit: Gram | None = None
    held_out: Gram | None = None
    grids: dict[int, QParams | None] = field(default_factory=dict)

    def add(self, index: int, call: int, x: Tensor, xq: Tensor) -> None:
        """Take in one batch of one call: the float input and the one that the unit really gets."""
        seed = _seed(self.unit.name, index, call)
        rows, seen = (input_rows(v, self.forms[call], self.limit, seed) for v in (x, xq))
        y = rows @ self.weight.transpose(1, 2)
        if self.bias is not None:
            y += self.bias.reshape(self.weight.shape[0], 1, -1)
        gram = Gram.of(seen, y)
        if index % HELD_OUT == HELD_OUT - 1:
            self.held_out = gram if self.held_out is None else self.held_out.add_(gram)
        else:
            self.fit = gram if self.fit is None else self.fit.add_(gram)


def _seed(name: str, index: int, call: int) -> int:
    digest = hashlib.sha256(f"{name}|{index}|{call}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _rows_of(work: Work, unit: Unit, samples: int, edges: Mapping[Any, QParams]) -> Rows:
    nodes = work.graph.nodes()
    weight = weight_rows(work.graph.tensor(unit.weight).float(), unit)
    total = max(ROWS, ROWS_PER_INPUT * weight.shape[-1])
    batches = max(1, -(-samples // work.batch))
    bias = work.graph.tensor(unit.bias).float() if unit.bias else None
    forms = tuple(geometry(unit, nodes[call]) for call in unit.calls)
    sites = tuple(_site(work, unit, call, edges) for call in range(len(unit.calls)))
    rows = Rows(unit, forms, weight, bias, -(-total // batches), sites)
    if not work.by_output:
        rows.grids = {i: edges[s.source, s.reader] for i, s in enumerate(sites) if s is not None}
    return rows


def _site(work: Work, unit: Unit, call: int, edges: Mapping[Any, QParams]) -> Site | None:
    """The edge into one call of a unit, or None where it stays float."""
    for site in work.sites:
        if (site.unit, site.call) == (unit.name, call) and (site.source, site.reader) in edges:
            return site
    return None


def choose_grid(work: Work, rows: Rows, call: int, site: Site, x: Tensor, given: Tensor) -> QParams:
    """The input grid whose error at the unit's own output is least, on the rows of one batch.

    Equation: min over candidate ranges of || (X - Q(X')) W^T ||^2 about its mean (the bias takes
    the mean), X the float input and X' what the quantised network before the unit gives.
    """
    stats = work.stats[site.root]
    grid = work.target.input_grid(work.choices[rows.unit.name].a_bits)
    low, high = (torch.tensor(float(v)) for v in (stats.minmax.lo, stats.minmax.hi))
    symmetric = work.target.input_symmetric
    seed = _seed(rows.unit.name, 0, call)
    true, seen = (input_rows(v, rows.forms[call], RANGE_ROWS, seed) for v in (x, given))
    best, chosen = float("inf"), None
    for factor in SHRINK if grid.bits <= 8 else SHRINK[:1]:
        qp = exact_range(low * factor, high * factor, grid, symmetric, site.clamped)
        error = (true - fake_quantize(seen, qp)) @ rows.weight.transpose(1, 2)
        value = float((error - error.mean(1, keepdim=True)).square().sum())
        if value < best:
            best, chosen = value, qp
    assert chosen is not None
    return chosen


def _to_solve(work: Work) -> list[Unit]:
    return [u for u in work.graph.units if not work.choices[u.name].is_float]


def _finish(work: Work, unit: Unit, rows: Rows | None) -> UnitSolution:
    grids = rows.grids if rows is not None else {}
    inputs = tuple(grids.get(i) for i in range(len(unit.calls)))
    made = problem(work.graph, unit, work.choices[unit.name], work.target, inputs, work.seed)
    if rows is not None:
        made = replace(made, unit=unit, gram=rows.fit or rows.held_out, held_out=rows.held_out)
    return work.method.solve(made)


def _as_given(work: Work, rows: Rows, call: int, x: Tensor, given: Tensor) -> Tensor:
    """The input as the unit gets it; where its grid is to be chosen, at the first batch."""
    site = rows.sites[call]
    if site is not None and call not in rows.grids:
        rows.grids[call] = choose_grid(work, rows, call, site, x, given)
    grid = rows.grids.get(call)
    return given if grid is None else fake_quantize(given, grid)


def solve(work: Work, mode: str, edges: Edges, tick: Tick) -> dict[str, UnitSolution]:
    """Solve every unit that is not float; `edges` receives the input grids that were chosen.

    Methods that need no data solve each unit on its weights alone, whatever the mode.
    """
    if not work.method.needs.data:
        return solve_units(work, edges, tick)
    run = solve_sequential if mode == "sequential" else solve_parallel
    return run(work, edges, tick)


def solve_units(work: Work, edges: Edges, tick: Tick) -> dict[str, UnitSolution]:
    """Solve every unit on its weights alone, with the input grids as they are."""
    by_unit = sites_by_unit(work.sites)
    solved: dict[str, UnitSolution] = {}
    for done, unit in enumerate(work.graph.units, 1):
        choice = work.choices[unit.name]
        if not choice.is_float:
            inputs = tuple(edges.get((s.source, s.reader)) for s in by_unit.get(unit.name, ()))
            made = problem(work.graph, unit, choice, work.target, inputs, work.seed)
            solved[unit.name] = work.method.solve(made)
        tick(done)
    return solved


def solve_parallel(work: Work, edges: Edges, tick: Tick) -> dict[str, UnitSolution]:
    """Every unit on the float network's own activations, in as few passes as memory allows.

    Units are independent of one another, so any mixture of solutions can be stitched.
    """
    by_unit = sites_by_unit(work.sites)
    solved: dict[str, UnitSolution] = {}
    units = _to_solve(work)
    done = len(work.graph.units) - len(units)
    for group in _groups(units):
        sums = {u.name: _rows_of(work, u, work.samples, edges) for u in group if solvable(u)}
        wanted = {c: (u, i) for u in group if u.name in sums for i, c in enumerate(u.calls)}
        nodes = work.graph.nodes()
        sources = {call: input_of(nodes[call]).name for call in wanted}
        for index, flat in enumerate(work.batches()):
            values = replay(work.graph, _start(work.graph, flat), set(sources.values()))
            for call, (unit, i) in wanted.items():
                x = values[sources[call]]
                rows = sums[unit.name]
                rows.add(index, i, x, _as_given(work, rows, i, x, x))
        for unit in group:
            solved[unit.name] = _finish(work, unit, sums.pop(unit.name, None))
            _install_edges(unit, solved[unit.name], by_unit, edges)
            done += 1
            tick(done)
    return solved


def _groups(units: list[Unit]) -> Iterator[list[Unit]]:
    """Units whose Gram matrices fit into memory together."""
    group: list[Unit] = []
    held = 0
    for unit in units:
        inputs = unit.params // max(unit.shape[unit.channel_axis], 1)
        need = 8 * unit.groups * inputs * inputs + 8 * unit.params if solvable(unit) else 0
        if group and held + need > GRAM_BYTES:
            yield group
            group, held = [], 0
        group.append(unit)
        held += need
    if group:
        yield group


def _start(graph: ModelGraph, flat: tuple[Any, ...]) -> dict[str, Any]:
    names = [n.name for n in graph.module.graph.nodes if n.op == "placeholder"]
    return dict(zip(names, flat, strict=True))


def _install_edges(
    unit: Unit, solution: UnitSolution, by_unit: Mapping[str, list[Site]], edges: Edges
) -> None:
    for site in by_unit.get(unit.name, ()):
        grid = solution.inputs[site.call] if site.call < len(solution.inputs) else None
        if grid is not None:
            edges[site.source, site.reader] = grid


@dataclass
class Cut:
    """Values of both networks at one place of the graph, for all samples; empty at the input."""

    floats: list[dict[str, Any]] = field(default_factory=list)
    quants: list[dict[str, Any]] = field(default_factory=list)

    def batches(self, work: Work) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Pairs of stored values, or of the inputs themselves."""
        if self.floats:
            yield from zip(self.floats, self.quants, strict=True)
            return
        for flat in work.batches():
            start = _start(work.graph, flat)
            yield start, start


def solve_sequential(work: Work, edges: Edges, tick: Tick) -> dict[str, UnitSolution]:
    """Each unit on what the quantised units before it give, its target the float network's output.

    Float and quantised values walk through the graph side by side. A cut through both is kept for
    all samples wherever it fits into memory; in between a few operators are computed again, and
    where the activations are wide a sample of the calibration set serves.
    """
    by_unit = sites_by_unit(work.sites)
    over = Overrides(edges=dict(edges))
    solved: dict[str, UnitSolution] = {}
    cut = Cut()
    for done, unit in enumerate(work.graph.units, 1):
        if not work.choices[unit.name].is_float:
            rows = _stream_unit(work, unit, cut, over) if solvable(unit) else None
            solved[unit.name] = _finish(work, unit, rows)
            _install(work, unit, solved[unit.name], by_unit, over)
        if done < len(work.graph.units):
            cut = _advance(work, unit, cut, over)
        tick(done)
    edges.update(over.edges)
    return solved


def _stream_unit(work: Work, unit: Unit, cut: Cut, over: Overrides) -> Rows:
    nodes = work.graph.nodes()
    sources = [input_of(nodes[call]).name for call in unit.calls]
    samples = work.samples if cut.floats else min(work.samples, WIDE_SAMPLES)
    rows = _rows_of(work, unit, samples, over.edges)
    for index, (floats, quants) in enumerate(cut.batches(work)):
        if index * work.batch >= samples:
            break
        true = replay(work.graph, floats, set(sources))
        seen = replay(work.graph, quants, set(sources), over)
        for call, source in enumerate(sources):
            x, given = true[source], seen[source]
            rows.add(index, call, x, _as_given(work, rows, call, x, given))
    return rows


def _install(
    work: Work,
    unit: Unit,
    solution: UnitSolution,
    by_unit: Mapping[str, list[Site]],
    over: Overrides,
) -> None:
    weight = dequantize(solution.q, solution.weight)
    over.tensors[unit.weight] = weight
    if solution.bias is not None and unit.bias is not None:
        over.tensors[unit.bias] = deployed_bias(unit, solution, work.target)
    elif solution.bias is not None:
        nodes = work.graph.nodes()
        for call in unit.calls:
            bias = deployed_bias(unit, solution, work.target)
            over.biases[call] = (_bias_axis(nodes[call]), bias)
    _install_edges(unit, solution, by_unit, over.edges)


def _bias_axis(node: fx.Node) -> int:
    return 1 if WEIGHTED[node.target].startswith("conv") else -1


def _advance(work: Work, unit: Unit, cut: Cut, over: Overrides) -> Cut:
    """Move the cut behind a unit where both sides of it fit into memory for all samples."""
    names = live_after(work.graph, unit.outputs[-1])
    moved = Cut()
    held = 0
    for floats, quants in cut.batches(work):
        pair = (replay(work.graph, floats, names), replay(work.graph, quants, names, over))
        held += sum(v.numel() * v.element_size() for p in pair for v in p.values()
                    if isinstance(v, Tensor))  # fmt: skip
        moved.floats.append(pair[0])
        moved.quants.append(pair[1])
        batches = -(-work.samples // work.batch)
        if held / len(moved.floats) * batches > CUT_BYTES:
            return cut
    return moved


def bound_batches(graph: ModelGraph, batches: Callable[[], Iterator[Any]]) -> Open:
    """Batches of inputs as the graph's flat inputs."""

    def walk() -> Iterator[Any]:
        for inputs in batches():
            yield bind(graph, inputs)

    return walk
