"""Solving runs on tiny networks, a store that can fail, and what a run executed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from bitwright.engine.digest import digest
from bitwright.engine.store import Counts
from bitwright.graph import execute
from bitwright.graph import replay as replaying
from bitwright.graph.capture import capture
from bitwright.graph.choice import FLOAT, Choice, parse_scheme
from bitwright.graph.observe import observe
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from bitwright.graph.work import OperationCount as Counted
from bitwright.methods.adaquant import AdaQuant
from bitwright.methods.quadratic import QuadraticSolver
from bitwright.numerics.ranges import range_rule
from bitwright.solving import Work, bind_batches, solve
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import input_grids, task_grids
from networks import normal, pictures

QUADRATIC = QuadraticSolver(weight_range="minmax")
ADAQUANT = AdaQuant(iterations=10, rows=128, weight_range="minmax")


@dataclass
class Memory:
    """A store in memory that tells what it was asked; it fails at the given put."""

    entries: dict = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    fail_at: int | None = None

    def get(self, key):
        found = self.entries.get(key)
        if found is None:
            self.counts.misses += 1
            return None
        self.counts.hits += 1
        return found

    def put(self, key, tensors, meta):
        if self.counts.puts == self.fail_at:
            raise Interrupted
        assert key not in self.entries, "solved twice"
        self.counts.puts += 1
        self.entries[key] = (dict(tensors), dict(meta))


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@dataclass(frozen=True)
class Run:
    """A run and its work."""

    work: Work
    edges: dict
    mode: str

    def solved(self, tick: Callable[[int], None] = lambda _: None):
        """Solve; returns the solutions and the grids of the edges afterwards."""
        found = solve(self.work, self.mode, dict(self.edges), tick)
        return found.solutions, found.edges

    def bits(self) -> str:
        """The digest of all that solving gives."""
        return digest(*self.solved())

    def assignment(self):
        """The solutions of one choice a unit as a network's parameters."""
        found, edges = self.solved()
        by_unit = {name: solution for (name, _), solution in found.items()}
        return assemble(self.work.graph, by_unit, edges, self.work.target)

    def but(self, **changes) -> Run:
        """The same with some of the work changed."""
        return replace(self, work=replace(self.work, **changes))


def run_of(
    net: nn.Module,
    data: torch.Tensor,
    menu: str = "w4a4",
    mode: str = "parallel",
    *,
    batch: int = 4,
    method=QUADRATIC,
    target: str = "paper",
    keep: dict[str, str] | None = None,
    **options,
) -> Run:
    """A run over all of the data; `keep` gives some units choices of their own."""
    graph = capture(net, (data[:2],))
    found = replace(load_target(target), **options.pop("changes", {}))

    def choices(text: str) -> tuple[Choice, ...]:
        return tuple(FLOAT if s == "float" else parse_scheme(s) for s in text.split(","))

    wanted = {u.name: choices((keep or {}).get(u.name, menu)) for u in graph.units}
    single = {name: cs[0] for name, cs in wanted.items()}
    sites = find_sites(graph, found)
    sites = tuple(s for s in sites if s.unit is None or not single[s.unit].is_float)
    batches = list(data.split(batch))
    stats = observe(graph, [(b,) for b in batches], {s.root for s in sites}).stats
    rule = range_rule("minmax")
    work = Work(
        graph=graph,
        menu=wanted,
        grids=task_grids(graph, wanted, sites, stats, found, rule),
        target=found,
        method=method,
        sites=sites,
        stats=stats,
        batches=bind_batches(graph, lambda: ((b,) for b in batches)),
        samples=len(data),
        batch=batch,
        seed=options.pop("seed", 0),
        data=digest(data),
        **options,
    )
    return Run(work, input_grids(sites, stats, single, found, rule), mode)


@contextmanager
def counting(monkeypatch):
    """Multiply-accumulates of everything that replays, full runs included."""
    done = Counted()
    compute = execute.compute

    def counted(module, node, values, given):
        result = compute(module, node, values, given)
        if node.op == "call_function":
            args = [values[a] if isinstance(a, torch.fx.Node) else a for a in node.args]
            done.add(node.target, args, result)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(replaying, "compute", counted)
        patch.setattr(execute, "compute", counted)
        yield done


@contextmanager
def solving_of(monkeypatch, method=QuadraticSolver):
    """The names of the units, and problems, that a method was given."""
    given = []
    original = method.solve

    def noted(self, problem):
        given.append(problem)
        return original(self, problem)

    with monkeypatch.context() as patch:
        patch.setattr(method, "solve", noted)
        yield given


class Residual(nn.Module):
    """Convolutions one after the other, with sums over them: narrow, so that it is cheap."""

    def __init__(self, depth: int = 4, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for layer in self.body:
            x = torch.relu(layer(x) + x)
        return self.head(x.mean((2, 3)))


class Odd(nn.Module):
    """What makes values go stale: one weight called twice, a late activation, a lopsided padding.

    `twice` runs before and after `between`; the activation of `gate` stands behind the call of
    `up`; `padded` reads a padding that is made early.
    """

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.twice = nn.Conv2d(width, width, 3, padding=1)
        self.between = nn.Conv2d(width, width, 1)
        self.gate = nn.Conv2d(width, width, 1)
        self.up = nn.Conv2d(width, width, 1, bias=False)
        self.padded = nn.Conv2d(width, width, 3, stride=2)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        early = nn.functional.pad(x, (0, 1, 0, 1))
        first = torch.relu(self.twice(x))
        second = torch.relu(self.twice(self.between(first)))
        gate = self.gate(second)
        up = self.up(first)
        x = torch.sigmoid(gate) * up
        small = self.padded(early) + nn.functional.avg_pool2d(x, 2)[:, :, :8, :8]
        return self.head(small.mean((2, 3)))


def tiny(count: int = 40) -> torch.Tensor:
    """Small pictures: ten batches of four, of which the eighth is held out."""
    return pictures(count, seed=1, size=8)


def rows(count: int = 40, width: int = 12) -> torch.Tensor:
    """Rows for linear layers."""
    return normal(count, width, seed=1)
