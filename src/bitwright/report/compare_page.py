"""The page of `bitwright compare`: where two files part, how that grows, and each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from bitwright.diagnosis.file_difference import FileComparison, OutputDifference, TensorDifference
from bitwright.report.bench_page import PAGE, STYLE, table

_MORE = """
.verdict { border-left: 6px solid var(--line); padding-left: .8rem; font-size: 1.1rem; }
.verdict.bad { border-left-color: var(--slow); } table { overflow-wrap: anywhere; }
td:nth-child(2), th:nth-child(2) { text-align: left; }
.dot { fill: var(--accent); } .dot.grows { fill: var(--slow); }
.grid { stroke: var(--line); } .line { stroke: var(--accent); fill: none; }
.scroll { overflow-x: auto; max-height: 36rem; }
"""
_WIDE, _HIGH, _LEFT, _FOOT = 800, 260, 70, 24
# What is drawn as the least: rounding of floats.
_LEAST = 1e-8
# A chart of more bars than this shows the worst ones alone.
_BARS = 200
_NAMED = 200


def say_difference(value: float | None) -> str:
    """A relative difference as people read it.

    >>> say_difference(0.0312), say_difference(4e-7), say_difference(0.0)
    ('3.12 %', '4e-07', '0')
    """
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "not finite"
    if not value:
        return "0"
    return f"{value:.3g}" if abs(value) < 1e-4 else f"{100 * value:.3g} %"


def verdict(found: FileComparison) -> str:
    """The comparison in a sentence."""
    worst = max(found.outputs, key=lambda one: one.difference)
    told = f"{worst.name} differs by {say_difference(worst.difference)} on {found.samples} samples"
    if worst.agreement is not None:
        told += f"; {worst.agreement:.1%} of its rows have the same largest entry"
    if found.tolerance:
        bound = say_difference(found.tolerance)
        told += f". The tolerance of {bound} {'holds' if found.passed else 'is exceeded'}"
    return f"{told}."


def render_compare(found: FileComparison) -> str:
    """The page of a comparison."""
    body = Markup('<p class="soft">{} (first) and {} (second), on {}</p>').format(
        found.first, found.second, found.data
    )
    body += Markup('<p class="verdict{}">{}</p>').format(
        "" if found.passed else " bad", verdict(found)
    )
    for note in found.notes:
        body += Markup('<p class="soft">Note: {}.</p>').format(note)
    body += _outputs(found) + _growth(found) + _values(found) + _alone(found) + _times(found)
    return PAGE.format(title="Two files side by side", style=Markup(STYLE + _MORE), body=body)


def _outputs(found: FileComparison) -> Markup:
    heads = ("output", "second file", "difference", "largest", "same answer", "worst samples")
    rows = [
        (
            one.name,
            one.other,
            say_difference(one.difference),
            say_difference(one.worst),
            "-" if one.agreement is None else f"{one.agreement:.1%}",
            ", ".join(f"{s.name} ({say_difference(s.difference)})" for s in one.samples),
        )
        for one in found.outputs
    ]
    made = Markup("<h2>Outputs</h2>{}").format(table(heads, rows))
    for one in found.outputs:
        made += _samples(one)
    return made


def _samples(one: OutputDifference) -> Markup:
    """A bar a sample, in the data's order."""
    values = one.per_sample[:_BARS]
    most = max((v for v in values if math.isfinite(v)), default=0.0) or 1.0
    wide = _WIDE / max(len(values), 1)
    bars = Markup("")
    for index, value in enumerate(values):
        share = min(value / most, 1.0) if math.isfinite(value) else 1.0
        bars += Markup(
            '<rect class="bar{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"><title>{}'
            "</title></rect>"
        ).format(
            "" if math.isfinite(value) else " slow",
            index * wide,
            60 * (1 - share),
            max(wide - 1, 0.5),
            60 * share,
            f"sample {index}: {say_difference(value)}",
        )
    rest = len(one.per_sample) - len(values)
    told = f"{one.name}: each sample, up to {say_difference(most)}" + (
        f"; {rest} more samples are not drawn" if rest else ""
    )
    return Markup(
        '<p class="soft">{}</p><svg viewBox="0 0 {} 62" role="img" aria-label="{}">{}</svg>'
    ).format(told, _WIDE, told, bars)


