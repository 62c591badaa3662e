"""A network with nearest-rounding solutions for a whole menu, as the table is measured on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bitwright.graph.capture import capture
from bitwright.graph.change import change_of
from bitwright.graph.choice import FLOAT, parse_scheme
from bitwright.graph.execute import bind, first_tensor, outputs_of, walk
from bitwright.graph.observe import observe
from bitwright.graph.simulate import Assignment, sites_by_unit, stitch
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from bitwright.methods.nearest import Nearest
from bitwright.numerics.ranges import range_rule
from bitwright.sensitivity.measure import Subject
from bitwright.sensitivity.sample_loss import Divergence
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import input_grids
from bitwright.solving.work import problem
from bitwright.sources.batches import as_batch


@dataclass(frozen=True)
class Solved:
    """Every unit at every choice; `whole` are the assignments of uniform choices."""

    graph: object
    whole: dict
    changes: dict
    base: object
    base_choice: object
    chunks: list
    solutions: dict
    sites: tuple

    def subject(self, loss=None, **options):
        return Subject(self.graph, self.base, loss or Divergence(), **options)

    def change(self, unit, choice):
        """The change to a choice, the base's included."""
        return change_of(self.graph.unit(unit), self.whole[choice], self.sites)


def uniform(graph, sites, stats, choice, target):
    """One choice for all units, each rounded to nearest."""
    if choice.is_float:
        return {}, Assignment({}, {}, {})
    choices = {u.name: choice for u in graph.units}
    edges = input_grids(sites, stats, choices, target, range_rule("minmax"))
    by_unit = sites_by_unit(sites)
    solved = {}
    for unit in graph.units:
        inputs = tuple(edges.get((s.source, s.reader)) for s in by_unit.get(unit.name, ()))
        solved[unit.name] = Nearest("minmax").solve(problem(graph, unit, choice, target, inputs, 0))
    return solved, assemble(graph, solved, edges, target)


def solve_menu(net, batches, menu="w8a8,w4a8,w8a4,w4a4,w2a4", target="paper"):
    """Capture, observe and solve; the first choice of the menu is the base."""
    chunks = [as_batch(b, "test") for b in batches]
    graph = capture(net, chunks[0].inputs)
    found = load_target(target)
    sites = find_sites(graph, found)
    stats = observe(graph, (c.inputs for c in chunks), {s.root for s in sites}).stats
    choices = [FLOAT if s == "float" else parse_scheme(s) for s in menu.split(",")]
    whole, solutions = {}, {}
    for choice in choices:
        solutions[choice], whole[choice] = uniform(graph, sites, stats, choice, found)
    changes = {
        unit.name: {
            choice: change_of(unit, whole[choice], sites) if i else None
            for i, choice in enumerate(choices)
        }
        for unit in graph.units
    }
    base = whole[choices[0]]
    return Solved(graph, whole, changes, base, choices[0], chunks, solutions, sites)


def main_output(graph, module, batch):
    """What a module with the network's inputs answers: one tensor, or a tuple of several."""
    with torch.no_grad():
        result = outputs_of(graph, walk(module, bind(graph, batch.inputs)))
        return graph.answer.of(result) if graph.answer.heads else first_tensor(result)


def stitched_losses(solved, assignment, loss=None):
    """Per-sample losses of a stitched network by plain full passes."""
    loss = loss or Divergence()
    module = stitch(solved.graph, assignment)
    parts = [
        loss.of(
            main_output(solved.graph, solved.graph.module, batch),
            main_output(solved.graph, module, batch),
            batch.labels,
        )
        for batch in solved.chunks
    ]
    return torch.cat(parts, dim=1).numpy()
