"""Small charts as inline SVG. Colours are CSS classes, so that the page decides light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

FULL_BITS = 8
_COLUMN, _STRIP_HEIGHT = 10, 40
_WIDTH, _HEIGHT, _FLOOR = 320, 120, 4


def bits_class(bits: int | None) -> str:
    """The CSS class of a number of bits; 0 and None stand for float."""
    return f"b{min(max(bits, 1), FULL_BITS)}" if bits else "bf"


def strip(columns: Sequence[tuple[int | None, str]], label: str) -> Markup:
    """One column a unit: colour and height tell its bits; float is a full grey column.

    Args:
        columns: (bits, text shown when pointed at) of every unit.
        label: what the whole strip shows, for readers that see no picture.
    """
    shapes = Markup()
    for index, (bits, text) in enumerate(columns):
        height = _STRIP_HEIGHT * min(bits or FULL_BITS, FULL_BITS) / FULL_BITS
        shapes += Markup(
            '<rect class="{}" x="{}" y="{:g}" width="{}" height="{:g}"><title>{}</title></rect>'
        ).format(
            bits_class(bits),
            _COLUMN * index,
            _STRIP_HEIGHT - height,
            _COLUMN if len(columns) > 150 else _COLUMN - 1,
            height,
            text,
        )
    return Markup(
        '<svg class="strip" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(_COLUMN * max(len(columns), 1), _STRIP_HEIGHT, label, shapes)


def histogram(
    edges: Sequence[float], counts: Sequence[float], ends: Sequence[float], label: str
) -> Markup | None:
    """A histogram with the quantised range shaded; heights are square roots of the counts.

    Returns:
        None where the numbers make no histogram.
    """
    if not drawable(edges, counts, ends):
        return None
    left, right = min(edges[0], *ends), max(edges[-1], *ends)
    peak = math.sqrt(max(counts))

    def place(value: float) -> float:
        return _WIDTH * (value - left) / (right - left)

    bars = Markup()
    for (start, stop), count in zip(pairwise(edges), counts, strict=True):
        height = (_HEIGHT - _FLOOR) * math.sqrt(count) / peak
        inside = ends[0] <= (start + stop) / 2 <= ends[1]
        bars += Markup(
            '<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>'
        ).format(
            "bar" if inside else "bar outside",
            place(start),
            _HEIGHT - height,
            max(place(stop) - place(start) - 0.5, 0.5),
            height,
        )
    low, high = place(ends[0]), place(ends[1])
    return Markup(
        '<svg class="histogram" viewBox="0 0 {w} {h}" preserveAspectRatio="none" role="img" '
        'aria-label="{label}"><rect class="range" x="{low:.2f}" y="0" width="{wide:.2f}" '
        'height="{h}"/>{bars}<path class="end" d="M{low:.2f} 0V{h}M{high:.2f} 0V{h}"/></svg>'
    ).format(w=_WIDTH, h=_HEIGHT, label=label, low=low, high=high, wide=high - low, bars=bars)


def outside(edges: Sequence[float], counts: Sequence[float], ends: Sequence[float]) -> float:
    """The fraction of values outside the range, as if values spread evenly within each bin."""
    kept = 0.0
    for (start, stop), count in zip(pairwise(edges), counts, strict=True):
        shared = min(stop, ends[1]) - max(start, ends[0])
        kept += count * min(max(shared / (stop - start), 0.0), 1.0)
    return 1 - kept / sum(counts)


def drawable(edges: Sequence[float], counts: Sequence[float], ends: Sequence[float]) -> bool:
    """Whether the numbers make a histogram: rising edges, one more than counts, all finite."""
    if len(ends) != 2 or not counts or len(edges) != len(counts) + 1:
        return False
    if not all(math.isfinite(value) for value in (*edges, *counts, *ends)):
        return False
    rising = all(start < stop for start, stop in pairwise(edges))
    return rising and ends[0] <= ends[1] and min(counts) >= 0 and max(counts) > 0
