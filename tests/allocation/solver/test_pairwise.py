"""The quadratic program against brute force."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from allocation_cases import budget, configurations, random_table, row, some_limits, value

from bitwright.allocation.allocate import allocate
from bitwright.allocation.solver.pairwise import allocate_pairs, terms_of
from bitwright.allocation.table import make_table
from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice


def some_terms(table, seed):
    r = random.Random(seed)
    spread = max((abs(found.loss_delta or 0) for found in table.rows), default=1) or 1
    terms = {}
    for _ in range(r.randint(0, 12)):
        if len(table.units) < 2:
            break
        first, second = r.sample(table.units, 2)
        a, b = (r.choice(table.of(unit)).choice for unit in (first, second))
        terms[(first, a), (second, b)] = r.uniform(-1, 1) * spread
    return terms


def corrected(configuration, terms):
    total = value(configuration, "loss")
    for ((first, a), (second, b)), delta in terms.items():
        if configuration[first].choice == a and configuration[second].choice == b:
            total += Decimal(repr(delta))
    return total


def test_equal_to_brute_force_in_both_directions():
    for seed in range(150):
        table = random_table(seed, units=5)
        terms = some_terms(table, seed)
        r = random.Random(seed)
        everything = list(configurations(table))
        if r.random() < 0.6:
            limits = some_limits(table, r.sample(["size", "bops"], r.randint(1, 2)), seed)
            asked, minimize = [budget(n, lim) for n, lim in limits.items()], ""
            held = [c for c in everything if all(value(c, n) <= x for n, x in limits.items())]
            truth = min((corrected(c, terms) for c in held), default=None)
        else:
            limit = corrected(r.choice(everything), terms)
            asked, minimize = [budget("loss", limit)], "size"
            held = [c for c in everything if corrected(c, terms) <= limit]
            truth = min((value(c, "size") for c in held), default=None)
        found = allocate_pairs(table, asked, terms, minimize=minimize)
        if truth is None:
            assert found.status == "infeasible", seed
            continue
        assert found.status == "optimal", seed
        reached = value(found.rows, "size") if minimize else corrected(found.rows, terms)
        assert reached == truth, seed
        assert found.loss == float(corrected(found.rows, terms)), seed
        assert f"{len(terms)} pairwise terms" in found.note


def test_a_term_turns_the_answer():
    table = make_table(
        row(unit, Choice(w, w), loss if w == 4 else 0.0, 100, 100)
        for unit, loss in (("a", 0.1), ("b", 0.2), ("c", 0.25))
        for w in (8, 4)
    )
    asked = f"size<={8 * 300 + 96 - 800}bit"  # two of three at 4 bits
    assert {u for u, c in allocate(table, asked).choices.items() if c.w_bits == 4} == {"a", "b"}
    terms = terms_of({("a", "b"): {(Choice(4, 4), Choice(4, 4)): 0.3}})
    found = allocate_pairs(table, asked, terms)
    assert {u for u, c in found.choices.items() if c.w_bits == 4} == {"a", "c"}
    assert found.loss == pytest.approx(0.35)


def test_terms_of_what_is_not_there():
    table = make_table([row(u, Choice(8, 8), 0.0, 1, 1) for u in ("left", "right")])
    eight, four = Choice(8, 8), Choice(4, 4)
    for key, told in (
        ((("left", eight), ("rigth", eight)), "unknown unit 'rigth'.*'right'"),
        ((("left", four), ("right", eight)), "unknown choice 'w4a4'.*unit 'left'"),
        ((("left", eight), ("left", eight)), "names unit 'left' twice"),
    ):
        with pytest.raises(RecipeError, match=told):
            allocate_pairs(table, "size<=1", {key: 0.1})
