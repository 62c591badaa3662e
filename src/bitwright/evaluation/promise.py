"""A promise as the user writes it, and whether samples show that it holds.

What is shown is shown of all data like these samples, with a stated confidence, not of the samples
alone: the bound of a figure decides, not its estimate. Samples that took part in solving, choosing
or tuning show nothing, so a promise is judged on others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.errors import RecipeError
from bitwright.numerics import confidence
from bitwright.numerics.confidence import Figures, Statistic

ALPHA = 0.05
AGREEMENT, DROP, KL = "agreement", "drop", "kl"
# Figures that are better the smaller they are.
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


@dataclass(frozen=True, eq=False)
class Evidence:
    """Figures of each sample, of the float network and of the file, as both really answered.

    Attributes:
        agreement: the share of a sample's answers that are the float network's.
        kl: a sample's divergence.
        scores: the metric's score of every sample, float and quantised; None where there are no
            labels, or where the metric is no mean of samples.
        figures: for such a metric its value of samples at given places, float and quantised.
    """

    agreement: Figures
    kl: Figures
    scores: tuple[Figures, Figures] | None = None
    figures: tuple[Statistic, Statistic] | None = None

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.agreement)


@dataclass(frozen=True)
class Finding:
    """What samples show of a promise.

    Attributes:
        promise: as it was written.
        holds: whether the bound keeps the limit.
        estimate: the figure on the samples.
        bound: what the figure of all data keeps, with confidence 1 - alpha.
        alpha: the chance that the bound is wrong, less for every earlier look.
        samples: how many there are.
        needed: how many would show it, if they went on as these; None if none would.
        by: the method of the bound.
    """

    promise: str
    holds: bool
    estimate: float
    bound: float
    alpha: float
    samples: int
    needed: int | None
    by: str


def share_of_error(look: int) -> float:
    """The chance of error that the look of this number (from 1) may spend: ALPHA / 2^look.

    All looks together spend no more than ALPHA, however many there are (Bonferroni with unequal
    shares), so that a promise tried several times is as sure as one tried once.
    """
    return float(ALPHA * 0.5**look)


def judge_promise(promise: Promise, evidence: Evidence, alpha: float, seed: int = 0) -> Finding:
    """Whether the samples show that a promise holds.

    Raises:
        RecipeError: a promise of a metric, and no scores of it.
    """
    if evidence.count < 2:
        return Finding(promise.text, False, float("nan"), float("nan"), alpha, evidence.count, None,
                       "none: fewer than two samples")  # fmt: skip
    if promise.name == AGREEMENT:
        return _judge_mean(promise, evidence.agreement, alpha, seed)
    if promise.name == KL:
        return _judge_mean(promise, evidence.kl, alpha, seed)
    if evidence.scores is not None:
        before, after = evidence.scores
        if promise.name != DROP:
            return _judge_mean(promise, after, alpha, seed)
        if _are_hits(before) and _are_hits(after):
            return _judge_pairs(promise, before, after, alpha)
        return _judge_mean(promise, before - after, alpha, seed)
    if evidence.figures is None:
        raise RecipeError(f"--promise {promise.text!r}: no sample has a label. Give --eval D.")
    return _judge_figure(promise, evidence.figures, evidence.count, alpha, seed)


def _judge_mean(promise: Promise, values: Figures, alpha: float, seed: int) -> Finding:
    estimate, count = float(values.mean()), len(values)
    if not promise.falls and _are_hits(values):
        bound = confidence.bound_rate_below(int(values.sum()), count, alpha)
        needed = confidence.count_for_rate(estimate, promise.limit, alpha)
        return _find(promise, estimate, bound, alpha, count, needed, "Clopper-Pearson")
    sign = 1.0 if promise.falls else -1.0
    bound = sign * confidence.bound_mean_above(sign * values, alpha, seed)
    needed = confidence.count_for_mean(estimate, bound, promise.limit, count)
    return _find(promise, estimate, bound, alpha, count, needed, "bootstrap (BCa)")


def _judge_pairs(promise: Promise, before: Figures, after: Figures, alpha: float) -> Finding:
    worse, better = int((before > after).sum()), int((after > before).sum())
    count = len(before)
    bound = confidence.bound_drop_above(worse, better, count, alpha)
    estimate = (worse - better) / count
    needed = confidence.count_for_mean(estimate, bound, promise.limit, count)
    return _find(promise, estimate, bound, alpha, count, needed, "Tango's score of pairs")


def _judge_figure(
    promise: Promise, figures: Sequence[Statistic], count: int, alpha: float, seed: int
) -> Finding:
    before, after = figures
    sign = -1.0 if promise.falls else 1.0

    def value(places: np.ndarray) -> float:
        drop = before(places) - after(places)
        return float(sign * (drop if promise.name == DROP else after(places)))

    estimate = sign * value(np.arange(count))
    bound = sign * confidence.bound_statistic_below(value, count, alpha, seed)
    needed = confidence.count_for_mean(estimate, bound, promise.limit, count)
    return _find(promise, estimate, bound, alpha, count, needed, "bootstrap of samples")


def _find(
    promise: Promise,
    estimate: float,
    bound: float,
    alpha: float,
    count: int,
    needed: int | None,
    by: str,
) -> Finding:
    holds = bound <= promise.limit if promise.falls else bound >= promise.limit
    return Finding(promise.text, holds, estimate, bound, alpha, count, needed, by)


def _are_hits(values: Figures) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())
