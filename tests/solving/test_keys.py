"""Keys of the store: everything that can change a solution changes its key, nothing else does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from runs_of import ADAQUANT, QUADRATIC, Memory, Residual, rows, run_of, tiny
from torch import nn

from bitwright.graph.choice import parse_scheme
from bitwright.graph.target import load_target
from bitwright.methods.catalogue import METHODS
from bitwright.solving import solve
from bitwright.solving.keys import run_key, unit_key
from networks import Chain, seeded


@cache
def base(seed=0):
    net = seeded(lambda: Chain(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), seed).eval()
    return run_of(net, rows())


def key(run, mode="parallel", edges=None):
    return run_key(solve, run.work, mode, run.edges if edges is None else edges)


CHANGES = {
    "data": {"data": "another"},
    "seed": {"seed": 1},
    "samples": {"samples": 39},
    "batch": {"batch": 8},
    "method": {"method": METHODS["adaround"]},
    "setting": {"method": replace(QUADRATIC, ridge=0.01)},
    "one iteration more": {"method": replace(ADAQUANT, iterations=11)},
    "what is learned": {"method": replace(ADAQUANT, learned=("weight",))},
    "ranges by output": {"by_output": True},
    "target": {"target": replace(load_target("paper"), bias_bits=0)},
}


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_shapes_a_solution_is_in_the_key(change, mode):
    changed = base().but(**CHANGES[change])
    assert key(changed, mode) != key(base(), mode)
    assert key(changed, mode) == key(base().but(**CHANGES[change]), mode)


def test_every_change_has_its_own_key():
    keys = {key(base().but(**change)) for change in CHANGES.values()}
    assert len(keys | {key(base()), key(base(), "sequential"), key(base(1))}) == len(CHANGES) + 3


def test_where_and_by_whom_a_run_is_solved_is_not_in_the_key():
    assert key(base().but(store=Memory(), workers=2)) == key(base())


def test_grids_before_a_unit_count_where_they_shape_its_input():
    """In the parallel mode a unit depends on its own alone."""
    run = base()
    (edge, qp), *_ = run.edges.items()
    other = {**run.edges, edge: replace(qp, zero_point=qp.zero_point + 1)}
    assert key(run, "sequential", other) != key(run, "sequential")
    assert key(run, "parallel", other) == key(run, "parallel")
    work, unit = run.work, run.work.graph.units[0]
    choice = work.menu[unit.name][0]
    shifted = tuple(replace(g, zero_point=g.zero_point + 1) for g in work.grids[unit.name, choice])
    one = unit_key("base", unit, choice, work.grids[unit.name, choice])
    assert unit_key("base", unit, choice, shifted) != one


def test_each_unit_and_choice_has_its_own_key():
    run = base()
    first, second = run.work.graph.units
    grids = run.work.grids[first.name, run.work.menu[first.name][0]]
    schemes = [parse_scheme(s) for s in ("w4a4", "w2a4", "w4a8")]
    schemes.append(replace(schemes[0], points=2))
    keys = {unit_key("base", u, c, grids) for u in (first, second) for c in schemes}
    keys.add(unit_key("other", first, schemes[0], grids))
    assert len(keys) == 9


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_changed_run_takes_nothing_from_the_store(mode):
    """By what a store is asked and given: the same run again all, another none."""
    run = run_of(seeded(Residual).eval(), tiny(), mode=mode)
    units = len(run.work.graph.units)
    store = Memory()
    first = run.but(store=store).bits()
    assert (store.counts.hits, store.counts.puts) == (0, units)
    assert run.but(store=store).bits() == first == run.bits()
    assert (store.counts.hits, store.counts.puts) == (units, units)
    for change in ({"data": "another"}, {"seed": 1}, {"method": replace(QUADRATIC, sweeps=3)}):
        hits, puts = store.counts.hits, store.counts.puts
        run.but(store=store, **change).bits()
        assert (store.counts.hits, store.counts.puts) == (hits, puts + units)
    scheme = run_of(seeded(Residual).eval(), tiny(), "w3a4", mode).but(store=store)
    hits = store.counts.hits
    scheme.bits()
    assert store.counts.hits == hits


def test_a_larger_menu_takes_what_the_smaller_left():
    """In the parallel mode units and choices are independent of one another."""
    net, store = seeded(Residual).eval(), Memory()
    small = run_of(net, tiny(), "w4a4").but(store=store)
    units = len(small.work.graph.units)
    alone = small.solved()[0]
    large = run_of(net, tiny(), "w4a4,w2a4").but(store=store).solved()[0]
    assert store.counts.hits == units and store.counts.puts == 2 * units
    assert len(large) == 2 * units and set(alone) < set(large)
