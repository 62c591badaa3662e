"""The page of `bitwright compare RUN RUN ...`: a table of runs, and units whose bits differ."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bitwright.report.bench_page import PAGE, STYLE, table

_MORE = """
table { overflow-wrap: anywhere; } .scroll { overflow-x: auto; }
td:nth-child(2), th:nth-child(2) { text-align: left; }
"""

Cells = Sequence[Sequence[str]]


def render_runs(runs: Cells, units: Cells, same: str, notes: Sequence[str]) -> str:
    """The page of some runs.

    Args:
        runs: a line a run, the first of headings.
        units: a line a unit whose bits differ, the first of headings.
        same: how many units do not.
        notes: what makes figures incomparable.
    """
    body = Markup("")
    for note in notes:
        body += Markup("<p><strong>Note: {}.</strong></p>").format(note)
    scroll = Markup('<div class="scroll">{}</div>')
    body += scroll.format(table(runs[0], runs[1:]))
    body += Markup("<h2>Units with other bits</h2><p>{}</p>").format(same)
    if units[1:]:
        body += scroll.format(table(units[0], units[1:]))
    return PAGE.format(title="Runs side by side", style=Markup(STYLE + _MORE), body=body)
