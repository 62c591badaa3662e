"""The least complexity without loss: found by bisection, held where it is run, told where not."""

from __future__ import annotations

import json
from functools import cache

import pytest
from scipy.stats import binom
from torch import nn

import bitwright as bw
from bitwright.allocation.frontier import trace
from bitwright.allocation.table import Row, make_table, write_table
from bitwright.cli import table_commands
from bitwright.errors import RecipeError, RunWarning
from bitwright.graph.choice import Choice
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.lossless import Agreement, Search, word_record
from networks import Chain, normal, seeded


def row(unit: str, choice: Choice, loss: float, macs: int) -> Row:
    bops = macs * choice.w_bits * choice.points * choice.a_bits
    return Row(unit, choice, loss, 100, 100 * choice.sum_bits, macs, bops)


@cache
def table(units: int = 4):
    """Errors that fall by 16 a point, from 3 bits up."""
    choices = [Choice(b, 8, n) for b, n in ((2, 1), (2, 2), (2, 3), (4, 1), (4, 3))]
    return make_table(
        row(f"u{i}", c, (i + 1) * 4.0**-c.sum_bits, 10 + 7 * i)
        for i in range(units)
        for c in choices
    )


def search(truth, tolerance=0.01) -> Search:
    made = table()
    return Search(made, trace(made, "bops"), tolerance, truth)


def cost(choices) -> int:
    return sum(r.bops for u in table().units for r in table().of(u) if r.choice == choices[u])


@pytest.mark.parametrize("border", [1e-9, 1e-6, 1e-4, 1e-2, 1.0])
def test_the_cheapest_of_the_frontier_by_few_runs(border):
    """Where agreement follows the predicted loss no point of the frontier is cheaper."""

    def truth(choices):
        loss = sum(r.loss for u in table().units for r in table().of(u) if r.choice == choices[u])
        return Agreement(1000 if loss <= border else 900, 1000)

    one = search(truth)
    found, attained = one.cheapest()
    held = [p for p in one.frontier.points if p.loss <= border]
    assert attained == bool(held)
    if held:
        assert cost(found.choices) == held[0].steps
        assert found.budgets[0].used == held[0].steps
        assert len(one.tried) <= len(one.frontier.points).bit_length() + 8
    else:
        assert cost(found.choices) == one.frontier.points[-1].steps


def test_a_cheaper_uniform_configuration_is_seen():
    """The prediction misleads: what agrees is the same everywhere, below the frontier's border."""
    same = Choice(2, 8, 2)

    def truth(choices):
        fine = all(c.sum_bits >= 6 for c in choices.values())
        return Agreement(100 if fine or set(choices.values()) == {same} else 50, 100)

    found, attained = search(truth).cheapest()
    assert attained and set(found.choices.values()) == {same}
    assert found.budgets[0].used == cost(found.choices) and "same bits everywhere" in found.note


def test_most_bits_may_fail_by_chance():
    """Beyond 8 bits a row of many differs: what costs less and agrees is found all the same."""

    def truth(choices):
        bits = [c.sum_bits for c in choices.values()]
        return Agreement(1000 if min(bits) >= 4 and max(bits) < 12 else 980, 1000)

    one = search(truth)
    top = one.frontier.points[-1]
    assert set(one.at(top).choices.values()) == {Choice(4, 8, 3)}
    found, attained = one.cheapest()
    assert attained and truth(found.choices).holds(0.01) and cost(found.choices) < top.steps
    assert not one.tried[0].agreement.holds(0.01)


def test_where_nothing_agrees_the_best_that_was_run_is_told():
    def truth(choices):
        return Agreement(900 if set(choices.values()) == {Choice(2, 8, 3)} else 800, 1000)

    found, attained = search(truth).cheapest()
    assert not attained and set(found.choices.values()) == {Choice(2, 8, 3)}
    assert found.budgets[0].used == cost(found.choices)


@pytest.mark.parametrize(("same", "rows"), [(250, 250), (249, 250), (990, 1000), (0, 5)])
def test_the_bound_is_that_of_the_binomial(same, rows):
    """At the bound so few differences or fewer have a chance of 5 %."""
    bound = Agreement(same, rows).disagreement_bound
    if same == 0:
        assert bound == 1.0
    else:
        assert binom.cdf(rows - same, rows, bound) == pytest.approx(0.05, rel=1e-6)


def test_what_holds():
    assert Agreement(999, 1000).holds(0.001) and not Agreement(998, 1000).holds(0.001)
    assert Agreement(100, 100).holds(1e-9) and not Agreement(0, 0).holds(0.5)


@cache
def net() -> nn.Module:
    return seeded(lambda: Chain(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))).eval()


@cache
def solved(menu: str):
    data = [normal(40, 12, seed=i) for i in range(8)]
    return bw.quantize(
        net(), data, recipe="fixed", menu=menu, lossless=0.02, method="quadratic", tune="bias"
    )


def test_a_network_without_loss(tmp_path):
    result = solved("w2a16x{1..3},w4a16x{1..2}")
    record = result.allocation["lossless"]
    assert record["attained"] and record["agreement"] >= 0.98 and record["samples"] == 80
    assert record["cost"] == "bops" and 0 < record["share"] < 1
    whole = max(r["used"] for r in record["runs"])
    assert record["used"] <= whole and record["runs"][0]["used"] == whole
    assert result.allocation["choices"] == {
        n: {"w_bits": w.point_bits, "a_bits": 16, "points": w.points}
        for n, w in result.assignment.weights.items()
    }
    run = result.save(tmp_path / "run", verify=False)
    assert json.loads(run["allocation.json"].read_text())["lossless"]["told"] == record["told"]
    found, files = table_commands.run_frontier(run.path, table_commands.FrontierRequest("bops"))
    assert table_commands.ONE_POINT in found.others
    assert "one point" in files[1].read_text()
    # More choices: the multi-point frontier is nowhere above the other.
    for point in found.others[table_commands.ONE_POINT]:
        assert min(p.loss for p in found.points if p.steps <= point.steps) <= point.loss


def test_what_cannot_be_had_is_told():
    result = solved("w2a2,w2a3")
    record = result.allocation.lossless
    assert not record.attained and record.agreement < 0.98
    assert "no choice of the menu is lossless to 0.02" in record.told
    assert "Add points or bits" in word_record(record)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lossless": 0.01}, "--lossless 0.01 is given without --menu"),
        ({"lossless": 0.01, "menu": "w4a8", "budget": "size<=0.5"}, "with --budget 'size<=0.5'"),
        ({"lossless": 1.5, "menu": "w4a8"}, "lossless is 1.5: it is the share of answers"),
        ({"lossless": 0.1, "menu": "w4a8", "minimize": "loss"}, "name a cost, such as bops"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe("fixed", options)


def test_tables_without_points_have_no_second_curve(tmp_path):
    from bitwright.export import rundir

    plain = make_table(r for r in table().rows if r.choice.points == 1)
    assert table_commands.single_point(plain) is None
    assert table_commands.single_point(table()).units == plain.units
    run = tmp_path / "run"
    run.mkdir()
    (run / rundir.RECIPE).write_text("")
    write_table(run / rundir.TABLE, plain)
    with pytest.warns(RunWarning):
        found, _ = table_commands.run_frontier(run, table_commands.FrontierRequest("bops"))
    assert table_commands.ONE_POINT not in found.others
