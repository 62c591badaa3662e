"""What a person reads at the end of a run, in a terminal, a notebook or from Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from bitwright.allocation.chosen import LosslessSearch
from bitwright.allocation.timed import LatencyCheck
from bitwright.engine.note import Note
from bitwright.evaluation.figures import Comparison, Figures, Metrics, Sizes
from bitwright.export.verified import Verification
from bitwright.report import texts as text
from bitwright.report.promise_words import promise_lines, word_rejection
from bitwright.report.rates import about_few, say_count
from bitwright.report.speed_words import describe_latency, describe_speed, say_study, speed_advice
from bitwright.report.sums_words import describe_sums
from bitwright.report.warnings import note_lines

_WIDTH = 12
# As many broken rules of a target are named; verify.json has all of them.
_BREACHES = 3


def comparison(
    metrics: Comparison | None,
    size: Sizes | None = None,
    warnings: Iterable[Note] = (),
    *,
    lossless: LosslessSearch | None = None,
    verified: Verification | None = None,
    target: str = "",
    out: str = "",
) -> list[str]:
    """Float against quantised, sizes, verification, and where the report is: what is known."""
    lines: list[str] = []
    lines += say_study(target)
    if metrics is not None:
        lines += accuracy_lines(metrics)
    if size is not None:
        lines += _sizes(size)
    if isinstance(metrics, Figures):
        lines += _latency(metrics.latency)
        told = promise_lines(metrics.promise) if metrics.promise else []
        lines += [_line("" if place else "promise", line) for place, line in enumerate(told)]
    if lossless is not None:
        lines.append(_line("lossless", lossless.told or ""))
    if verified is not None:
        lines += [*_verification(verified), *_speed(verified, target)]
    if any(" % [" in line for line in lines):
        lines.append(_line("", text.LEGEND))
    lines += [f"warning: {told}" for told in note_lines(warnings)]
    if out:
        lines += ["", f"report:  {out}/report.html"]
    return lines


def accuracy_lines(metrics: Comparison) -> list[str]:
    """Float against quantised with the intervals of rates, and how far the answers agree."""
    samples = metrics.samples
    rows = [
        (
            text.metric_name(name),
            text.with_interval(name, value, samples),
            text.with_interval(name, metrics.after.get(name), samples),
            text.show_difference(name, value, metrics.after.get(name)),
        )
        for name, value in metrics.before.items()
    ]
    lines = [""]
    if rows:
        rows.insert(0, ("", "float", "quantised", ""))
        widths = [max(len(row[i]) for row in rows) + 3 for i in (1, 2)]
        lines += [
            _line(name, f"{before:<{widths[0]}}{after:<{widths[1]}}{difference}")
            for name, before, after, difference in rows
        ]
    agreement = metrics.agreement
    shown = text.percent(agreement, 2) + " mean cosine" if metrics.has_vectors else (
        text.with_interval("agreement", agreement, samples)
    )  # fmt: skip
    on = metrics.evaluated_on or "the data given"
    loss = "loss" if metrics.outputs else "KL"
    told = f"{shown} of {say_count(samples, 'sample')} ({on}), {loss} {metrics.kl:.2g}"
    lines.append(_line("agreement", told))
    lines += [
        _line("", f"{name}: {text.percent(own.agreement, 2)} ({own.counted}), loss {own.loss:.2g}")
        for name, own in (metrics.outputs or {}).items()
    ]
    few = about_few(agreement, samples, metrics.answers)
    if few:
        lines.append(_line("", f"warning: {few} Give more by --eval DATA."))
    return lines


def accuracy_rows(metrics: Comparison) -> list[tuple[str, str, str, str]]:
    """Rows of (name, float, quantised, difference)."""
    before, after, samples = metrics.before, metrics.after, metrics.samples
    found = [
        (
            text.metric_name(key),
            text.with_interval(key, before.get(key), samples),
            text.with_interval(key, after.get(key), samples),
            text.show_difference(key, before.get(key), after.get(key)),
        )
        for key in dict.fromkeys((*before, *after))
    ]
    vectors = metrics.has_vectors
    for key, name, value in (
        ("agreement", _agreeing(vectors), metrics.agreement),
        ("kl", _diverging(metrics), metrics.kl),
        ("relative_noise", "relative noise of the output", metrics.relative_noise),
    ):
        if text.number(value) is not None:
            shown = text.with_interval(key, value, None if vectors else samples)
            found.append((name, "", shown, ""))
    for name, own in (metrics.outputs or {}).items():
        said = f"{text.percent(own.agreement, 2)}, loss {own.loss:.2g}"
        found.append((f"{name} ({own.kind}): {own.counted}", "", said, ""))
    return found


def _diverging(metrics: Comparison) -> str:
    return "loss of all outputs" if metrics.outputs else "KL divergence from float"


def _agreeing(vectors: bool) -> str:
    return "mean cosine with float" if vectors else "same answer as float"


def short(title: str, metrics: Metrics) -> str:
    """A run in one line."""
    agreement, ratio = text.number(metrics.agreement), text.number(metrics.size.weight_ratio)
    parts = [title]
    if agreement is not None:
        parts.append(
            f"agreement {text.percent(agreement)} of {say_count(metrics.samples, 'sample')}"
        )
    if ratio is not None:
        parts.append(f"weights {ratio:.3f} of float")
    return f"<bitwright Result {', '.join(parts)}>"


def as_html(title: str, metrics: Metrics, notes: Sequence[str]) -> str:
    """A run as a small table for notebooks; everything given is escaped."""
    cells = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)
        )
        for row in accuracy_rows(metrics)
    )
    sizes = (" ".join(line.split()) for line in _sizes(metrics.size))
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


def _on(metrics: Comparison) -> str:
    few = about_few(text.number(metrics.agreement), metrics.samples, metrics.answers)
    where = f"{say_count(metrics.samples, 'sample')} of the {metrics.evaluated_on or 'data given'}"
    return f"On {where}; {text.LEGEND}." + (f" Warning: {few}" if few else "")


def _line(name: str, told: str) -> str:
    return f"{name:<{_WIDTH}}{told}".rstrip()


def _sizes(size: Sizes) -> list[str]:
    whole = size.float_bytes
    if not whole:
        return []
    files = {"model.safetensors": size.file_bytes, "model.onnx": size.onnx_bytes}
    # Before anything is written, the weights are all that is known.
    files = files if size.file_bytes else {"quantised weights": size.weight_bytes}
    parts = [f"{text.show_bytes(whole)} float"] + [
        f"{name} {text.show_bytes(found)} ({found / whole:.3f})"
        for name, found in files.items()
        if found
    ]
    return [_line("size", ", ".join(parts))]


def _latency(found: LatencyCheck | None) -> list[str]:
    """A budget of latency: what was predicted, what was measured, and whether it is held."""
    told = describe_latency(found)
    return [_line("latency", told)] if told else []


def _verification(found: Verification) -> list[str]:
    units, samples = found.units, found.samples
    good = sum(map(found.agrees, units))
    judge = found.judge
    state = f"verified in {judge}" if found.passed else f"NOT VERIFIED in {judge}"
    used, plain = (
        text.with_interval("agreement", part, samples)
        for part in (found.optimized.agreement, found.plain_agreement)
    )
    lines = [
        _line(
            "verify",
            f"{state}: as it runs there, with all optimisations, {used} of "
            f"{say_count(samples, 'answer')} agree with the simulation, {plain} without them; "
            f"{good} of {say_count(len(units), 'unit')} agree to {found.tolerance:g}",
        )
    ]
    if found.float_agreement is not None:
        shown = text.with_interval("agreement", found.float_agreement, samples)
        lines.append(_line("", f"as it runs, {shown} of its answers are the float network's"))
    if found.portable is not None and found.portable.asked:
        lines.append(_line("", f"sums: {describe_sums(found.portable)}"))
    if found.optimized.note:
        lines.append(_line("", f"note: {found.optimized.note}"))
    if found.rejected is not None:
        lines.append(_line("", f"REJECTED: {word_rejection(found.rejected)}"))
    if found.first_failure:
        name = found.first_failure
        by = text.number(units.get(name))
        shown = "not a finite number" if by is None else f"{by:.2g}"
        lines.append(_line("", f"first unit out of tolerance: {name} ({shown})"))
    if found.as_run is not None:
        own = found.as_run
        shown = own.error or f"{text.with_interval('agreement', own.agreement, samples)} agree"
        lines.append(_line("", f"in {own.runtime} {own.version}, as it runs there: {shown}"))
    for node, rule in list(found.rules.broken.items())[:_BREACHES] if found.rules else ():
        lines.append(_line("", f"breaks a rule of the target: {node}: {rule}"))
    return lines


def _speed(found: Verification, target: str) -> list[str]:
    """The file's time beside float's; what to do where it is slower."""
    told, ratio = describe_speed(found), text.slowdown(found)
    if not told or ratio is None:
        return []
    lines = [_line("speed", told)]
    if ratio > text.SLOWER:
        lines.append(_line("", "note: " + " ".join(speed_advice(target)).strip()))
    return lines
