"""The report of a run: one self-contained HTML page, readable without a network or a script."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from bitwright.diagnosis.finding import Findings
from bitwright.evaluation.figures import Metrics
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census, Picture, UnitEntry
from bitwright.report import svg
from bitwright.report import texts as text
from bitwright.report.advice import advice
from bitwright.report.bars import size_bars, stage_bars
from bitwright.report.promise_words import promise_lines
from bitwright.report.rates import say_count
from bitwright.report.speed_words import describe_latency, describe_speed, say_study
from bitwright.report.summary import accuracy_rows
from bitwright.report.sums_words import describe_sums
from bitwright.report.warnings import note_lines
from bitwright.report.words import facts, float_operators

_LEVELS = {"good": "Good", "warn": "Look closer", "bad": "Failed", "none": "Nothing measured"}

# Sorts a table by the column whose heading is pressed; without it the page lacks nothing else.
_SORTER = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const down = button.parentNode.getAttribute("aria-sort") === "ascending";
      const body = table.tBodies[0];
      const cell = row => row.cells[column];
      const exact = [...body.rows].every(row => "v" in cell(row).dataset);
      const sorted = [...body.rows].sort((a, b) => exact
        ? cell(a).dataset.v - cell(b).dataset.v
        : cell(a).textContent.localeCompare(cell(b).textContent, "en", {numeric: true}));
      table.querySelectorAll("th").forEach(head => head.removeAttribute("aria-sort"));
      button.parentNode.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...(down ? sorted.reverse() : sorted));
    });
  });
}
"""


@dataclass(frozen=True)
class ReportData:
    """What the page shows; whatever is missing or empty is said to be missing.

    Attributes:
        title: the model as the user named it.
        command: the line that repeats the run.
        created: when the run was made.
        metrics, census: metrics.json and census.json.
        verify: verify.json, None where verification did not run.
        findings: diagnosis.json, None where nobody asked for causes.
        files: sizes in bytes of the run's files.
        warnings: to be read before any figure.
    """

    title: str = ""
    command: str = ""
    created: str = ""
    metrics: Metrics | None = None
    census: Census | None = None
    verify: Verification | None = None
    findings: Findings | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class TableCell:
    """A table cell: the text, a number to sort by, and a CSS class."""

    shown: str
    value: float | None = None
    style: str = ""


