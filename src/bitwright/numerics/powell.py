"""Powell's method: a minimum without gradients, along directions that become conjugate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Found:
    """The best point, its value, the value at the start, and how many evaluations it took."""

    x: Vector
    value: float
    start: float
    evaluations: int


class _Counted:
    """A function with a purse: after so many evaluations it is asked no more."""

    def __init__(self, function: Callable[[Vector], float], most: int) -> None:
        self.function, self.left, self.done = function, most, 0

    def __call__(self, x: Vector) -> float:
        self.left -= 1
        self.done += 1
        value = float(self.function(x))
        return value if np.isfinite(value) else np.inf


def powell(
    function: Callable[[Vector], float],
    start: Vector,
    directions: list[Vector],
    step: float,
    most: int,
    tolerance: float = 1e-4,
) -> Found:
    """Minimise along each direction in turn; the way of a whole round replaces its best direction.

    Equation: along d, the vertex of the parabola through f(x), f(x + h d) and f(x - h d) (where it
    opens upwards and is not too far), or the best of what was tried; after a round x_0 -> x_n the
    direction of the largest fall gives way to x_n - x_0 where Powell's test says that this helps:
    2 (f_0 - 2 f_n + f_e) (f_0 - f_n - D)^2 < D (f_0 - f_e)^2, f_e = f(2 x_n - x_0), D that fall.
    The value is never above the start's: a point is taken only when it is lower.
    Reference: Powell, The Computer Journal 7 (1964); Press et al., Numerical Recipes, section 10.7;
    as Nahshan et al., arXiv 1911.07190, algorithm 2 uses it.

    Args:
        function: of a vector; what is not a number counts as infinite.
        start: the first point.
        directions: tried in this order; they need not be as many as there are coordinates.
        step: how far along a direction the first look goes; halved when a round finds little.
        most: evaluations at most.
        tolerance: stop when a round lowers the value by less, relatively, at the least step.
    """
    counted = _Counted(function, most)
    x, value = start.copy(), counted(start)
    first, ways, smallest = value, [d.copy() for d in directions], step / 4
    while counted.left > 2 and ways:
        before, origin = value, x.copy()
        largest, place = 0.0, 0
        for index, way in enumerate(ways):
            if counted.left < 2:
                break
            now, there = _line(counted, x, value, way, step)
            if value - there > largest:
                largest, place = value - there, index
            x, value = now, there
        if before - value <= tolerance * abs(before):
            if step <= smallest:
                break
            step /= 2
        elif counted.left > 2:
            x, value = _conjugate(counted, ways, (origin, before), (x, value), largest, place, step)
    return Found(x, value, first, counted.done)


def _line(
    counted: _Counted, x: Vector, value: float, way: Vector, step: float
) -> tuple[Vector, float]:
    """The lowest of three or four looks along a line through x."""
    looks = [(0.0, value)]
    for place in (step, -step):
        if counted.left > 0:
            looks.append((place, counted(x + place * way)))
    if len(looks) == 3 and counted.left > 0:
        vertex = _vertex(value, looks[1][1], looks[2][1], step)
        if vertex is not None:
            looks.append((vertex, counted(x + vertex * way)))
    place, best = min(looks, key=lambda look: look[1])
    return (x + place * way, best) if best < value else (x, value)


def _vertex(here: float, ahead: float, behind: float, step: float) -> float | None:
    """Where a parabola through three values is least, at most two steps away."""
    curve = ahead - 2 * here + behind
    if not np.isfinite(curve) or curve <= 0:
        # Downhill all the way: look twice as far on the lower side.
        return 2 * step * (1 if ahead < behind else -1) if min(ahead, behind) < here else None
    place = 0.5 * step * (behind - ahead) / curve
    return float(np.clip(place, -2 * step, 2 * step)) if abs(place) > 0.05 * step else None


def _conjugate(
    counted: _Counted,
    ways: list[Vector],
    origin: tuple[Vector, float],
    reached: tuple[Vector, float],
    largest: float,
    place: int,
    step: float,
) -> tuple[Vector, float]:
    """Replace the direction of the largest fall by the way of the whole round, if that helps."""
    (x0, f0), (x, value) = origin, reached
    way = x - x0
    beyond = counted(x + way)
    if beyond < f0:
        left = 2 * (f0 - 2 * value + beyond) * (f0 - value - largest) ** 2
        if left < largest * (f0 - beyond) ** 2 and counted.left > 1:
            longest = float(np.abs(way).max())
            ways[place] = way / longest
            x, value = _line(counted, x, value, ways[place], step)
    return (x0 + 2 * way, beyond) if beyond < value else (x, value)


def parabola_minimum(points: list[tuple[float, float]]) -> float:
    """Where the parabola that fits (x, y) best is least, within their range.

    Where it opens downwards, the x of the least y. Values that are not finite are left out.
    """
    known = [(x, y) for x, y in points if np.isfinite(y)]
    least = min(known, key=lambda point: point[1])[0]
    if len(known) < 3:
        return least
    xs, ys = (np.array(column) for column in zip(*known, strict=True))
    curve, slope, _ = np.polyfit(xs, ys, 2)
    if curve <= 0:
        return least
    return float(np.clip(-slope / (2 * curve), xs.min(), xs.max()))
