"""Bits for each channel of a tensor, so that together they cost what one width for all would."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from bitwright.errors import RecipeError, unknown

QUOTAS = ("bits", "levels")
# What stands for a range of zero, relative to the least that is not: such a channel comes last.
_NOTHING = 1e-6


def ideal_bits(ranges: Sequence[float], average: int) -> tuple[float, ...]:
    """The real-valued bits of least error for as many levels in all as `average` bits each give.

    Equation: bits_i = log2(a_i^(2/3) n 2^B / sum_j a_j^(2/3)): where d/d bits_i of
    sum a_i^2 / (3 4^bits_i) + lambda sum 2^bits_i is zero.
    Reference: Banner et al., arXiv 1810.05723, section 3 (equation 11).
    """
    shares = [a ** (2.0 / 3.0) for a in _positive(ranges)]
    total = sum(shares)
    return tuple(math.log2(share * len(shares) / total) + average for share in shares)


def channel_error(a: float, bits: int) -> float:
    """The mean squared rounding error of a channel of half-range a: s^2 / 12, s = 2a / (2^b - 1).

    Equation: a^2 / (3 (2^bits - 1)^2); the paper has 2^bits steps where a grid has 2^bits - 1.
    Reference: Banner et al., arXiv 1810.05723, section 3.
    """
    return a * a / (3.0 * ((1 << bits) - 1) ** 2)


def allocate_bits(
    ranges: Sequence[float],
    average: int,
    least: int = 2,
    most: int = 8,
    quota: str = "bits",
    step: int = 1,
) -> tuple[int, ...]:
    """Whole bits of least total `channel_error` under an exact quota.

    Equation: min sum_i channel_error(a_i, bits_i) s.t. least <= bits_i <= most and
    sum bits_i = n B (`quota` "bits": what a file holds) or sum 2^bits_i = n 2^B ("levels": the
    paper's). Both are solved exactly: gains of further bits fall, so that taking the greatest gain
    first is optimal for equal prices; for prices 2^bits the coins are merged in packages.
    Reference: Banner et al., arXiv 1810.05723, section 3; Larmore and Hirschberg 1990, "A fast
    algorithm for optimal length-limited Huffman codes" (packages).

    Args:
        ranges: the half-range of each channel.
        average: bits of each channel if all had the same.
        least, most: bounds of a channel's bits.
        quota: what must come out the same.
        step: bits come so many at a time, as those of whole points do; with the quota "bits".

    Raises:
        RecipeError: an average outside the bounds, or an unknown quota.
    """
    if quota not in QUOTAS:
        raise RecipeError(unknown("quota", quota, QUOTAS, "the bits of channels"))
    if not least <= average <= most:
        raise RecipeError(
            f"{average} bits on average in the bits of channels: with {least} to {most} bits a "
            "channel that is out of reach."
        )
    if any((bits - least) % step for bits in (average, most)) or (step > 1 and quota != "bits"):
        raise RecipeError(
            f"steps of {step} bits in the bits of channels: {least}, {average} and {most} bits and "
            f"the quota {quota!r} do not go with them."
        )
    known = _positive(ranges)
    if quota == "bits":
        return _by_greatest_gain(known, average, (least, most), step)
    return _by_packages(known, average, least, most)


def _positive(ranges: Sequence[float]) -> list[float]:
    """Half-ranges above zero, scaled to the greatest."""
    top = max(ranges, default=0.0)
    floor = _NOTHING * min((a for a in ranges if a > 0.0), default=1.0)
    return [max(a, floor) / top if top > 0.0 else 1.0 for a in ranges]


def _gain(a: float, bits: int, step: int = 1) -> float:
    """What one bit more, or so many, is worth."""
    return channel_error(a, bits) - channel_error(a, bits + step)


def _by_greatest_gain(
    ranges: list[float], average: int, bounds: tuple[int, int], step: int
) -> tuple[int, ...]:
    least, most = bounds
    bits = [least] * len(ranges)
    waiting = [(-_gain(a, least, step), i) for i, a in enumerate(ranges)]
    heapq.heapify(waiting)
    for _ in range(len(ranges) * (average - least) // step):
        _, i = heapq.heappop(waiting)
        bits[i] += step
        if bits[i] < most:
            heapq.heappush(waiting, (-_gain(ranges[i], bits[i], step), i))
    return tuple(bits)


def _by_packages(ranges: list[float], average: int, least: int, most: int) -> tuple[int, ...]:
    """The coin collector's problem: one more bit at k bits is a coin of 2^k, worth its gain."""
    owed = len(ranges) * ((1 << average) - (1 << least))
    bits = [least] * len(ranges)
    packages: list[tuple[float, tuple[int, ...]]] = []
    width = least
    while owed >> width:
        coins = [(_gain(a, width), (i,)) for i, a in enumerate(ranges)] if width < most else []
        line = sorted([*coins, *packages], key=lambda coin: (-coin[0], coin[1]))
        if owed >> width & 1:
            # Only one more coin of this width makes the rest a multiple of the next one.
            for i in line.pop(0)[1]:
                bits[i] += 1
        pairs = zip(line[::2], line[1::2], strict=False)
        packages = [(a + b, (*one, *two)) for (a, one), (b, two) in pairs]
        width += 1
    return tuple(bits)
