"""frontier.csv: every point of the frontier and of what stands beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bitwright.allocation.frontier import Frontier
from bitwright.allocation.ran import Ran
from bitwright.engine.cells import guard

COLUMNS = (
    "method", "cost", "unit", "used", "fraction", "loss_delta", "hull", "knee", "measured",
    "measured_stderr",
)  # fmt: skip


def frontier_csv(frontier: Frontier, ran: Sequence[Ran] = ()) -> str:
    """The frontier as CSV text: the exact points from the cheapest up, then the others.

    `hull` and `knee` are 1 where a point is on the convex hull, or one of the knees. Giving a
    point's `used` as a budget to `bitwright allocate` gives back its choices. What was run has its
    `measured` change of the loss, and a column for every figure on the evaluation data.

    Args:
        frontier: the curves.
        ran: configurations that were run.
    """
    figures = list(dict.fromkeys(name for one in ran for name in one.evaluated))
    known = {(one.method, one.used): one for one in ran}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *figures))
    for method, points in {"ip": frontier.points, **frontier.others}.items():
        for point in points:
            flags = int(point.hull), int(point.knee)
            one = known.pop((method, point.used), None)
            place = method, point.used, point.share, point.loss
            writer.writerow([*_cells(frontier, place), *flags, *_list_measured(one, figures)])
    for one in known.values():  # a greedy rule may stop between the steps of its path
        place = one.method, one.used, one.share, one.predicted
        writer.writerow([*_cells(frontier, place), 0, 0, *_list_measured(one, figures)])
    return text.getvalue()


def _cells(frontier: Frontier, place: tuple[str, float, float | None, float]) -> list[object]:
    method, used, share, loss = place
    fraction = "" if share is None else repr(share)
    return [
        guard(method),
        guard(frontier.cost.name),
        frontier.cost.unit,
        used,
        fraction,
        repr(loss),
    ]


def _list_measured(one: Ran | None, figures: Sequence[str]) -> list[object]:
    if one is None:
        return [""] * (2 + len(figures))
    stderr = "" if one.stderr is None else repr(one.stderr)
    shown = [repr(one.evaluated[n]) if n in one.evaluated else "" for n in figures]
    return [repr(one.measured), stderr, *shown]
