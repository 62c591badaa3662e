"""The report of a run: one self-contained HTML page, readable without a network or a script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from bitwright.report import svg
from bitwright.report import texts as text
from bitwright.report.advice import advice
from bitwright.report.bars import size_bars, stage_bars
from bitwright.report.rates import say_count
from bitwright.report.speed_words import describe_latency, describe_speed
from bitwright.report.summary import accuracy_rows
from bitwright.report.sums_words import describe_sums
from bitwright.report.words import facts, float_operators, notes

_LEVELS = {"good": "Good", "warn": "Look closer", "bad": "Failed", "none": "Nothing measured"}
_SQNR = {"weight": "weight_sqnr_db", "input": "input_sqnr_db", "output": "sqnr_db"}

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
        metrics: contents of metrics.json.
        census: contents of census.json; its units may carry `weight_sqnr_db`,
            `input_sqnr_db` and `sqnr_db` (of the output).
        verify: contents of verify.json, None where verification did not run.
        histograms: of the worst units: `unit`, `what` (weight or input), `edges`, `counts`,
            `range` (lowest and highest representable value), `bits`, `error`.
        files: sizes in bytes of the run's files.
        warnings: to be read before any figure.
    """

    title: str = ""
    command: str = ""
    created: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    census: Mapping[str, Any] = field(default_factory=dict)
    verify: Mapping[str, Any] | None = None
    histograms: Sequence[Mapping[str, Any]] = ()
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
    units = text.rows(data.census.get("units"))
    summary = text.summarise(data.metrics, units, data.verify)
    summary = replace(summary, target=str(data.census.get("target") or ""))
    sorter = Markup(_SORTER)  # a constant of this file
    return _template().render(
        data=data,
        level=summary.level,
        level_name=_LEVELS[summary.level],
        verdict=text.verdict(summary),
        accuracy=accuracy_rows(data.metrics),
        measured_on=_word_samples(data.metrics),
        verification=_verification(data.verify) + _latency(data.metrics),
        sizes=size_bars(data.metrics, data.files),
        bops=text.number(data.metrics.get("bops_ratio")),
        files=[(name, text.show_bytes(size)) for name, size in data.files.items()],
        strips=_strips(units),
        legend=_legend(units),
        table=_table(units, data.verify),
        histograms=[_histogram(entry) for entry in data.histograms],
        stages=stage_bars(text.rows(data.metrics.get("stages"))),
        float_ops=float_operators(data.census),
        notes=[note for note in notes(data.census) if note not in data.warnings],
        protocol=facts(data.census.get("protocol")),
        environment=facts(data.metrics.get("environment")),
        advice=advice(summary, units, data.census.get("calibration_samples")),
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


def _word_samples(metrics: Mapping[str, Any]) -> str:
    samples = text.number(metrics.get("samples"))
    if samples is None:
        return ""
    on = metrics.get("evaluated_on", "data given")
    return f"Measured on {say_count(samples, 'sample')} of the {on}. {text.LEGEND}."


def _latency(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A budget of latency beside what the finished file takes."""
    told = describe_latency(metrics.get("latency"))
    return [("latency", told)] if told else []


def _verification(verify: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What verify.json says of the whole network."""
    if not verify:
        return []
    facts = [("passed", text.show_value(verify.get("passed")))]
    for key, name in (("agreement", "answers that agree"), ("samples", "samples")):
        if key in verify:
            facts.append((name, text.with_interval(key, verify[key], verify.get("samples"))))
    for key in ("max_difference", "max_relative_difference", "tolerance", "first_failure"):
        if key in verify:
            found = text.number(verify[key])
            shown = text.show_value(verify[key]) if found is None else f"{found:.3g}"
            facts.append((key.replace("_", " "), shown))
    told = {"sums": describe_sums(verify), "speed": describe_speed(verify)}
    return [*facts, *((name, words) for name, words in told.items() if words)]


# ---- units -----------------------------------------------------------------------------------


def _strips(units: Sequence[Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    found = []
    for name, key in (("weights", "w_bits"), ("inputs", "a_bits")):
        columns = [
            (_bits(unit, key), f"{unit.get('name')}: {text.show_bits(unit.get(key))}")
            for unit in units
        ]
        found.append((name, svg.strip(columns, f"bits of the {name}, one column a unit")))
    return found if units else []


def _legend(units: Sequence[Mapping[str, Any]]) -> list[int]:
    """The numbers of bits that occur, float (0) last."""
    seen = {_bits(unit, key) for unit in units for key in ("w_bits", "a_bits")}
    return sorted(seen, key=lambda bits: bits or 99)


def _bits(unit: Mapping[str, Any], key: str) -> int:
    return int(text.number(unit.get(key)) or 0)


def _table(
    units: Sequence[Mapping[str, Any]], verify: Mapping[str, Any] | None
) -> tuple[list[str], list[list[TableCell]]]:
    """Headings and rows of the table of units; a column that no unit fills is left out.

    Sorting by name brings back the order of execution.
    """
    differences = text.read_mapping((verify or {}).get("units"))
    heads = {
        "unit": True,
        "kind": any("kind" in unit for unit in units),
        "shape": any("shape" in unit for unit in units),
        "weight bits": True,
        "input bits": True,
        "points": any((unit.get("points") or 1) != 1 for unit in units),
        "params": any("params" in unit for unit in units),
        "MACs": any("macs" in unit for unit in units),
        **{
            f"{what} SQNR": any(text.number(unit.get(key)) is not None for unit in units)
            for what, key in _SQNR.items()
        },
        "ONNX Runtime": bool(differences),
    }
    body = [
        [cell for cell, wanted in zip(cells, heads.values(), strict=True) if wanted]
        for cells in (
            [
                TableCell(str(unit.get("name", "?")), index, "name"),
                *_cells(unit, differences, verify),
            ]
            for index, unit in enumerate(units)
        )
    ]
    return [head for head, wanted in heads.items() if wanted], body


def _cells(
    unit: Mapping[str, Any], differences: Mapping[str, Any], verify: Mapping[str, Any] | None
) -> list[TableCell]:
    """The cells of a unit after its name."""
    shape = unit.get("shape")
    return [
        TableCell(str(unit.get("kind", text.MISSING))),
        TableCell("×".join(map(str, shape)) if isinstance(shape, (list, tuple)) else text.MISSING),
        _bits_cell(unit, "w_bits"),
        _bits_cell(unit, "a_bits"),
        _cell(text.show_count(unit.get("points", 1)), unit.get("points", 1)),
        _cell(text.show_count(unit.get("params")), unit.get("params")),
        _cell(text.show_count(unit.get("macs")), unit.get("macs")),
        *(_cell(text.show_decibels(unit.get(key)), unit.get(key)) for key in _SQNR.values()),
        _difference(str(unit.get("name")), differences, verify or {}),
    ]


def _cell(shown: str, value: object) -> TableCell:
    found = text.number(value)
    return TableCell(shown, -1e30 if found is None else found, "number")


def _bits_cell(unit: Mapping[str, Any], key: str) -> TableCell:
    bits = _bits(unit, key)
    return TableCell(text.show_bits(unit.get(key)), bits or 99.0, f"bits {svg.bits_class(bits)}")


def _difference(name: str, differences: Mapping[str, Any], verify: Mapping[str, Any]) -> TableCell:
    if name not in differences:
        return TableCell("not checked", -1.0, "number")
    value = differences[name]
    found = text.number(value)
    shown = "not a finite number" if found is None else f"{found:.1e}"
    if text.agrees(value, verify):
        return TableCell(f"{shown} ✓", found, "number")
    return TableCell(
        f"{shown} ✗ out of tolerance", 1e30 if found is None else found, "number failed"
    )


def _histogram(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One figure: its title, its picture or None, and the line below."""
    edges, counts, ends = (_numbers(entry.get(key)) for key in ("edges", "counts", "range"))
    error = text.number(entry.get("error"))
    what = str(entry.get("what", "values"))
    title = f"{entry.get('unit', '?')}: {what}"
    chart = svg.histogram(edges, counts, ends, f"histogram of {title}")
    parts = [f"{text.show_bits(entry.get('bits'))} bits"]
    if chart is not None:
        lost = svg.outside(edges, counts, ends)
        parts += [f"range {ends[0]:.4g} to {ends[1]:.4g}", f"about {text.percent(lost, 2)} outside"]
    if error is not None:
        parts.append(f"relative error {error:.3g}")
    span = (f"{min(edges[0], ends[0]):.3g}", f"{max(edges[-1], ends[1]):.3g}") if chart else None
    return {"title": title, "chart": chart, "below": ", ".join(parts), "span": span}


def _numbers(values: object) -> list[float]:
    """The values as floats; empty where one of them is no finite number."""
    if not isinstance(values, (list, tuple)):
        return []
    found = [text.number(value) for value in values]
    return [] if None in found else [value for value in found if value is not None]
