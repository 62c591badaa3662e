"""The frontier: complete where it is listed, exact everywhere, with its picture and its file."""

from __future__ import annotations

import csv
import io
import itertools
import random
import re
import xml.etree.ElementTree as ElementTree
from fractions import Fraction

import pytest
from allocation_cases import configurations, random_table, row, value
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bitwright.allocation.allocate import allocate
from bitwright.allocation.frontier import KNEES, trace
from bitwright.allocation.frontier_csv import COLUMNS, frontier_csv
from bitwright.allocation.menu import make_menu
from bitwright.allocation.ran import Ran
from bitwright.allocation.solver import hull
from bitwright.allocation.table import make_table
from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from bitwright.report.chart import draw

SLOW = {"max_examples": 40, "deadline": None, "suppress_health_check": list(HealthCheck)}


def truth(table, cost):
    """Points that no configuration beats, from brute force."""
    found = []
    every = sorted((value(c, cost), value(c, "loss")) for c in configurations(table))
    for used, loss in every:
        if not found or loss < found[-1][1]:
            found.append((used, loss))
    return found


def wide_table(units=30, seed=0):
    """A table of which the frontier is long."""
    r = random.Random(seed)
    rows = []
    for index in range(units):
        params, macs, sensitivity = (
            r.randint(100, 10**6),
            r.randint(1, 10**8),
            10 ** r.uniform(-4, 0),
        )
        for w in (2, 3, 4, 6, 8):
            loss = sensitivity * (4.0**-w) * r.uniform(0.7, 1.3) - 1e-6
            rows.append(row(f"u{index}", Choice(w, 8), loss, params, macs))
    return make_table(rows)


@settings(**SLOW)
@given(st.integers(0, 10**6), st.sampled_from(["size", "bops", "latency"]))
@example(126467, "latency").via("decimals of which no sum fits into 64 bits")
def test_a_short_frontier_is_complete(seed, cost):
    table = random_table(seed, units=5)
    found = trace(table, cost)
    expected = truth(table, cost)
    assert found.complete and found.proven
    assert [float(p.loss) for p in found.points] == [float(loss) for _, loss in expected]
    assert [Fraction(p.steps, found.cost.scale) for p in found.points] == [
        Fraction(str(used)) for used, _ in expected
    ]
    for point in found.points:
        rows = found.menu.rows_of(point.selection)
        assert float(value(rows, "loss")) == point.loss


@settings(**SLOW)
@given(st.integers(0, 10**6))
def test_the_hull_is_the_hull_of_all_configurations(seed):
    table = random_table(seed, units=5)
    menu = make_menu(table)
    found = trace(table, "size")
    costs, losses = menu.spread(found.cost), [Fraction(0)] * len(menu.rows)
    for option, rows in enumerate(menu.rows):
        losses[option] = sum(Fraction(repr(table.rows[r].loss_delta)) for r in rows)
    scale = max((loss.denominator for loss in losses), default=1)
    hulls = hull.component_hulls(menu, costs, [loss * scale for loss in losses])
    walked = [(cost, Fraction(loss) / scale) for cost, loss, _ in hull.walk(hulls)]
    everything = [(value(c, "size"), value(c, "loss")) for c in configurations(table)]
    corners = hull.lower_hull(
        hull.Vertex(int(used), Fraction(str(loss)), ()) for used, loss in everything
    )
    assert {(v.cost, v.loss) for v in corners} <= set(walked)
    places = range(len(walked))
    for place, selection in zip(places, hull.selections(menu, hulls, places), strict=True):
        assert sum(costs[o] for o in selection) == walked[place][0]


def test_a_long_frontier_is_exact_at_every_point_that_is_shown():
    table = wide_table()
    listed = trace(table, "size")
    sparse = trace(table, "size", complete=50, budgets=12)
    assert listed.complete and not sparse.complete and sparse.proven
    assert {p.steps for p in sparse.points} <= {p.steps for p in listed.points}
    assert {p.steps for p in listed.points if p.hull} <= {p.steps for p in sparse.points}
    for point in random.Random(1).sample(listed.points, 12):
        found = allocate(table, f"size<={point.steps}bit", advise=False)
        assert found.loss == pytest.approx(point.loss, rel=1e-12)
        assert found.budgets[0].used == point.steps