def render_report(data: ReportData) -> str:
    """The page as HTML text.

    Everything from `data` is escaped, and the page's own policy forbids every load and every
    script but the sorter's.
    """
    metrics, census = data.metrics, data.census
    units = census.units if census else ()
    summary = text.summarise(metrics, census, data.verify)
    study = [f"{line} " for line in say_study(census.target)] if census else []
    sorter = Markup(_SORTER)  # a constant of this file
    return _template().render(
        data=data,
        level=summary.level,
        level_name=_LEVELS[summary.level],
        verdict="".join([*study, text.verdict(summary)]),
        accuracy=accuracy_rows(metrics) if metrics else [],
        measured_on=_word_samples(metrics) if metrics else "",
        verification=_verification(data.verify) + _latency(metrics) + _promise(metrics),
        sizes=size_bars(metrics.size if metrics else None),
        bops=text.number(metrics.bops_ratio) if metrics else None,
        files=[(name, text.show_bytes(size)) for name, size in data.files.items()],
        strips=_strips(units),
        legend=_legend(units),
        table=_table(units, data.verify),
        histograms=[_figure(p) for p in (census.histograms or () if census else ())],
        stages=stage_bars(metrics.stages if metrics else ()),
        float_ops=float_operators(census) if census else [],
        notes=_notes(census, data.warnings),
        protocol=facts(census.protocol if census else None),
        environment=facts(metrics.environment if metrics else None),
        advice=advice(summary, units, census.calibration_samples if census else None),
        sorter=sorter,
        sorter_hash=base64.b64encode(hashlib.sha256(sorter.encode()).digest()).decode(),
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(bits=text.show_bits, bits_class=svg.bits_class, percent=text.percent)
    source = resources.files("bitwright.report").joinpath("report.html.j2")
    return environment.from_string(source.read_text("utf-8"))


# ---- figures ---------------------------------------------------------------------------------


def _word_samples(metrics: Metrics) -> str:
    on = metrics.evaluated_on or "data given"
    return f"Measured on {say_count(metrics.samples, 'sample')} of the {on}. {text.LEGEND}."


def _promise(metrics: Metrics | None) -> list[tuple[str, str]]:
    """What became of a promise, and of what was tried for it."""
    told = promise_lines(metrics.promise) if metrics and metrics.promise else []
    return [("" if place else "promise", line) for place, line in enumerate(told)]


def _latency(metrics: Metrics | None) -> list[tuple[str, str]]:
    """A budget of latency beside what the finished file takes."""
    told = describe_latency(metrics.latency) if metrics else ""
    return [("latency", told)] if told else []


def _notes(census: Census | None, warned: Sequence[str]) -> list[str]:
    lines = note_lines(census.notes) if census else []
    return [line for line in lines if line not in warned]


def _verification(verify: Verification | None) -> list[tuple[str, str]]:
    """What verify.json says of the whole network."""
    if verify is None:
        return []
    facts = [
        ("passed", text.show_value(verify.passed)),
        ("judged in", verify.judge),
        *_agreements(verify),
        ("samples", text.show_metric("samples", verify.samples)),
        ("max difference", f"{verify.max_difference:.3g}"),
        ("max relative difference", f"{verify.max_relative_difference:.3g}"),
        ("tolerance", f"{verify.tolerance:.3g}"),
        ("first failure", text.show_value(verify.first_failure)),
    ]
    told = {"sums": describe_sums(verify.portable), "speed": describe_speed(verify)}
    return [*facts, *((name, words) for name, words in told.items() if words)]


def _agreements(verify: Verification) -> list[tuple[str, str]]:
    """How many answers agree: of the file as it runs, and as it is written."""
    found = (
        ("answers that agree, as users run it (all optimisations)", verify.optimized.agreement),
        ("answers that agree, operator by operator (no optimisations)", verify.plain_agreement),
        ("answers as those of the float network, as users run it", verify.float_agreement),
    )
    return [
        (name, text.with_interval("agreement", value, verify.samples))
        for name, value in found
        if value is not None
    ]


# ---- units -----------------------------------------------------------------------------------


def _strips(units: Sequence[UnitEntry]) -> list[tuple[str, Markup]]:
    bits = {
        "weights": [(unit.name, unit.w_bits) for unit in units],
        "inputs": [(unit.name, unit.a_bits) for unit in units],
    }
    found = []
    for what, column in bits.items():
        shown = [(own, f"{name}: {text.show_bits(own)}") for name, own in column]
        found.append((what, svg.strip(shown, f"bits of the {what}, one column a unit")))
    return found if units else []


def _legend(units: Sequence[UnitEntry]) -> list[int]:
    """The numbers of bits that occur, float (0) last."""
    seen = {bits for unit in units for bits in (unit.w_bits, unit.a_bits)}
    return sorted(seen, key=lambda bits: bits or 99)


def _table(
    units: Sequence[UnitEntry], verify: Verification | None
) -> tuple[list[str], list[list[TableCell]]]:
    """Headings and rows of the table of units; a column that no unit fills is left out.

    Sorting by name brings back the order of execution.
    """
    heads = {
        "unit": True,
        "kind": True,
        "shape": True,
        "weight bits": True,
        "input bits": True,
        "points": any(unit.points != 1 for unit in units),
        "params": True,
        "MACs": True,
        "weight SQNR": any(unit.weight_sqnr_db is not None for unit in units),
        "input SQNR": any(unit.input_sqnr_db is not None for unit in units),
        "output SQNR": any(unit.sqnr_db is not None for unit in units),
        "ONNX Runtime": verify is not None and bool(verify.units),
    }
    body = [
        [cell for cell, wanted in zip(cells, heads.values(), strict=True) if wanted]
        for cells in (
            [
                TableCell(unit.name, index, "name"),
                *_cells(unit, verify),
            ]
            for index, unit in enumerate(units)
        )
    ]
    return [head for head, wanted in heads.items() if wanted], body


def _cells(unit: UnitEntry, verify: Verification | None) -> list[TableCell]:
    """The cells of a unit after its name."""
    return [
        TableCell(unit.kind),
        TableCell("×".join(map(str, unit.shape))),
        _bits_cell(unit.w_bits),
        _bits_cell(unit.a_bits),
        *(_cell(text.show_count(n), n) for n in (unit.points, unit.params, unit.macs)),
        *(
            _cell(text.show_decibels(db), db)
            for db in (unit.weight_sqnr_db, unit.input_sqnr_db, unit.sqnr_db)
        ),
        _difference(unit.name, verify),
    ]


def _cell(shown: str, value: object) -> TableCell:
    found = text.number(value)
    return TableCell(shown, -1e30 if found is None else found, "number")


def _bits_cell(bits: int) -> TableCell:
    return TableCell(text.show_bits(bits), bits or 99.0, f"bits {svg.bits_class(bits)}")


def _difference(name: str, verify: Verification | None) -> TableCell:
    if verify is None or name not in verify.units:
        return TableCell("not checked", -1.0, "number")
    found = text.number(verify.units[name])
    shown = "not a finite number" if found is None else f"{found:.1e}"
    if verify.agrees(name):
        return TableCell(f"{shown} ✓", found, "number")
    return TableCell(
        f"{shown} ✗ out of tolerance", 1e30 if found is None else found, "number failed"
    )


@dataclass(frozen=True)
class Figure:
    """One histogram: its title, its picture or None, the line below, and the ends of its axis."""

    title: str
    chart: Markup | None
    below: str
    span: tuple[str, str] | None


def _figure(found: Picture) -> Figure:
    edges, counts, ends = (_finite(v) for v in (found.edges, found.counts, found.range))
    error = text.number(found.error)
    title = f"{found.unit}: {found.what}"
    chart = svg.histogram(edges, counts, ends, f"histogram of {title}")
    parts = [f"{text.show_bits(found.bits)} bits"]
    if chart is not None:
        lost = svg.outside(edges, counts, ends)
        parts += [f"range {ends[0]:.4g} to {ends[1]:.4g}", f"about {text.percent(lost, 2)} outside"]
    if error is not None:
        parts.append(f"relative error {error:.3g}")
    span = (f"{min(edges[0], ends[0]):.3g}", f"{max(edges[-1], ends[1]):.3g}") if chart else None
    return Figure(title, chart, ", ".join(parts), span)


def _finite(values: Sequence[float]) -> list[float]:
    """The values; none where one of them is not finite."""
    return list(values) if all(map(math.isfinite, values)) else []
