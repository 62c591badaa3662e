"""frontier.csv: every point of the frontier and of what stands beside it."""

from __future__ import annotations

import csv
import io

from bitwright.search.frontier import Frontier

COLUMNS = ("method", "cost", "unit", "used", "fraction", "loss_delta", "hull", "knee")


def frontier_csv(frontier: Frontier) -> str:
    """The frontier as CSV text: the exact points from the cheapest up, then the others.

    `hull` and `knee` are 1 where a point is on the convex hull, or one of the knees. Giving a
    point's `used` as a budget to `bitwright allocate` gives back its choices.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for method, points in {"ip": frontier.points, **frontier.others}.items():
        for point in points:
            writer.writerow(
                (
                    method,
                    frontier.cost.name,
                    frontier.cost.unit,
                    point.used,
                    "" if point.share is None else repr(point.share),
                    repr(point.loss),
                    int(point.hull),
                    int(point.knee),
                )
            )
    return text.getvalue()
