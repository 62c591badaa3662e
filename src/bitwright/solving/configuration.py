"""The deployed network as a value: what every unit was solved to, and the grids of its edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import fx

from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment, stitch
from bitwright.graph.sites import Site
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams
from bitwright.solving.assembly import assemble
from bitwright.solving.grids import active_sites
from bitwright.solving.work import Task, Work, edges_into


@dataclass(frozen=True, eq=False)
class Configuration:
    """A solved network: what `solve` and `deploy` find and every tuning step makes anew.

    Attributes:
        work: the captured network and how it was solved.
        choices: the bits of every unit.
        solved: the solution of every unit that is not float.
        edges: the grid of every quantised edge.
    """

    work: Work
    choices: Mapping[str, Choice]
    solved: Mapping[str, UnitSolution]
    edges: Mapping[tuple[str, str], QParams]

    @property
    def graph(self) -> ModelGraph:
        """The captured float network."""
        return self.work.graph

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The edges that are quantised."""
        return active_sites(self.work.sites, self.graph, self.choices)

    def having(
        self,
        solved: Mapping[str, UnitSolution],
        edges: Mapping[tuple[str, str], QParams] | None = None,
    ) -> Configuration:
        """The same network with other solutions, and other grids where they are given."""
        return replace(self, solved=solved, edges=self.edges if edges is None else edges)

    def changed(self, solved: Mapping[str, UnitSolution]) -> Configuration:
        """The same network with the solutions of some units replaced."""
        return self.having({**self.solved, **solved})

    @classmethod
    def of(
        cls,
        work: Work,
        solutions: Mapping[Task, UnitSolution],
        choices: Mapping[str, Choice],
        edges: Mapping[tuple[str, str], QParams],
    ) -> Configuration:
        """One configuration out of a solved menu, with the edges that go with its solutions.

        Args:
            work: the network and its menu.
            solutions: of every (unit, choice), as `solve` gives them.
            choices: the bits of every unit, of the menu.
            edges: the grids of quantised edges as observed.
        """
        own = dict(edges)
        solved: dict[str, UnitSolution] = {}
        for unit in work.graph.units:
            choice = choices[unit.name]
            if choice.is_float:
                for site in work.sites_of.get(unit.name, ()):
                    own.pop((site.source, site.reader), None)
                continue
            solved[unit.name] = solutions[unit.name, choice]
            own.update(edges_into(work, unit, solved[unit.name]))
        return cls(work, choices, solved, own)

    def observed(self) -> dict[tuple[str, str], QParams]:
        """The grids of its edges before solutions chose their own."""
        edges = dict(self.edges)
        for site in self.sites:
            if site.unit is None:
                continue
            grid = self.work.grids[site.unit, self.choices[site.unit]][site.call]
            if grid is not None:
                edges[site.source, site.reader] = grid
        return edges

    def assignment(self) -> Assignment:
        """Everything that makes the network quantised, biases in the target's form."""
        return assemble(self.graph, self.solved, self.edges, self.work.target)

    def module(self) -> fx.GraphModule:
        """The network as an ordinary module."""
        return stitch(self.graph, self.assignment())
