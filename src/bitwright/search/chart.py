"""The frontier as a picture: exact allocation, greedy rules and uniform schemes side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from bitwright.search.frontier import Frontier, Point

_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 24, 78, 56
_INK, _FAINT = "#1a202c", "#e2e8f0"
_STYLES = {
    "exact": "#2b6cb0",
    "greedy-accuracy": "#dd6b20",
    "greedy-compression": "#718096",
    "uniform": "#2f855a",
    "measured": "#9b2c2c",
}
# Losses below this share of the largest are drawn on a straight scale, above on a logarithmic one.
_STRAIGHT = 1e-3
# A curve of more points looks the same and makes a file that browsers are slow to show.
_DRAWN = 1500

Place = Callable[[float], float]


def draw(frontier: Frontier, measured: Sequence[tuple[float, float]] = ()) -> str:
    """The picture as SVG text.

    Args:
        frontier: the curves.
        measured: (cost in the unit of the frontier, loss) of configurations that were evaluated.
    """
    points = [*frontier.points, *(p for curve in frontier.others.values() for p in curve)]
    across = [p.used for p in points] + [cost for cost, _ in measured]
    up = [p.loss for p in points] + [loss for _, loss in measured]
    low, high = min(across), max(across)
    x = _line(low, high, _LEFT, _WIDTH - _RIGHT)
    bend = max(max(map(abs, up)) * _STRAIGHT, 1e-12)
    y = _bent(min(up), max(up), bend)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="system-ui, sans-serif" role="img" '
        f'aria-label="Predicted loss against {escape(frontier.cost.name)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(16, 26, f"Predicted change of the loss against {frontier.cost.name}", size=16),
        *_axes(frontier, (low, high), (min(up), max(up), bend), x, y),
    ]
    for name, curve in frontier.others.items():
        drawn = _thin(curve)
        parts += _dots(drawn, x, y, name) if name == "uniform" else [_path(drawn, x, y, name)]
    parts.append(_path(_thin(frontier.points), x, y, "exact"))
    parts += _knees(frontier.knees, x, y)
    parts += [_dot(x(cost), y(loss), "measured", "measured", 4) for cost, loss in measured]
    parts += _legend([*frontier.others, *(["measured"] if measured else [])])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    every = -(-len(points) // _DRAWN)
    return [p for i, p in enumerate(points) if i % every == 0 or p.knee or i == len(points) - 1]


def _line(low: float, high: float, start: float, stop: float) -> Place:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


def _bent(low: float, high: float, bend: float) -> Place:
    """asinh: straight near 0, logarithmic far from it, on both sides."""
    place = _line(
        math.asinh(low / bend), math.asinh(high / bend), _HEIGHT - _BOTTOM, float(_TOP)
    )  # fmt: skip
    return lambda value: place(math.asinh(value / bend))


def _axes(
    frontier: Frontier,
    across: tuple[float, float],
    up: tuple[float, float, float],
    x: Place,
    y: Place,
) -> list[str]:
    whole = frontier.cost.whole
    floor = _HEIGHT - _BOTTOM
    parts = []
    for i in range(6):
        value = across[0] + (across[1] - across[0]) * i / 5
        shown = f"{value / frontier.cost.shown(whole):.3f}" if whole else f"{value:.4g}"
        parts.append(_rule(x(value), _TOP, x(value), floor))
        parts.append(_text(x(value), floor + 20, shown, anchor="middle"))
    unit = "of float" if whole else frontier.cost.unit
    label = f"{frontier.cost.name} ({unit})" if unit else frontier.cost.name
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, label, anchor="middle"))
    for value in _ticks(*up):
        parts.append(_rule(_LEFT, y(value), _WIDTH - _RIGHT, y(value)))
        parts.append(_text(_LEFT - 8, y(value) + 4, f"{value:g}", anchor="end"))
    return parts


def _ticks(low: float, high: float, bend: float) -> list[float]:
    """0 and powers of ten on either side, from about the bend outwards."""
    start = math.floor(math.log10(bend)) + 1
    stop = math.floor(math.log10(max(abs(low), abs(high), bend)))
    powers = [float(f"1e{e}") for e in range(start, max(start, stop) + 1)]
    every = sorted([-p for p in powers] + [0.0] + powers)
    return [value for value in every if low <= value <= high]


def _path(points: Sequence[Point], x: Place, y: Place, name: str) -> str:
    """A staircase: between two points the cheaper one is what a budget buys."""
    if not points:
        return ""
    commands = [f"M{x(points[0].used):.1f} {y(points[0].loss):.1f}"]
    commands += [f"H{x(p.used):.1f}V{y(p.loss):.1f}" for p in points[1:]]
    width = 2.5 if name == "exact" else 1.5
    return (
        f'<path d="{"".join(commands)}" fill="none" stroke="{_STYLES[name]}" '
        f'stroke-width="{width}"/>'
    )


def _dots(points: Sequence[Point], x: Place, y: Place, name: str) -> list[str]:
    return [_dot(x(p.used), y(p.loss), name, _told(p), 3) for p in points]


def _knees(points: Sequence[Point], x: Place, y: Place) -> list[str]:
    return [_dot(x(p.used), y(p.loss), "exact", f"knee: {_told(p)}", 5) for p in points]


def _told(point: Point) -> str:
    share = f" ({point.share:.4f} of float)" if point.share is not None else ""
    return f"{point.used:g}{share}, loss {point.loss:.4g}"


def _dot(x: float, y: float, name: str, title: str, radius: int) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{_STYLES[name]}">'
        f"<title>{escape(title)}</title></circle>"
    )


def _legend(others: Sequence[str]) -> list[str]:
    parts = []
    x = 16.0
    for name in ("exact", *others):
        parts.append(f'<rect x="{x:g}" y="42" width="12" height="12" fill="{_STYLES[name]}"/>')
        shown = "exact (dots: knees)" if name == "exact" else name
        parts.append(_text(x + 18, 53, shown))
        x += 44 + 6.6 * len(shown)
    return parts


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{_FAINT}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    weight = 600 if size > 12 else 400
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{_INK}">{escape(text)}</text>'
    )
