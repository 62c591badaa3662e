"""A promise as the user writes it, read before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitwright.errors import RecipeError

AGREEMENT, DROP, KL = "agreement", "drop", "kl"
# The keys of a recipe that what is tried for a promise may change.
CLIMBED = ("activation_range", "method", "mode", "prepare", "tune", "menu", "minimize")
# SampleFigures that are better the smaller they are.
_FALLING = frozenset({DROP, KL, "perplexity", "mae", "rmse", "wer", "cer"})
_TERM = re.compile(
    r"\s*([A-Za-z_][\w.-]{0,60})\s*(>=|≥|<=|≤)\s*((?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(?:[eE]-?\d{1,2})?)\s*(%?)\s*"
)
_EXAMPLES = "'agreement>=99%', 'drop<=0.5%', 'kl<=0.01' or 'top1>=82%'"


@dataclass(frozen=True)
class Promise:
    """What a user wants to be sure of.

    Attributes:
        name: `agreement`, `drop`, `kl`, or the metric's.
        limit: what the figure must reach; a fraction where the user wrote per cent.
        falls: whether the figure is to stay under the limit, not above it.
        text: as the user wrote it.
    """

    name: str
    limit: float
    falls: bool
    text: str


def parse_promise(text: str, metric: str | None, place: str = "--promise") -> Promise:
    """Read a promise.

    Args:
        text: as the user wrote it.
        metric: the name of what is measured with labels; None where there are none.
        place: for messages.

    >>> parse_promise("drop <= 0.5%", "top1")
    Promise(name='drop', limit=0.005, falls=True, text='drop <= 0.5%')

    Raises:
        RecipeError: it cannot be read, can never hold, or speaks of what is not measured.
    """
    match = _TERM.fullmatch(text)
    if match is None:
        shown = repr(text if len(text) <= 80 else text[:76] + " ...")
        raise RecipeError(f"{place} {shown} is no promise. Write {_EXAMPLES}.")
    name, sign, number, unit = match.groups()
    falls = sign in ("<=", "≤")
    limit = float(number) / (100 if unit else 1)
    _check_name(name, metric, f"{place} {text.strip()!r}")
    _check_side(name, falls, f"{place} {text.strip()!r}")
    if name in (AGREEMENT, DROP) and not 0 <= limit <= 1:
        raise RecipeError(
            f"{place} {text.strip()!r}: {name} is a share from 0 to 1. Write {number}% or "
            f"{name}{sign}{float(number) / 100:g}."
        )
    return Promise(name, limit, falls, text.strip())


def _check_name(name: str, metric: str | None, place: str) -> None:
    if name in (AGREEMENT, KL) or (metric is not None and name in (DROP, metric)):
        return
    if metric is None:
        raise RecipeError(
            f"{place} needs labels, and there are none. Give --eval D with labels and --metric M, "
            "or promise 'agreement>=99%' or 'kl<=0.01', which need none."
        )
    raise RecipeError(
        f"{place}: {name!r} is not measured here. Known: agreement, kl, drop and {metric}; another "
        "metric is named by --metric."
    )


def _check_side(name: str, falls: bool, place: str) -> None:
    if name in (AGREEMENT, DROP, KL) and falls != (name in _FALLING):
        wanted = "<=" if name in _FALLING else ">="
        raise RecipeError(f"{place}: this way it says nothing. Write {name}{wanted}NUMBER.")
