"""The parallel mode: every unit and choice on its own, in few passes, by any number of workers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs_of import ADAQUANT, QUADRATIC, Residual, counting, run_of, solving_of, tiny
from torch import nn

from bitwright.engine.digest import digest
from bitwright.engine.store import Store
from bitwright.methods.catalogue import METHODS
from bitwright.solving.parallel import _group_sizes
from networks import Chain, normal, seeded, small_network

MENU = "w8a8,w4a8,w4a4,w2a4"


@cache
def network():
    return seeded(Residual).eval()


@cache
def whole_menu(method):
    return run_of(network(), tiny(), MENU, method=method).solved()[0]


@pytest.mark.parametrize("method", [QUADRATIC, ADAQUANT], ids=["quadratic", "adaquant"])
@pytest.mark.parametrize("scheme", MENU.split(","))
def test_a_menu_gives_each_choice_the_bits_that_it_has_alone(scheme, method):
    alone = run_of(network(), tiny(), scheme, method=method).solved()[0]
    together = whole_menu(method)
    assert len(together) == 4 * len(alone)
    for task, solution in alone.items():
        assert digest(solution) == digest(together[task]), task


def test_units_have_menus_of_their_own():
    run = run_of(network(), tiny(), "w4a4,w2a2", keep={"stem": "w8a8", "head": "float"})
    found, _ = run.solved()
    names = [name for name, _ in found]
    assert names.count("stem") == 1 and "head" not in names and names.count("body.0") == 2
    assert list(found) == run.work.tasks()


def test_solutions_come_in_the_networks_order_and_are_ticked():
    ticks = []
    found, _ = run_of(network(), tiny(), MENU).solved(ticks.append)
    assert ticks == list(range(len(found) + 1))


@pytest.mark.parametrize("method", [QUADRATIC, ADAQUANT], ids=["quadratic", "adaquant"])
def test_grouping_and_spooling_change_no_bit(monkeypatch, method):
    """Units one after the other for want of memory, and rows on disk."""
    run = run_of(network(), tiny(), "w4a4", method=method)
    before = run.bits()
    monkeypatch.setattr("bitwright.solving.parallel.GRAM_BYTES", 1)
    assert run.bits() == before
    monkeypatch.setattr("bitwright.solving.parallel.SAMPLE_BYTES", 0)
    assert run.bits() == before


def test_one_pass_over_the_data_serves_all_units_and_choices(monkeypatch):
    run = run_of(network(), tiny(), MENU)
    per_sample = sum(unit.macs for unit in run.work.graph.units)
    with counting(monkeypatch) as done:
        run.solved()
    # The last unit's own product is not needed: it is solved from its input.
    head = run.work.graph.units[-1].macs
    assert done.macs == run.work.samples * (per_sample - head)


def test_a_pass_for_each_group_that_fits_into_memory(monkeypatch):
    run = run_of(network(), tiny(), "w4a4")
    monkeypatch.setattr("bitwright.solving.parallel.GRAM_BYTES", 1)
    units = run.work.graph.units
    with counting(monkeypatch) as done:
        run.solved()
    behind = sum(sum(u.macs for u in units[:i]) for i in range(len(units)))
    assert done.macs == run.work.samples * behind


def test_what_is_stored_needs_no_pass(monkeypatch, tmp_path):
    run = run_of(network(), tiny(), MENU).but(store=Store(tmp_path))
    first = run.bits()
    again = run.but(store=Store(tmp_path))
    with counting(monkeypatch) as done, solving_of(monkeypatch) as given:
        assert again.bits() == first
    assert done.macs == 0 and given == []
    assert again.work.store.counts.misses == 0


@pytest.mark.parametrize("method", [QUADRATIC, ADAQUANT], ids=["quadratic", "adaquant"])
def test_two_workers_give_the_bits_of_one(monkeypatch, method):
    """Also where the rows that one worker kept in memory are on the others' disk."""
    run = run_of(network(), tiny(), "w4a4,w2a4", method=method)
    before = run.bits()
    monkeypatch.setattr("bitwright.solving.parallel.SAMPLE_BYTES", 1 << 16)
    assert run.but(workers=2).bits() == before


