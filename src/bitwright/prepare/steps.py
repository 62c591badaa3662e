"""The steps of a recipe's `prepare`, by name, and their application in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from bitwright.errors import RecipeError, unknown
from bitwright.graph.choice import Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target
from bitwright.prepare.absorb import AbsorbBias
from bitwright.prepare.equalize import Equalize
from bitwright.prepare.factorize import Factorize
from bitwright.prepare.smooth import NAME as SMOOTH
from bitwright.prepare.split import SplitOutliers


class Step(Protocol):
    """A frozen dataclass of parameters that rewrites a captured graph, the same way every time."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def apply(self, graph: ModelGraph) -> ModelGraph:
        """The rewritten graph; the given one is left as it was."""


@dataclass(frozen=True)
class About:
    """What the list of steps says of one."""

    paper: str
    text: str


STEPS: Mapping[str, Step] = {
    "equalize": Equalize(),
    "equalize-relu": Equalize(relu6="relu", name="equalize-relu"),
    "absorb-bias": AbsorbBias(),
    "factorize": Factorize(),
    "ocs": SplitOutliers(),
}
# Steps that look at the calibration data; they come after the others, whatever the order.
WITH_DATA = (SMOOTH,)
COST = "seconds"
ABOUT: Mapping[str, About] = {
    "equalize": About("arXiv 1906.04721", "cross-layer equalisation; ReLU6 clips by channel"),
    "equalize-relu": About("arXiv 1906.04721", "the same; ReLU6 becomes ReLU, as in the paper"),
    "absorb-bias": About("arXiv 1906.04721", "high biases move into the next layer"),
    "factorize": About("arXiv 1902.01917", "channels grow to fill their layer's range"),
    SMOOTH: About("arXiv 2211.10438", "outlier channels of linear layers' inputs, where it helps"),
    "ocs": About("arXiv 1901.09504", "inputs with outlying weights are there twice, halved"),
}


def prepare_steps(text: str) -> tuple[str, ...]:
    """The names in a recipe's `prepare`.

    >>> prepare_steps("equalize, absorb-bias")
    ('equalize', 'absorb-bias')

    Raises:
        RecipeError: an unknown step, one named twice, or two that undo each other.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name not in ABOUT:
            raise RecipeError(unknown("step", name, ABOUT, "--prepare"))
    if len(set(names)) < len(names):
        raise RecipeError(f"--prepare {text!r} names a step twice. Name each once.")
    scaling = [n for n in names if n in ("equalize", "equalize-relu", "factorize")]
    if len(scaling) > 1:
        raise RecipeError(
            f"--prepare {text!r}: {scaling[0]!r} and {scaling[1]!r} both choose the scale of every "
            "channel, so the second would undo the first. Keep one of them."
        )
    if "absorb-bias" in names and scaling and names.index("absorb-bias") < names.index(scaling[0]):
        raise RecipeError(
            f"--prepare {text!r} absorbs biases before {scaling[0]!r} makes them high. Put "
            "absorb-bias after it."
        )
    if "ocs" in names and SMOOTH in names:
        raise RecipeError(
            f"--prepare {text!r}: ocs halves weights for the ranges that they have, and smooth, "
            "which comes after all others, changes those. Keep one of them."
        )
    if "ocs" in names[:-1]:
        raise RecipeError(
            f"--prepare {text!r} splits channels before {names[-1]!r}: no scale passes the copies "
            "that ocs puts between layers. Put ocs last."
        )
    return names


def apply_steps(
    graph: ModelGraph, text: str, choices: Mapping[str, Choice], target: Target
) -> ModelGraph:
    """The graph after the steps of a recipe's `prepare` that need no data.

    Args:
        graph: as captured; it is left as it was.
        text: the names of the steps.
        choices: the bits that each unit will have, or the base of a menu.
        target: whose grids they are on.
    """
    for name in prepare_steps(text):
        if name in WITH_DATA:
            continue
        step = STEPS[name]
        if isinstance(step, SplitOutliers):
            step = replace(step, choices=choices, target=target)
        graph = step.apply(graph)
    return graph
