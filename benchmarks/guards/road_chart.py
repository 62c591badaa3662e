"""docs/measured/road.svg: float and quantised top-1 side by side, written by hand as SVG."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP = 860, 250, 190, 64
BAR, GAP = 13, 16
FLOAT, QUANTISED, INK, FAINT = "#b8c0cc", "#2b6cb0", "#1a202c", "#e2e8f0"


def chart(rows: list[dict[str, Any]]) -> str:
    """One pair of bars a run: float above, quantised below."""
    height = TOP + len(rows) * (2 * BAR + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13" role="img" '
        'aria-label="Top-1 of float and quantised networks">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(16, 26, "Top-1 on held-out images, float and quantised", size=16, weight="600"),
        f'<rect x="16" y="40" width="12" height="12" fill="{FLOAT}"/>',
        _text(34, 51, "float"),
        f'<rect x="86" y="40" width="12" height="12" fill="{QUANTISED}"/>',
        _text(104, 51, "quantised by nearest rounding"),
        *_axis(height),
    ]
    for index, row in enumerate(rows):
        parts += _pair(row, TOP + GAP / 2 + index * (2 * BAR + GAP))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _axis(height: int) -> list[str]:
    found = []
    for percent in range(0, 101, 20):
        x = _x(percent / 100)
        found.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{height - 34}" stroke="{FAINT}"/>')
        found.append(_text(x, height - 18, f"{percent} %", anchor="middle"))
    return found


def _pair(row: dict[str, Any], y: float) -> list[str]:
    label = f"{row['network']}, {row['scheme']}, {row['target']}"
    return [
        _text(LEFT - 10, y + BAR + 5, label, anchor="end"),
        _bar(row["float_top1"], y, FLOAT),
        _bar(row["top1"], y + BAR, QUANTISED),
        _text(_x(row["float_top1"]) + 6, y + BAR - 2, f"{row['float_top1']:.1%}"),
        _text(
            _x(row["top1"]) + 6,
            y + 2 * BAR - 1,
            f"{row['top1']:.1%}, {row['agreement']:.1%} the same answers",
        ),
    ]


def _bar(share: float, y: float, fill: str) -> str:
    return (
        f'<rect x="{LEFT}" y="{y}" width="{max(_x(share) - LEFT, 1):.1f}" height="{BAR}" '
        f'fill="{fill}"/>'
    )


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{INK}">{escape(text)}</text>'
    )