def test_problems_hold_what_the_float_network_gives(monkeypatch):
    """Inputs and outputs of every unit, as the network itself computes them; an eighth apart."""
    run = run_of(network(), tiny(), "w4a8", method=ADAQUANT)
    with solving_of(monkeypatch, type(ADAQUANT)) as given:
        run.solved()
    by_name = {problem.name: problem for problem in given}
    net, x = network(), tiny()
    with torch.no_grad():
        stem = torch.relu(net.stem(x))
        first = net.body[0](stem)
    apart = torch.arange(40).reshape(10, 4) // 4 == 7
    fit = ~apart.reshape(-1)
    problem = by_name["body.0"]
    centre = problem.samples.x[0].reshape(36, 64, 6, 9)[..., 4]
    want = stem[fit].permute(0, 2, 3, 1).reshape(36, 64, 6)
    assert torch.allclose(centre, want, atol=1e-5)
    out = problem.samples.y[0].reshape(36, 64, 6)
    assert torch.allclose(out, first[fit].permute(0, 2, 3, 1).reshape(36, 64, 6), atol=1e-4)
    assert problem.samples_apart.x.shape[1] == 4 * 64
    assert problem.gram.count == 36 * 64 and problem.held_out.count == 4 * 64
    assert by_name["stem"].activation.name == "relu"
    assert by_name["stem"].free_inputs and problem.activation is None


def test_units_of_every_kind_and_those_that_cannot_be_solved():
    net = small_network(width=8)
    found, _ = run_of(net, tiny(), "w4a8").solved()
    assert all(s.fallback is None or "above nearest" in s.fallback for s in found.values())
    cube = Chain(nn.Conv3d(2, 3, 1), nn.Flatten(), nn.Linear(24, 2)).eval()
    found, _ = run_of(cube, normal(40, 2, 2, 2, 2), "w4a8").solved()
    reasons = {name: solution.fallback for (name, _), solution in found.items()}
    assert reasons == {"m0": "no calibration rows", "m2": None}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_solves_a_network_without_touching_it(name):
    run = run_of(network(), tiny(), "w4a4", method=shortened(METHODS[name]))
    before = run.work.graph.digest()
    found, edges = run.solved()
    assert run.work.graph.digest() == before and len(found) == len(run.work.tasks())
    assert set(edges) == set(run.edges)
    for (unit, _), solution in found.items():
        for site in run.work.sites_of[unit]:
            assert digest(edges[site.source, site.reader]) == digest(solution.inputs[0])


def shortened(method):
    return replace(method, iterations=8) if method.needs.backward else method


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 20))
def test_groups_are_few_and_their_greatest_is_least(needs, limit):
    sizes = _group_sizes(needs, limit)
    assert sum(sizes) == len(needs)

    def sums(cut):
        ends = [0, *accumulate(cut)]
        return [sum(needs[a:b]) for a, b in pairwise(ends)]

    def allowed(cut):
        ends = [0, *accumulate(cut)]
        parts = [needs[a:b] for a, b in pairwise(ends)]
        return all(sum(p) <= limit or sum(n > 0 for n in p) == 1 for p in parts)

    assert allowed(sizes)
    if not needs:
        return
    cuts = []
    for marks in product([False, True], repeat=len(needs) - 1):
        ends = [0, *(i + 1 for i, mark in enumerate(marks) if mark), len(needs)]
        cuts.append([b - a for a, b in pairwise(ends)])
    fewest = min(len(cut) for cut in cuts if allowed(cut))
    assert len(sizes) == fewest
    alike = [cut for cut in cuts if len(cut) == fewest and allowed(cut)]
    assert max(sums(sizes)) == min(max(sums(cut)) for cut in alike)
