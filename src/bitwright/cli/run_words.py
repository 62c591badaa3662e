"""What `bitwright compare RUN RUN ...` says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitwright.pipeline.compare_runs import RunComparison, RunFigures
from bitwright.report.texts import metric_name, show_metric

_HEADS = (
    "run", "network", "method", "target", "agreement", "divergence", "metric", "weights", "BOPs",
    "file", "verified", "time", "took",
)  # fmt: skip
_SHOWN = 40


def run_lines(found: RunComparison, page: Path | None) -> list[str]:
    """Runs as a person reads them."""
    lines = [*_align(run_cells(found)), "", say_same(found)]
    units = unit_cells(found)
    if units[1:]:
        lines += _align(units[: _SHOWN + 1])
    rest = len(units) - 1 - _SHOWN
    lines += [f"and {rest} units more; --json or --page tells all"] if rest > 0 else []
    lines += [f"note: {note}" for note in found.notes]
    return lines + ([f"wrote {page}"] if page is not None else [])


def say_same(found: RunComparison) -> str:
    """How many units have the same bits, in a sentence."""
    total = found.same + len(found.units)
    return f"{found.same} of {total} units have the same bits in all runs."


def run_cells(found: RunComparison) -> list[Sequence[str]]:
    """A line a run, under headings."""
    return [_HEADS, *(_cells(one) for one in found.runs)]


def _cells(one: RunFigures) -> Sequence[str]:
    metric = "-"
    if one.metric is not None and one.after is not None:
        metric = f"{metric_name(one.metric)} {show_metric(one.metric, one.after, 2)}"
        metric += f" (float {show_metric(one.metric, one.before, 2)})"
    told = {None: "not asked", True: "yes", False: "NO"}[one.verified]
    return (
        one.run, one.model, one.method, one.target, f"{one.agreement:.2%}", f"{one.kl:.3g}",
        metric, f"{one.weight_ratio:.1%} of float", f"{one.bops_ratio:.2%}",
        "-" if one.onnx_bytes is None else f"{one.onnx_bytes / 1e6:.2f} MB", told,
        "-" if one.times is None else f"{one.times:.2f} of float", f"{one.seconds:.0f} s",
    )  # fmt: skip


def unit_cells(found: RunComparison) -> list[Sequence[str]]:
    """A line a unit whose bits differ, under headings."""
    heads = ("unit", "weights", *(one.run for one in found.runs))
    rows = [
        (unit.name, str(unit.params), *("-" if bits is None else bits for bits in unit.bits))
        for unit in found.units
    ]
    return [heads, *rows]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells in columns."""
    wide = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, wide, strict=True)).rstrip()
        for row in rows
    ]
