"""The page of `bitwright bench`: bars of every setting, tables, and what ran in which type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

STYLE = """
:root { color-scheme: light dark; --text: #1d2126; --soft: #5a636d; --page: #fbfbfa;
  --accent: #2a6bb8; --slow: #b3261e; --line: #dfe3e7; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a0a9b2; --page: #14171a;
  --accent: #6aa9ef; --slow: #ff8a80; --line: #343b42; } }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--page); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .4rem; }
p.soft { color: var(--soft); } table { border-collapse: collapse; font-size: .9rem; }
td, th { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
svg { width: 100%; height: auto; } text { fill: var(--text); font: 13px system-ui, sans-serif; }
.bar { fill: var(--accent); } .bar.slow { fill: var(--slow); } .span { stroke: var(--text); }
"""
PAGE = Markup(
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'\"><title>{title}</title><style>{style}</style></head>"
    "<body><h1>{title}</h1>{body}</body></html>\n"
)
_LABELS, _BARS, _ROW, _END = 210, 430, 26, 160


def render_bench(record: Mapping[str, Any]) -> str:
    """The page of a record that `bitwright bench --json` prints."""
    body = Markup("").join(
        Markup('<p class="soft">{}</p>').format(note)
        for note in (_measured_on(record), *record["notes"])
    )
    for setting in _settings(record["rows"]):
        rows = [row for row in record["rows"] if _setting(row) == setting]
        runtime, threads, batch = setting
        title = f"{runtime}, {threads} thread{'s' if threads > 1 else ''}, batch {batch}"
        body += Markup("<h2>{}</h2>{}").format(title, _chart(rows))
    body += _loads(record) + _operators(record)
    return PAGE.format(title="Latency side by side", style=Markup(STYLE), body=body)


def _measured_on(record: Mapping[str, Any]) -> str:
    about = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in about["runtimes"].items())
    compared = f"; bars are compared with {record['reference']}" if record["reference"] else ""
    return f"{about['processor']}, {versions}; medians with quartiles{compared}."


def _setting(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["runtime"], row["threads"], row["batch"]


def _settings(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    return list(dict.fromkeys(map(_setting, rows)))


def _chart(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """A bar a file, its quartiles as a line, and its time and speed in words."""
    most = max((row["high_ms"] for row in rows if not row["error"]), default=1.0)
    shapes = Markup("")
    for index, row in enumerate(rows):
        top = index * _ROW
        shapes += Markup('<text x="0" y="{}">{}</text>').format(top + 17, row["file"][:30])
        shapes += _words(top, row) if row["error"] else _bar(top, row, _BARS / most)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="milliseconds">{}</svg>').format(
        _LABELS + _BARS + _END, _ROW * len(rows), shapes
    )


def _bar(top: int, row: Mapping[str, Any], scale: float) -> Markup:
    slow = row["times"] is not None and row["times"] < 1
    end = _LABELS + scale * row["high_ms"]
    told = f"{row['ms']:.3g} ms" + ("" if row["times"] is None else f", x {row['times']:.2f}")
    return Markup(
        '<rect class="bar{}" x="{}" y="{}" width="{:.1f}" height="16"/>'
        '<path class="span" d="M{:.1f} {mid}H{:.1f}"/><text x="{:.1f}" y="{}">{}</text>'
    ).format(
        " slow" if slow else "",
        _LABELS,
        top + 4,
        scale * row["ms"],
        _LABELS + scale * row["low_ms"],
        end,
        end + 6,
        top + 17,
        told,
        mid=top + 12,
    )


def _words(top: int, row: Mapping[str, Any]) -> Markup:
    return Markup('<text x="{}" y="{}">does not run: {}</text>').format(
        _LABELS, top + 17, row["error"][:80]
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Rows under their headings, escaped."""

    def line(tag: str, cells: Sequence[str]) -> Markup:
        made = (Markup("<{0}>{1}</{0}>").format(Markup(tag), cell) for cell in cells)
        return Markup("<tr>{}</tr>").format(Markup("").join(made))

    body = Markup("").join(line("td", row) for row in rows)
    return Markup("<table>{}{}</table>").format(line("th", heads), body)


def _loads(record: Mapping[str, Any]) -> Markup:
    rows = [
        (one["file"], one["runtime"], f"{one['load_ms']:.3g} ms", f"{one['memory_mb']:.1f} MB",
         f"{one['bytes'] / 1e6:.2f} MB")
        for one in record["loads"]
    ]  # fmt: skip
    heads = ("file", "runtime", "load", "memory", "on disk")
    return Markup("<h2>Loading</h2>{}").format(table(heads, rows)) if rows else Markup("")


def _operators(record: Mapping[str, Any]) -> Markup:
    rows = [
        (one["file"], one["runtime"], one["operator"], one["type"], str(one["count"]),
         f"{one['share']:.1%}")
        for one in record["operators"]
    ]  # fmt: skip
    heads = ("file", "runtime", "operator", "type", "count", "of the time")
    made = table(heads, rows)
    return Markup("<h2>What ran in which type</h2>{}").format(made) if rows else Markup("")
