"""Whether samples show that a promise holds.

What is shown is shown of all data like these samples, with a stated confidence, not of the samples
alone: the bound of a figure decides, not its estimate. Samples that took part in solving, choosing
or tuning show nothing, so a promise is judged on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.errors import RecipeError
from bitwright.numerics import confidence
from bitwright.numerics.confidence import SampleFigures, Statistic
from bitwright.recipe.promises import AGREEMENT, DROP, KL, Promise

ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Evidence:
    """Figures of each sample, of the float network and of the file, as both really answered.

    Attributes:
        agreement: the share of a sample's answers that are the float network's.
        kl: a sample's divergence.
        scores: the metric's score of every sample, float and quantised; None where there are no
            labels, or where the metric is no mean of samples.
        figures: for such a metric its value of samples at given places, float and quantised.
        less: whether less of the metric is better, as of an error.
    """

    agreement: SampleFigures
    kl: SampleFigures
    scores: tuple[SampleFigures, SampleFigures] | None = None
    figures: tuple[Statistic, Statistic] | None = None
    less: bool = False

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
        # What is lost of a metric of which less is better is what it grows by.
        before, after = (after, before) if evidence.less else (before, after)
        if _are_hits(before) and _are_hits(after):
            return _judge_pairs(promise, before, after, alpha)
        return _judge_mean(promise, before - after, alpha, seed)
    if evidence.figures is None:
        raise RecipeError(f"--promise {promise.text!r}: no sample has a label. Give --eval D.")
    figures = evidence.figures
    if promise.name == DROP and evidence.less:
        figures = figures[1], figures[0]
    return _judge_figure(promise, figures, evidence.count, alpha, seed)


def is_refuted(promise: Promise, evidence: Evidence, seed: int = 0) -> bool:
    """Whether samples show that a promise does not hold, with confidence 1 - ALPHA.

    Asked of samples that nothing is proven on: what they refute need not be looked at.
    """
    values = _values_of(promise, evidence)
    if values is None or len(values) < 2:
        return False
    sign = -1.0 if promise.falls else 1.0
    best = sign * confidence.bound_mean_above(sign * values, ALPHA, seed)
    return best > promise.limit if promise.falls else best < promise.limit


def estimate_of(promise: Promise, evidence: Evidence) -> float:
    """The figure on the samples; without a score of them, what agreement says of it."""
    values = _values_of(promise, evidence)
    if values is not None:
        return float(values.mean())
    # An answer that agrees with float's is right where that is, so no drop is larger.
    agreeing = float(evidence.agreement.mean())
    return 1.0 - agreeing if promise.name == DROP else agreeing


def keeps(promise: Promise, figure: float) -> bool:
    """Whether a figure is on the right side of the limit."""
    return figure <= promise.limit if promise.falls else figure >= promise.limit


def judge_best(promise: Promise, count: int, alpha: float) -> Finding | None:
    """What so many samples would show of a network that answers exactly as float does.

    None of a metric, whose figure float itself may miss.
    """
    if promise.name not in (AGREEMENT, DROP, KL) or count < 2:
        return None
    same = np.ones(count)
    return judge_promise(promise, Evidence(same, 1.0 - same, (same, same)), alpha)


def _values_of(promise: Promise, evidence: Evidence) -> SampleFigures | None:
    """What the figure is the mean of, one value a sample."""
    if promise.name == AGREEMENT:
        return evidence.agreement
    if promise.name == KL:
        return evidence.kl
    if evidence.scores is None:
        return None
    before, after = evidence.scores
    if promise.name != DROP:
        return after
    return after - before if evidence.less else before - after


def _judge_mean(promise: Promise, values: SampleFigures, alpha: float, seed: int) -> Finding:
    estimate, count = float(values.mean()), len(values)
    if not promise.falls and _are_hits(values):
        bound = confidence.bound_rate_below(int(values.sum()), count, alpha)
        needed = confidence.count_for_rate(estimate, promise.limit, alpha)
        return _find(promise, estimate, bound, alpha, count, needed, "Clopper-Pearson")
    sign = 1.0 if promise.falls else -1.0
    bound = sign * confidence.bound_mean_above(sign * values, alpha, seed)
    needed = confidence.count_for_mean(estimate, bound, promise.limit, count)
    return _find(promise, estimate, bound, alpha, count, needed, "bootstrap (BCa)")


def _judge_pairs(
    promise: Promise, before: SampleFigures, after: SampleFigures, alpha: float
) -> Finding:
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
    return Finding(promise.text, keeps(promise, bound), estimate, bound, alpha, count, needed, by)


def _are_hits(values: SampleFigures) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())