def _growth(found: FileComparison) -> Markup:
    """The difference along the first file, on a logarithmic scale."""
    tensors = found.tensors
    if not tensors:
        return Markup('<p class="soft">No value inside the files could be matched.</p>')
    started = (
        "No value differs by more than rounding of floats."
        if found.begins is None
        else f"The difference begins at {found.begins}."
    )
    grows = f" Most of it arises at {', '.join(found.grows)}." if found.grows else ""
    top = max(max(_decade(one.difference) for one in tensors), 0)
    low = int(math.log10(_LEAST))
    high = _HIGH - _FOOT

    def up(value: float) -> float:
        return 8 + (high - 8) * (top - _decade(value)) / (top - low)

    shapes = Markup("")
    for power in range(low, int(top) + 1, 2):
        shapes += Markup('<path class="grid" d="M{} {:.1f}H{}"/><text x="0" y="{:.1f}">{}</text>') \
            .format(_LEFT, up(10.0**power), _WIDE, up(10.0**power) + 4, f"1e{power}")  # fmt: skip
    places = [
        _LEFT + 8 + (_WIDE - _LEFT - 16) * i / max(len(tensors) - 1, 1) for i in range(len(tensors))
    ]
    road = " ".join(
        f"{'L' if i else 'M'}{x:.1f} {up(one.difference):.1f}"
        for i, (x, one) in enumerate(zip(places, tensors, strict=True))
    )
    shapes += Markup('<path class="line" d="{}"/>').format(road)
    for x, one in zip(places, tensors, strict=True):
        shapes += Markup('<circle class="dot{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title>'
                         "</circle>").format(
            " grows" if one.name in found.grows else "", x, up(one.difference),
            f"{one.name} ({one.kind}): {say_difference(one.difference)}",
        )  # fmt: skip
    shapes += Markup('<text x="{}" y="{}">{}</text>').format(
        _LEFT, _HIGH - 4, "values in the order of the first file"
    )
    return Markup(
        '<h2>Where the files part</h2><p>{}{}</p><svg viewBox="0 0 {} {}" role="img" '
        'aria-label="relative difference along the file">{}</svg>'
    ).format(started, grows, _WIDE, _HIGH, shapes)


def _decade(value: float) -> float:
    return math.log10(min(max(value, _LEAST), 1e8)) if not math.isnan(value) else 8.0


def _values(found: FileComparison) -> Markup:
    heads = (
        "value", "second file", "made by", "matched by", "difference", "of it enters",
        "its own rounding", "worst sample",
    )  # fmt: skip
    rows = [_value(one) for one in found.tensors]
    if not rows:
        return Markup("")
    return Markup('<h2>Values</h2><div class="scroll">{}</div>').format(table(heads, rows))


def _value(one: TensorDifference) -> Sequence[str]:
    return (
        one.name, one.other, one.kind, one.by, say_difference(one.difference),
        say_difference(one.enters), say_difference(one.rounding), str(one.sample),
    )  # fmt: skip


def _alone(found: FileComparison) -> Markup:
    made = Markup("")
    for word, names in zip(("first", "second"), found.alone, strict=True):
        if names:
            rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            made += Markup("<p>In the {} file alone ({}): {}{}</p>").format(
                word, len(names), ", ".join(names[:_NAMED]), rest
            )
    return Markup("<h2>Operators without their like</h2>{}").format(made) if made else made


def _times(found: FileComparison) -> Markup:
    return Markup("<h2>Speed</h2><p>{}</p>").format(say_times(found))


def say_times(found: FileComparison) -> str:
    """How fast both files are, in a sentence."""
    one = found.times
    if one is None:
        return "Not timed."
    return (
        f"{one.first_ms:.3g} ms and {one.second_ms:.3g} ms for a batch of {one.batch} with one "
        f"thread in ONNX Runtime, in turns: the second file is {one.times:.2f} times as fast "
        f"({one.low:.2f} to {one.high:.2f})."
    )
