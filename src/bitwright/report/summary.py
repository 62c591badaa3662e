"""What a person reads at the end of a run, in a terminal, a notebook or from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from bitwright.report import texts as text
from bitwright.report.rates import about_few, say_count
from bitwright.report.speed_words import describe_latency, describe_speed, speed_advice
from bitwright.report.sums_words import describe_sums
from bitwright.report.warnings import list_warnings

_WIDTH = 12


def comparison(outcome: Mapping[str, Any]) -> list[str]:
    """Float against quantised, sizes, verification, and where the report is."""
    lines: list[str] = []
    metrics = outcome.get("metrics")
    if metrics:
        lines += accuracy_lines(metrics)
        lines += _sizes(metrics.get("size", {}))
        lines += _latency(metrics.get("latency"))
    if outcome.get("lossless"):
        lines.append(_line("lossless", outcome["lossless"]["told"]))
    if outcome.get("verify"):
        lines += _verification(outcome["verify"])
        lines += _speed(outcome["verify"], str(outcome.get("target") or ""))
    if any(" % [" in line for line in lines):
        lines.append(_line("", text.LEGEND))
    lines += [f"warning: {told}" for told in list_warnings(metrics or {})]
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
            text.show_difference(name, value, metrics["quantized"].get(name)),
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
    told = f"{shown} of {say_count(samples, 'sample')} ({on}), KL {metrics['kl']:.2g}"
    lines.append(_line("agreement", told))
    few = about_few(agreement, samples, metrics.get("answers", ""))
    if few:
        lines.append(_line("", f"warning: {few} Give more by --eval DATA."))
    return lines


def accuracy_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of (name, float, quantised, difference)."""
    before, after = (text.read_mapping(metrics.get(key)) for key in ("float", "quantized"))
    samples = metrics.get("samples")
    found = [
        (
            text.metric_name(key),
            text.with_interval(key, before.get(key), samples),
            text.with_interval(key, after.get(key), samples),
            text.show_difference(key, before.get(key), after.get(key)),
        )
        for key in dict.fromkeys((*before, *after))
    ]
    vectors = metrics.get("answers") == "embedding"
    for key, name in (
        ("agreement", "mean cosine with float" if vectors else "same answer as float"),
        ("kl", "KL divergence from float"),
        ("relative_noise", "relative noise of the output"),
    ):
        if text.number(metrics.get(key)) is not None:
            shown = text.with_interval(key, metrics[key], None if vectors else samples)
            found.append((name, "", shown, ""))
    return found


def short(title: str, metrics: Mapping[str, Any]) -> str:
    """A run in one line."""
    agreement, samples = (text.number(metrics.get(key)) for key in ("agreement", "samples"))
    parts = [title]
    if agreement is not None and samples is not None:
        parts.append(f"agreement {text.percent(agreement)} of {say_count(samples, 'sample')}")
    ratio = text.number(text.read_mapping(metrics.get("size")).get("weight_ratio"))
    if ratio is not None:
        parts.append(f"weights {ratio:.3f} of float")
    return f"<bitwright Result {', '.join(parts)}>"


def as_html(title: str, metrics: Mapping[str, Any], notes: Sequence[str]) -> str:
    """A run as a small table for notebooks; everything given is escaped."""
    cells = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)
        )
        for row in accuracy_rows(metrics)
    )
    sizes = (" ".join(line.split()) for line in _sizes(metrics.get("size", {})))
    below = [*sizes, *(f"note: {note}" for note in notes)]
    return str(
        Markup(
            "<p><b>{}</b></p><table><thead><tr><th></th><th>float</th><th>quantised</th>"
            "<th>difference</th></tr></thead><tbody>{}</tbody></table>{}"
        ).format(
            title,
            cells,
            Markup("").join(Markup("<p>{}</p>").format(line) for line in (_on(metrics), *below)),
        )
    )


def _on(metrics: Mapping[str, Any]) -> str:
    samples = text.number(metrics.get("samples")) or 0
    few = about_few(text.number(metrics.get("agreement")), samples, metrics.get("answers", ""))
    where = f"{say_count(samples, 'sample')} of the {metrics.get('evaluated_on', 'data given')}"
    return f"On {where}; {text.LEGEND}." + (f" Warning: {few}" if few else "")


def _line(name: str, told: str) -> str:
    return f"{name:<{_WIDTH}}{told}".rstrip()


def _sizes(size: Mapping[str, Any]) -> list[str]:
    whole = size.get("float_bytes")
    if not whole:
        return []
    files = {"model.safetensors": "file_bytes", "model.onnx": "onnx_bytes"}
    # Before anything is written, the weights are all that is known.
    files = files if size.get("file_bytes") else {"quantised weights": "weight_bytes"}
    parts = [f"{text.show_bytes(whole)} float"] + [
        f"{name} {text.show_bytes(size[key])} ({size[key] / whole:.3f})"
        for name, key in files.items()
        if size.get(key)
    ]
    return [_line("size", ", ".join(parts))]


def _latency(found: Mapping[str, Any] | None) -> list[str]:
    """A budget of latency: what was predicted, what was measured, and whether it is held."""
    told = describe_latency(found)
    return [_line("latency", told)] if told else []


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
            f"{state}: {good} of {say_count(len(units), 'unit')} agree to "
            f"{found['tolerance']:g}; end to end {agree} of {say_count(samples, 'answer')} "
            f"agree, {optimised} with optimisations",
        )
    ]
    if text.read_mapping(found.get("portable")).get("asked"):
        lines.append(_line("", f"sums: {describe_sums(found)}"))
    if found["optimized"].get("note"):
        lines.append(_line("", f"note: {found['optimized']['note']}"))
    if found.get("first_failure"):
        name = found["first_failure"]
        by = text.number(units.get(name))
        shown = "not a finite number" if by is None else f"{by:.2g}"
        lines.append(_line("", f"first unit out of tolerance: {name} ({shown})"))
    return lines


def _speed(found: Mapping[str, Any], target: str) -> list[str]:
    """The file's time beside float's; what to do where it is slower."""
    told, ratio = describe_speed(found), text.slowdown(found)
    if not told or ratio is None:
        return []
    lines = [_line("speed", told)]
    if ratio > text.SLOWER:
        lines.append(_line("", "note: " + " ".join(speed_advice(target)).strip()))
    return lines
