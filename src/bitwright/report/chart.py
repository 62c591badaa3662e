"""The frontier as a picture: exact allocation, greedy rules and uniform schemes side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from bitwright.allocation.frontier import Frontier, Point
from bitwright.allocation.ran import Ran
from bitwright.report.chart_marks import (
    LEFT,
    RIGHT,
    STYLES,
    WIDTH,
    MarkPlace,
    dot,
    line,
    ring,
    rule,
    words,
)
from bitwright.report.chart_panels import panels

_HEIGHT, _TOP, _BOTTOM = 520, 78, 56
# Losses below this share of the largest are drawn on a straight scale, above on a logarithmic one.
_STRAIGHT = 1e-3
# A curve of more points looks the same and makes a file that browsers are slow to show.
_DRAWN = 1500


def draw(frontier: Frontier, ran: Sequence[Ran] = ()) -> str:
    """The picture as SVG text.

    Args:
        frontier: the curves.
        ran: configurations that were run: rings beside their predictions, and panels of what the
            prediction left out and of the figures on the evaluation data.
    """
    points = [*frontier.points, *(p for curve in frontier.others.values() for p in curve)]
    across = [p.used for p in points] + [one.used for one in ran]
    up = [p.loss for p in points] + [one.measured for one in ran]
    low, high = min(across), max(across)
    x = line(low, high, LEFT, WIDTH - RIGHT)
    bend = max(max(map(abs, up)) * _STRAIGHT, 1e-12)
    y = _bend(min(up), max(up), bend)
    below, height = panels(ran, x, _HEIGHT)
    whole = int(height) + (16 if ran else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole}" '
        f'width="{WIDTH}" height="{whole}" font-family="system-ui, sans-serif" role="img" '
        f'aria-label="Loss against {escape(frontier.cost.name)}">',
        f'<rect width="{WIDTH}" height="{whole}" fill="white"/>',
        words(16, 26, f"Predicted change of the loss against {frontier.cost.name}", size=16),
        *_axes(frontier, (low, high), (min(up), max(up), bend), x, y),
    ]
    for name, curve in frontier.others.items():
        drawn = _thin(curve)
        parts += _dots(drawn, x, y, name) if name == "uniform" else [_path(drawn, x, y, name)]
    parts.append(_path(_thin(frontier.points), x, y, "exact"))
    parts += _knees(frontier.knees, x, y)
    parts += [ring(x(one.used), y(one.measured), one.method, _of(one)) for one in ran]
    parts += _legend([*frontier.others], bool(ran))
    return "\n".join([*parts, *below, "</svg>"]) + "\n"


def _of(one: Ran) -> str:
    figures = "".join(f", {name} {value:.4g}" for name, value in one.evaluated.items())
    return f"{one.method} measured: {one.measured:.4g}, predicted {one.predicted:.4g}{figures}"


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    every = -(-len(points) // _DRAWN)
    return [p for i, p in enumerate(points) if i % every == 0 or p.knee or i == len(points) - 1]


def _bend(low: float, high: float, bend: float) -> MarkPlace:
    """asinh: straight near 0, logarithmic far from it, on both sides."""
    place = line(
        math.asinh(low / bend), math.asinh(high / bend), _HEIGHT - _BOTTOM, float(_TOP)
    )  # fmt: skip
    return lambda value: place(math.asinh(value / bend))


def _axes(
    frontier: Frontier,
    across: tuple[float, float],
    up: tuple[float, float, float],
    x: MarkPlace,
    y: MarkPlace,
) -> list[str]:
    whole = frontier.cost.whole
    floor = _HEIGHT - _BOTTOM
    parts = []
    for i in range(6):
        value = across[0] + (across[1] - across[0]) * i / 5
        shown = f"{value / frontier.cost.shown(whole):.3f}" if whole else f"{value:.4g}"
        parts.append(rule(x(value), _TOP, x(value), floor))
        parts.append(words(x(value), floor + 20, shown, anchor="middle"))
    unit = "of float" if whole else frontier.cost.unit
    label = f"{frontier.cost.name} ({unit})" if unit else frontier.cost.name
    parts.append(words((LEFT + WIDTH - RIGHT) / 2, _HEIGHT - 12, label, anchor="middle"))
    for value in _ticks(*up):
        parts.append(rule(LEFT, y(value), WIDTH - RIGHT, y(value)))
        parts.append(words(LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
    return parts


def _ticks(low: float, high: float, bend: float) -> list[float]:
    """0 and powers of ten on either side, from about the bend outwards."""
    start = math.floor(math.log10(bend)) + 1
    stop = math.floor(math.log10(max(abs(low), abs(high), bend)))
    powers = [float(f"1e{e}") for e in range(start, max(start, stop) + 1)]
    every = sorted([-p for p in powers] + [0.0] + powers)
    return [value for value in every if low <= value <= high]


def _path(points: Sequence[Point], x: MarkPlace, y: MarkPlace, name: str) -> str:
    """A staircase: between two points the cheaper one is what a budget buys."""
    if not points:
        return ""
    commands = [f"M{x(points[0].used):.1f} {y(points[0].loss):.1f}"]
    commands += [f"H{x(p.used):.1f}V{y(p.loss):.1f}" for p in points[1:]]
    width = 2.5 if name == "exact" else 1.5
    return (
        f'<path d="{"".join(commands)}" fill="none" stroke="{STYLES[name]}" '
        f'stroke-width="{width}"/>'
    )


def _dots(points: Sequence[Point], x: MarkPlace, y: MarkPlace, name: str) -> list[str]:
    return [dot(x(p.used), y(p.loss), name, _describe(p), 3) for p in points]


def _knees(points: Sequence[Point], x: MarkPlace, y: MarkPlace) -> list[str]:
    return [dot(x(p.used), y(p.loss), "exact", f"knee: {_describe(p)}", 5) for p in points]


def _describe(point: Point) -> str:
    share = f" ({point.share:.4f} of float)" if point.share is not None else ""
    return f"{point.used:g}{share}, loss {point.loss:.4g}"


def _legend(others: Sequence[str], measured: bool) -> list[str]:
    parts = []
    x = 16.0
    for name in ("exact", *others):
        parts.append(f'<rect x="{x:g}" y="42" width="12" height="12" fill="{STYLES[name]}"/>')
        shown = "exact (dots: knees)" if name == "exact" else name
        parts.append(words(x + 18, 53, shown))
        x += 44 + 6.6 * len(shown)
    if measured:
        parts.append(ring(x + 6, 48, "measured", "measured"))
        parts.append(words(x + 18, 53, "rings: measured"))
    return parts
