"""Lines and bars of the study as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 70, 210, 50, 60
INK, FAINT = "#1a202c", "#e2e8f0"
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#4a5568", "#d69e2e", "#0987a0")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Picture:
    """Titles of a picture; `names` are shown at the places along x where they are given."""

    title: str
    across: str
    up: str
    names: Mapping[float, str] | None = None


def lines(picture: Picture, series: Mapping[str, Points]) -> str:
    """One line with dots for each series."""
    xs = [x for points in series.values() for x, _ in points] or [0.0, 1.0]
    ys = [y for points in series.values() for _, y in points] or [0.0, 1.0]
    x, y = _place(xs, LEFT, WIDTH - RIGHT), _place(ys, HEIGHT - BOTTOM, TOP)
    ticks = picture.names or {v: f"{v:.4g}" for v in _even(xs)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12" role="img" '
        f'aria-label="{escape(picture.title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(16, 26, picture.title, size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, picture.across, "middle"),
        _text(16, TOP - 10, picture.up),
    ]
    for value, name in ticks.items():
        parts.append(_rule(x(value), TOP, x(value), HEIGHT - BOTTOM))
        parts.append(_text(x(value), HEIGHT - BOTTOM + 18, name, "middle"))
    for value in _even(ys):
        parts.append(_rule(LEFT, y(value), WIDTH - RIGHT, y(value)))
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:.4g}", "end"))
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(name)}: {a:.4g}, {b:.4g}</title></circle>"
            for a, b in points
        ]
        place = TOP + 8 + 20 * index
        parts.append(
            f'<rect x="{WIDTH - RIGHT + 16}" y="{place}" width="14" height="4" fill="{colour}"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 36, place + 6, name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _place(values: Sequence[float], start: float, stop: float):  # type: ignore[no-untyped-def]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


def _even(values: Sequence[float], count: int = 5) -> list[float]:
    low, high = min(values), max(values)
    return [low + (high - low) * i / (count - 1) for i in range(count)]


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{FAINT}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">'
        f"{escape(text)}</text>"
    )
