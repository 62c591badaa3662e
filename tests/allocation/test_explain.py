"""Explaining a unit: its price, what every other choice would cost, when it changes."""

from __future__ import annotations

import random

import pytest
from allocation_cases import budget, configurations, random_table, row, value

from bitwright.allocation.allocate import allocate
from bitwright.allocation.explain import explain
from bitwright.allocation.question import ask
from bitwright.allocation.table import make_table
from bitwright.errors import RunDirectoryError
from bitwright.graph.choice import Choice


def table():
    losses = {"stem": {8: 0.0}, "body": {8: 0.0, 4: 0.3}, "head": {8: 0.0, 4: 0.1}}
    params = {"stem": 100, "body": 1000, "head": 500}
    return make_table(
        row(unit, Choice(bits, bits), loss, params[unit], 10 * params[unit])
        for unit, own in losses.items()
        for bits, loss in own.items()
    )


def test_prices_and_changes_along_the_frontier():
    # body lets go of 0.3 for 4000 bits, head of 0.1 for 2000: body is raised first
    found = explain(ask(table(), "size<=11000bit"), "head")
    assert found.prices["size"] == pytest.approx(0.1 / 2000)
    taken = {str(a.row.choice): a.taken for a in found.alternatives}
    assert taken == {"w8a8": False, "w4a4": True}
    assert found.below is None
    assert (str(found.above.row.choice), found.above.at) == ("w8a8", 12896)
    body = explain(ask(table(), "size<=11000bit"), "body")
    assert (str(body.below.row.choice), body.below.at) == ("w4a4", 6896)
    assert body.above is None and body.tied == ()


def test_a_kept_unit():
    found = explain(ask(table(), "size<=11000bit"), "stem")
    (only,) = found.alternatives
    assert only.taken and only.forced == 0 and found.below is found.above is None


def test_forced_choices_against_brute_force():
    for seed in range(40):
        tried = random_table(seed, units=4)
        r = random.Random(seed)
        rows = {unit: r.choice(tried.of(unit)) for unit in tried.units}
        limits = {name: value(rows, name) for name in r.sample(["size", "bops"], r.randint(1, 2))}
        asked = [budget(name, limit) for name, limit in limits.items()]
        best = allocate(tried, asked, advise=False)
        unit = r.choice(tried.units)
        found = explain(ask(tried, asked), unit)
        held = [
            c
            for c in configurations(tried)
            if all(value(c, name) <= limit for name, limit in limits.items())
        ]
        for alternative in found.alternatives:
            with_it = [value(c, "loss") for c in held if c[unit] == alternative.row]
            expected = None if not with_it else float(min(with_it) - value(best.rows, "loss"))
            if alternative.taken:
                assert alternative.forced == 0
            elif expected is None:
                assert alternative.forced is None
            else:
                assert alternative.forced == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert sum(a.taken for a in found.alternatives) == (1 if held else 0)


def test_minimising_a_cost_and_several_budgets():
    question = ask(table(), "loss<=0.2 and bops<=1", "size")
    found = explain(question, "head")
    assert {a.row.choice.w_bits for a in found.alternatives if a.taken} == {4}
    assert found.above.cost == "size" and found.above.row.choice.w_bits == 8
    several = explain(ask(table(), "size<=11000bit and bops<=0.05"), "head")
    assert set(several.prices) == {"size", "bops"}


def test_tied_units_are_named_and_nothing_to_explain_is_no_error():
    tied = make_table(
        row(unit, Choice(w, w), 1 / w, 100, 100, group="g") for unit in "ab" for w in (8, 4)
    )
    found = explain(ask(tied, "size<=0.2"), "b")
    assert found.tied == ("a",)
    nothing = explain(ask(tied, "size<=0.01"), "b")
    assert not any(a.taken for a in nothing.alternatives)
    assert all(a.forced is None for a in nothing.alternatives)
    with pytest.raises(RunDirectoryError, match="unknown unit 'c'"):
        explain(ask(tied, "size<=0.2"), "c")
