"""The steps of a recipe's `prepare` and their application in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target
from bitwright.prepare.absorb import AbsorbBias
from bitwright.prepare.equalize import Equalize
from bitwright.prepare.factorize import Factorize
from bitwright.prepare.names import WITH_DATA, prepare_steps
from bitwright.prepare.split import SplitOutliers


class RewriteStep(Protocol):
    """A frozen dataclass of parameters that rewrites a captured graph, the same way every time."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def apply(self, graph: ModelGraph) -> ModelGraph:
        """The rewritten graph; the given one is left as it was."""


STEPS: Mapping[str, RewriteStep] = {
    "equalize": Equalize(),
    "equalize-relu": Equalize(relu6="relu", name="equalize-relu"),
    "absorb-bias": AbsorbBias(),
    "factorize": Factorize(),
    "ocs": SplitOutliers(),
}


def apply_steps(
    graph: ModelGraph, steps: str | Iterable[str], choices: Mapping[str, Choice], target: Target
) -> ModelGraph:
    """The graph after the steps of a recipe's `prepare` that need no data.

    Args:
        graph: as captured; it is left as it was.
        steps: their names.
        choices: the bits that each unit will have, or the base of a menu.
        target: whose grids they are on.
    """
    for name in prepare_steps(steps) if isinstance(steps, str) else steps:
        if name in WITH_DATA:
            continue
        step = STEPS[name]
        if isinstance(step, SplitOutliers):
            step = replace(step, choices=choices, target=target)
        graph = step.apply(graph)
    return graph