def test_points_fall_and_knees_have_selections():
    for found in (trace(wide_table()), trace(wide_table(), complete=20, budgets=5)):
        losses = [p.loss for p in found.points]
        assert losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses)
        assert 1 <= len(found.knees) <= KNEES
        for knee in found.knees:
            rows = found.menu.rows_of(knee.selection)
            assert sum(r.weight_bits for r in rows.values()) == knee.steps
            assert sum(r.loss_delta for r in rows.values()) == pytest.approx(knee.loss)
            assert knee.share == knee.steps / found.cost.whole


def test_nothing_beside_the_frontier_is_below_it():
    for seed in range(25):
        found = trace(random_table(seed, units=5), "bops")
        assert set(found.others) == {"greedy-accuracy", "greedy-compression", "uniform"}
        for points in found.others.values():
            for point in points:
                best = min(p.loss for p in found.points if p.steps <= point.steps)
                assert best <= point.loss


def test_a_table_with_nothing_to_choose():
    found = trace(make_table([row("a", Choice(8, 8), None, 10, 10)]))
    assert len(found.points) == 1 and found.knees == ()
    assert ElementTree.fromstring(draw(found)) is not None


def test_a_cost_that_is_none():
    with pytest.raises(RecipeError, match="Name a cost"):
        trace(random_table(1), "loss")
    with pytest.raises(RecipeError, match="Did you mean 'bops'"):
        trace(random_table(1), "bobs")


def test_the_file():
    found = trace(wide_table(), "bops")
    rows = list(csv.DictReader(io.StringIO(frontier_csv(found))))
    assert tuple(rows[0]) == COLUMNS
    own = [r for r in rows if r["method"] == "ip"]
    assert [(int(r["used"]), float(r["loss_delta"])) for r in own] == [
        (p.steps, p.loss) for p in found.points
    ]
    assert sum(int(r["knee"]) for r in own) == len(found.knees)
    assert {r["method"] for r in rows} == {"ip", *found.others}


@pytest.mark.parametrize("seed", range(6))
def test_the_picture_is_whole_and_self_contained(seed):
    found = trace(random_table(seed, units=5), "size")
    ran = Ran("ip", found.points[0].used, None, 0.4, 0.5, 0.1, {"agreement": 0.9, "kl": 0.5})
    text = draw(found, [ran])
    picture = ElementTree.fromstring(text)
    assert picture.tag.endswith("svg") and not re.search(r"href|url\(|<script", text)
    shown = " ".join(picture.itertext())
    for name in ("exact", "greedy-accuracy", "greedy-compression", "uniform", "measured"):
        assert name in shown
    for names, size in (("cx|x1|x2", "width"), ("cy|y1|y2", "height")):
        numbers = [float(n) for n in re.findall(rf' (?:{names})="(-?[\d.]+)"', text)]
        assert numbers and all(-1 <= n <= float(picture.attrib[size]) + 1 for n in numbers)
    assert "nan" not in text and "inf" not in text


def test_terms_of_the_cost_are_counted_along_the_frontier():
    """Every point is the least loss at its own cost, pairs included, by brute force."""
    for seed in range(12):
        table = random_table(seed, units=5, tied=0.0)
        r = random.Random(seed)
        if len(table.units) < 2:
            continue
        terms = {}
        for first, second in itertools.pairwise(table.units):
            for a, b in itertools.product(table.of(first), table.of(second)):
                terms[(first, a.choice), (second, b.choice)] = r.randint(-1, 3) / 2
        found = trace(table.with_terms("latency", terms), "latency")
        everything = []
        for chosen in configurations(table):
            more = sum(
                Fraction(delta)
                for ((u, a), (v, b)), delta in terms.items()
                if chosen[u].choice == a and chosen[v].choice == b
            )
            everything.append(
                (Fraction(str(value(chosen, "latency"))) + more, value(chosen, "loss"))
            )
        assert not found.complete and found.proven
        for point in found.points:
            used = Fraction(point.steps, found.cost.scale)
            held = [loss for cost, loss in everything if cost <= used]
            assert float(min(held)) == point.loss
        assert found.points[0].used == pytest.approx(float(min(c for c, _ in everything)))
        for curve in found.others.values():
            for point in curve:
                assert any(
                    abs(float(c) - point.used) < 1e-9 and abs(float(x) - point.loss) < 1e-9
                    for c, x in everything
                )
