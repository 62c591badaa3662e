"""What a person reads at the end of a run, in a terminal, a notebook or from Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.export import report_text as text
from bitwright.export.rates import about_few, counted

_WIDTH = 12


def comparison(outcome: Mapping[str, Any]) -> list[str]:
    """Float against quantised, sizes, verification, and where the report is."""
    lines: list[str] = []
    metrics = outcome.get("metrics")
    if metrics:
        lines += accuracy_lines(metrics)
        lines += _sizes(metrics.get("size", {}))
    if outcome.get("lossless"):
        lines.append(_line("lossless", outcome["lossless"]["told"]))
    if outcome.get("verify"):
        lines += _verification(outcome["verify"])
    if any(" % [" in line for line in lines):
        lines.append(_line("", text.LEGEND))
    if outcome.get("out"):
        lines += ["", f"report:  {outcome['out']}/report.html"]
    return lines


def accuracy_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Float against quantised with the intervals of rates, and how far the answers agree."""
    samples = metrics["samples"]
    rows = [
        (
            text.metric_name(name),
            text.with_interval(name, value, samples),
            text.with_interval(name, metrics["quantized"].get(name), samples),
            text.shown_difference(name, value, metrics["quantized"].get(name)),
        )
        for name, value in metrics.get("float", {}).items()
    ]
    lines = [""]
    if rows:
        rows.insert(0, ("", "float", "quantised", ""))
        widths = [max(len(row[i]) for row in rows) + 3 for i in (1, 2)]
        lines += [
            _line(name, f"{before:<{widths[0]}}{after:<{widths[1]}}{difference}")
            for name, before, after, difference in rows
        ]
    agreement, vectors = metrics["agreement"], metrics.get("answers") == "embedding"
    shown = text.percent(agreement, 2) + " mean cosine" if vectors else (
        text.with_interval("agreement", agreement, samples)
    )  # fmt: skip
    on = metrics.get("evaluated_on", "the data given")
    told = f"{shown} of {counted(samples, 'sample')} ({on}), KL {metrics['kl']:.2g}"
    lines.append(_line("agreement", told))
    few = about_few(agreement, samples, metrics.get("answers", ""))
    if few:
        lines.append(_line("", f"warning: {few} Give more by --eval DATA."))
    return lines


def _line(name: str, told: str) -> str:
    return f"{name:<{_WIDTH}}{told}".rstrip()


def _sizes(size: Mapping[str, Any]) -> list[str]:
    if not size.get("file_bytes"):
        return []
    whole = size["float_bytes"]
    parts = [f"{text.shown_bytes(whole)} float"] + [
        f"{name} {text.shown_bytes(size[key])} ({size[key] / whole:.3f})"
        for name, key in (("model.safetensors", "file_bytes"), ("model.onnx", "onnx_bytes"))
        if size.get(key)
    ]
    return [_line("size", ", ".join(parts))]


def _verification(found: Mapping[str, Any]) -> list[str]:
    units, samples = found.get("units", {}), found["samples"]
    good = sum(1 for v in units.values() if text.agrees(v, found))
    state = "verified in ONNX Runtime" if found["passed"] else "NOT VERIFIED in ONNX Runtime"
    agree, optimised = (
        text.with_interval("agreement", part["agreement"], samples)
        for part in (found, found["optimized"])
    )
    lines = [
        _line(
            "verify",
            f"{state}: {good} of {counted(len(units), 'unit')} agree to "
            f"{found['tolerance']:g}; end to end {agree} of {counted(samples, 'answer')} "
            f"agree, {optimised} with optimisations",
        )
    ]
    if found["optimized"].get("note"):
        lines.append(_line("", f"note: {found['optimized']['note']}"))
    if found.get("first_failure"):
        name = found["first_failure"]
        by = text.number(units.get(name))
        shown = "not a finite number" if by is None else f"{by:.2g}"
        lines.append(_line("", f"first unit out of tolerance: {name} ({shown})"))
    return lines
