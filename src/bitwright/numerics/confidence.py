"""One-sided bounds from samples: what can be said of all data with a stated confidence.

`alpha` is the chance that a bound is wrong; 0.05 for a confidence of 95 %. Rates have exact
bounds, differences of paired rates a score bound, and anything else the bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, bootstrap, norm

# Resamples of a bootstrap: the Monte-Carlo error of a 5 % quantile is then 0.3 % of probability.
RESAMPLES = 4999
# Looking for a number of samples ends here: nobody has more.
MOST_SAMPLES = 10_000_000

SampleFigures = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], float]


def bound_rate_below(hits: int, count: int, alpha: float) -> float:
    """A rate that the true one exceeds with confidence 1 - alpha.

    Equation: the alpha-quantile of Beta(hits, count - hits + 1); 0 where nothing hit.
    Reference: Clopper and Pearson, Biometrika 26 (1934), one-sided.
    """
    return float(beta.ppf(alpha, hits, count - hits + 1)) if hits else 0.0


def bound_drop_above(worse: int, better: int, count: int, alpha: float) -> float:
    """A drop of a rate that the true one stays under, from pairs of right and wrong answers.

    With b = `worse` pairs of n (right before, wrong after) and c = `better` ones the bound is the
    largest d at which the score statistic
        z(d) = (b - c - n d) / sqrt(n (2 q + d (1 - d))) stays above the alpha-quantile of N(0, 1),
    where q is the maximum-likelihood share of `better` pairs under a drop of d.
    Reference: Tango, Statistics in Medicine 17 (1998), equation 2.2 and its appendix.
    """
    wanted = float(norm.ppf(alpha))

    def above(drop: float) -> float:
        # The larger root of 2 n q^2 + B q - c d (1 - d) = 0: the share of better pairs.
        linear = -(worse + better) + (2 * count - worse + better) * drop
        constant = -better * drop * (1 - drop)
        root = max(linear * linear - 8 * count * constant, 0.0)
        share = (root**0.5 - linear) / (4 * count)
        variance = count * (2 * share + drop * (1 - drop))
        return float((worse - better - count * drop) / variance**0.5 - wanted)

    low = (worse - better) / count
    if low >= 1.0:
        return 1.0
    return float(brentq(above, low + 1e-12, 1.0 - 1e-12, xtol=1e-10))


def bound_mean_above(values: SampleFigures, alpha: float, seed: int = 0) -> float:
    """A mean that the true one stays under, from one value a sample.

    Equation: the bias-corrected and accelerated bootstrap's upper bound.
    Reference: Efron, JASA 82 (1987), section 3. Equal values have that value as their bound.
    """
    if float(np.ptp(values)) == 0.0:
        return float(values[0])
    found = bootstrap(
        (values,),
        np.mean,
        confidence_level=1 - alpha,
        alternative="less",
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // len(values)),
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.high)


def bound_statistic_below(statistic: Statistic, count: int, alpha: float, seed: int = 0) -> float:
    """A figure that is no mean of samples, such as a correlation: what the true one exceeds.

    Equation: the basic bootstrap, 2 t - t*_(1 - alpha), over resampled places of samples.
    Reference: Davison and Hinkley, Bootstrap Methods (1997), section 5.2.

    Args:
        statistic: the figure of samples at these places, some of them several times.
        count: of the samples.
        alpha: the chance that the bound is wrong.
        seed: of the resampling.
    """
    draw = np.random.default_rng(seed)
    every = np.arange(count)
    resampled = [statistic(draw.integers(0, count, count)) for _ in range(RESAMPLES // 5)]
    return 2 * statistic(every) - float(np.quantile(resampled, 1 - alpha))


def count_for_rate(rate: float, limit: float, alpha: float) -> int | None:
    """How many samples would show a rate above a limit, if so many hit; None if none would.

    Equation: the least n with `bound_rate_below`(floor(rate n), n) >= limit.
    """
    if rate <= limit:
        return None

    def shows(n: int) -> bool:
        return bound_rate_below(int(rate * n + 1e-9), n, alpha) >= limit

    most = 1
    while not shows(most):
        most *= 2
        if most > MOST_SAMPLES:
            return None
    least = most // 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if shows(middle) else (middle, most)
    return most


def count_for_mean(estimate: float, bound: float, limit: float, count: int) -> int | None:
    """How many samples would show a mean under a limit, its spread being what it is.

    Equation: n ((bound - estimate) / (limit - estimate))^2, since a bound's distance shrinks as
    1 / sqrt(n); None where the estimate itself is beyond the limit.
    """
    if (limit - estimate) * (bound - estimate) <= 0.0:
        return None
    return int(np.ceil(count * ((bound - estimate) / (limit - estimate)) ** 2))
