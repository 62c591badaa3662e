"""Panels below a frontier: what the prediction left out, and the figures on evaluation data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bitwright.allocation.ran import Ran
from bitwright.report.chart_marks import (
    LEFT,
    RIGHT,
    WIDTH,
    MarkPlace,
    line,
    ring,
    rule,
    ticks,
    words,
)

PANEL, GAP = 150, 56
Value = Callable[[Ran], float]


def panels(ran: Sequence[Ran], x: MarkPlace, top: float) -> tuple[list[str], float]:
    """The panels of what was run, and where they end.

    Args:
        ran: configurations.
        x: the scale of the cost, that of the picture above.
        top: where the first panel begins.
    """
    if not ran:
        return [], top
    shown: list[tuple[str, Value]] = [
        ("Error of the additive prediction: measured change of the loss less predicted", _error)
    ]
    shown += [(f"{name} on the evaluation data", _figure(name)) for name in _figures(ran)]
    parts: list[str] = []
    for title, value in shown:
        parts += _panel(title, ran, value, x, top + GAP)
        top += PANEL + GAP
    return parts, top


def _error(one: Ran) -> float:
    return one.error


def _figure(name: str) -> Value:
    return lambda one: one.evaluated[name]


def _figures(ran: Sequence[Ran]) -> list[str]:
    """Every figure but the divergence, whose picture is that of the loss, and those of float."""
    names = dict.fromkeys(name for one in ran for name in one.evaluated)
    return [n for n in names if n != "kl" and not n.endswith(" of float")]


def _panel(title: str, ran: Sequence[Ran], value: Value, x: MarkPlace, top: float) -> list[str]:
    values = [value(one) for one in ran]
    low, high = min(values), max(values)
    if value is _error:  # no error at all is what one looks for
        low, high = min(low, 0.0), max(high, 0.0)
    room = 0.08 * (high - low or abs(high) or 1.0)
    low, high = low - room, high + room
    y = line(low, high, top + PANEL, top)
    parts = [words(16, top - 12, title, size=13)]
    for tick in ticks(low, high):
        parts.append(rule(LEFT, y(tick), WIDTH - RIGHT, y(tick)))
        parts.append(words(LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end"))
    for one, at in zip(ran, values, strict=True):
        told = f"{one.method} at {one.used:g}: {at:.4g}"
        parts.append(ring(x(one.used), y(at), one.method, told))
    return parts
