"""Marks of a chart: lines, dots and words as SVG text."""

from __future__ import annotations

import math
from collections.abc import Callable
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 860, 90, 24
INK, FAINT = "#1a202c", "#e2e8f0"
STYLES = {
    "exact": "#2b6cb0",
    "ip": "#2b6cb0",
    "greedy-accuracy": "#dd6b20",
    "greedy-compression": "#718096",
    "uniform": "#2f855a",
    "one point": "#805ad5",
    "measured": "#9b2c2c",
}
MarkPlace = Callable[[float], float]


def line(low: float, high: float, start: float, stop: float) -> MarkPlace:
    """A straight scale."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two, about so many.

    >>> ticks(0.0, 1.0)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = min((size * f for f in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    """A faint line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{FAINT}"/>'


def dot(x: float, y: float, name: str, title: str, radius: int) -> str:
    """A disc in the colour of a method."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{STYLES[name]}">'
        f"<title>{escape(title)}</title></circle>"
    )


def ring(x: float, y: float, name: str, title: str) -> str:
    """What was measured, in the colour of a method."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="white" stroke-width="2.5" '
        f'stroke="{STYLES[name]}"><title>{escape(title)}</title></circle>'
    )


def words(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    """A line of text."""
    weight = 600 if size > 12 else 400
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{INK}">{escape(text)}</text>'
    )
