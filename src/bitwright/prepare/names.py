"""The steps of a recipe's `prepare`: their names, and which go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.errors import RecipeError, unknown

SMOOTH, BALANCE, LEARNED = "smooth", "balance", "equalize-learned"


@dataclass(frozen=True)
class About:
    """What the list of steps says of one."""

    paper: str
    text: str


# Steps that look at the calibration data; they come after the others, whatever the order.
WITH_DATA = (BALANCE, LEARNED, SMOOTH)
# Each chooses the scale of every channel.
_SCALING = ("equalize", "equalize-relu", "factorize", BALANCE, LEARNED)
COST = "seconds"
ABOUT: Mapping[str, About] = {
    "equalize": About("arXiv 1906.04721", "cross-layer equalisation; ReLU6 clips by channel"),
    "equalize-relu": About("arXiv 1906.04721", "the same; ReLU6 becomes ReLU, as in the paper"),
    "absorb-bias": About("arXiv 1906.04721", "high biases move into the next layer"),
    "factorize": About("arXiv 1902.01917", "channels grow to fill their layer's range"),
    BALANCE: About("arXiv 1906.04721", "channels of all streams by their own best steps"),
    LEARNED: About("arXiv 1902.08153", "the same, learned from the float network's answers"),
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
    scaling = [n for n in names if n in _SCALING]
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
    by_data = [n for n in names if n in WITH_DATA]
    if "ocs" in names and by_data:
        raise RecipeError(
            f"--prepare {text!r}: ocs halves weights for the ranges that they have, and "
            f"{by_data[0]}, which comes after all others, changes those. Keep one of them."
        )
    if "ocs" in names[:-1]:
        raise RecipeError(
            f"--prepare {text!r} splits channels before {names[-1]!r}: no scale passes the copies "
            "that ocs puts between layers. Put ocs last."
        )
    return names
