"""Small quantised networks for the tests of tuning: captured, solved by nearest rounding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.graph.choice import parse_scheme
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.observe import observe
from bitwright.graph.simulate import Assignment
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from bitwright.methods.nearest import Nearest
from bitwright.numerics.ranges import range_rule
from bitwright.solving import Configuration, Work
from bitwright.solving.grids import input_grids
from bitwright.solving.samples import Samples, split_samples
from bitwright.solving.work import problem
from bitwright.tuning.report import TuneReport
from networks import Chain, normal, seeded, trained_looking


@dataclass(frozen=True, eq=False)
class Quantised:
    """A captured network with everything that tuning takes."""

    start: Configuration
    data: torch.Tensor | dict[str, torch.Tensor]

    @property
    def graph(self) -> ModelGraph:
        return self.start.graph

    @property
    def solved(self) -> dict:
        return self.start.solved

    def having(self, solved: dict) -> Configuration:
        return self.start.having(solved)

    def deploy(self, solved: dict) -> Assignment:
        """These solutions as a network's parameters."""
        return self.start.having(solved).assignment()

    def samples(self, batch: int = 16, order: torch.Tensor | None = None) -> Samples:
        count = len(first_of(self.data))
        order = torch.arange(count) if order is None else order
        flats = [
            bind(self.graph, rows(self.data, order[i : i + batch])) for i in range(0, count, batch)
        ]
        return split_samples(self.graph, lambda: iter(flats))


def first_of(data: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
    return data if isinstance(data, torch.Tensor) else next(iter(data.values()))


def rows(data: torch.Tensor | dict[str, torch.Tensor], which):
    """Some samples as a network's inputs."""
    if isinstance(data, torch.Tensor):
        return (data[which],)
    return {name: tensor[which] for name, tensor in data.items()}


def quantised(
    net: nn.Module,
    data: torch.Tensor | dict[str, torch.Tensor],
    scheme: str = "w3a8",
    target: str = "paper",
    **changes,
) -> Quantised:
    graph = capture(net, rows(data, slice(0, 8)))
    kind = replace(load_target(target), **changes)
    choices = dict.fromkeys((u.name for u in graph.units), parse_scheme(scheme))
    sites = find_sites(graph, kind)
    stats = observe(graph, [rows(data, slice(None))], {site.root for site in sites}).stats
    edges = input_grids(sites, stats, choices, kind, range_rule("minmax"))
    solved = {}
    for unit in graph.units:
        own = [s for s in sites if s.unit == unit.name]
        grids = tuple(
            edges.get(next(((s.source, s.reader) for s in own if s.call == call), ("", "")))
            for call in range(len(unit.calls))
        )
        made = problem(graph, unit, choices[unit.name], kind, grids, 0)
        solved[unit.name] = Nearest().solve(made)
    work = Work(
        graph=graph,
        menu={name: (choice,) for name, choice in choices.items()},
        grids={(name, choices[name]): s.inputs for name, s in solved.items()},
        target=kind,
        method=Nearest(),
        sites=sites,
        stats=stats,
        batches=lambda: iter([bind(graph, rows(data, slice(None)))]),
        samples=len(first_of(data)),
        batch=len(first_of(data)),
        seed=0,
    )
    return Quantised(Configuration(work, choices, solved, edges), data)


def solutions(outcome) -> tuple[dict, TuneReport]:
    """The solutions after a step, and its report."""
    found, report = outcome
    return found.solved, report


def networks():
    """Networks by what is special about them; each takes [N, 6, 8, 8] and gives 5 scores."""
    relu, flat = nn.ReLU(), nn.Flatten()
    return {
        "conv, batch-norm": lambda: Chain(
            nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), relu, flat, nn.Linear(288, 5)
        ),
        "depthwise": lambda: Chain(
            nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), relu, flat,
            nn.Linear(216, 5),
        ),
        "grouped": lambda: Chain(
            nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8), relu, flat, nn.Linear(288, 5)
        ),
        "transposed": lambda: Chain(
            nn.ConvTranspose2d(6, 4, 3, bias=False), nn.BatchNorm2d(4), relu, flat,
            nn.Linear(400, 5),
        ),
        "transposed, grouped": lambda: Chain(
            nn.ConvTranspose2d(6, 4, 3, groups=2), nn.BatchNorm2d(4), relu, flat,
            nn.Linear(400, 5),
        ),
        "linear, batch-norm": lambda: Chain(
            flat, nn.Linear(384, 12, bias=False), nn.BatchNorm1d(12), relu, nn.Linear(12, 5)
        ),
        "no batch-norm": lambda: Chain(
            nn.Conv2d(6, 8, 3), relu, flat, nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 5)
        ),
        "no biases": lambda: Chain(
            nn.Conv2d(6, 8, 3, bias=False), relu, flat, nn.Linear(288, 5, bias=False)
        ),
    }  # fmt: skip


KINDS = tuple(networks())


@cache
def built(kind: str, scheme: str = "w3a8", count: int = 96, **changes) -> Quantised:
    """One of the networks, its batch-norms as after training, on data of its own.

    Steps leave what they start from as it is (`test_solving_steps` looks), so that tests share it.
    """
    net = trained_looking(seeded(networks()[kind], 3), 3)
    scale = torch.linspace(0.3, 2.0, 6).view(6, 1, 1)
    return quantised(net, normal(count, 6, 8, 8, seed=5) * scale + 0.2, scheme, **changes)
