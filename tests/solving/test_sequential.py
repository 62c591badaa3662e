"""The sequential mode: each unit on what the quantised units before it give, in two passes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from runs_of import ADAQUANT, QUADRATIC, Odd, Residual, counting, run_of, solving_of, tiny

from bitwright.engine.digest import digest
from bitwright.graph.execute import walk
from bitwright.graph.rows import geometry, input_rows
from bitwright.graph.simulate import stitch
from bitwright.graph.units import input_of
from bitwright.methods.adaquant import AdaQuant
from bitwright.solving.cuts import CutPlaces, places
from networks import pictures, seeded, small_network

KEEP_ALL = replace(ADAQUANT, learned=("weight", "bias", "weight_quantizer", "input_quantizer"))


@cache
def network(kind="residual"):
    made = {"residual": lambda: Residual(4), "deep": lambda: Residual(12), "odd": Odd}[kind]
    return seeded(made).eval()


def data_of(kind):
    return pictures(40, seed=1, size=16) if kind == "odd" else tiny()


def inputs_in(run, module, names):
    """The values of some nodes when the whole data go through a module, one batch at a time."""
    seen = {name: [] for name in names}

    def visit(node, value):
        if node.name in seen:
            seen[node.name].append(value)

    for flat in run.work.batches():
        walk(module, flat, visit)
    return seen


@pytest.mark.parametrize("by_output", [False, True], ids=["as observed", "by output"])
@pytest.mark.parametrize("kind", ["residual", "odd"])
def test_a_unit_is_given_what_the_deployed_network_gives(monkeypatch, kind, by_output):
    """Bit for bit, for units whose weight is used once: the sums that stand before it are those of
    the network that comes out in the end, its grids included. The target is the float network's.
    """
    run = run_of(network(kind), data_of(kind), "w3a4", "sequential", method=KEEP_ALL)
    run = run.but(by_output=by_output)
    with solving_of(monkeypatch, AdaQuant) as given:
        assignment = run.assignment()
    problems = {problem.name: problem for problem in given}
    graph = run.work.graph
    nodes = graph.nodes()
    once = [u for u in graph.units if len(u.calls) == 1]
    sources = {u.name: input_of(nodes[u.calls[0]]).name for u in once}
    deployed = inputs_in(run, stitch(graph, assignment), set(sources.values()))
    true = inputs_in(run, graph.module, {u.calls[0] for u in once})
    assert len(once) >= len(graph.units) - 1
    fit = [i for i in range(10) if i != 7]
    for unit in once:
        problem = problems[unit.name]
        source = deployed[sources[unit.name]]
        if nodes[sources[unit.name]].target is torch.ops.aten.pad.default:
            # Quantised before it is padded: the grid is on the edge into the padding.
            source = [torch.nn.functional.pad(v, (0, 1, 0, 1)) for v in read(run, assignment)]
        form = geometry(unit, nodes[unit.calls[0]])
        x = torch.cat([input_rows(source[i], form, 1 << 20, 0) for i in fit], 1)
        assert torch.equal(problem.samples.x, x), unit.name
        y = torch.cat([rows_out(true[unit.calls[0]][i]) for i in fit])
        mine = problem.samples.y.permute(1, 0, 2).flatten(1)
        assert torch.allclose(mine, y, atol=1e-4), unit.name


def read(run, assignment):
    """What the padding of the odd network reads, as the deployed network has it."""
    return inputs_in(run, stitch(run.work.graph, assignment), {"relu"})["relu"]


def rows_out(value):
    return value.movedim(1, -1).reshape(-1, value.shape[1]) if value.dim() == 4 else value


def test_learned_input_grids_reach_the_network():
    run = run_of(network(), tiny(), "w4a4", "sequential", method=KEEP_ALL)
    strong = replace(KEEP_ALL, iterations=30, input_range_rate=0.05)
    found, edges = run.but(method=strong).solved()
    moved = 0
    for (name, _), solution in found.items():
        for site in run.work.sites_of[name]:
            now = edges[site.source, site.reader]
            assert digest(now) == digest(solution.inputs[0])
            moved += digest(now) != digest(run.edges[site.source, site.reader])
    assert moved > 0


@pytest.mark.parametrize("kind", ["residual", "odd"])
def test_where_the_cuts_lie_changes_no_bit(monkeypatch, kind):
    """Nothing stored, everything computed again from the input: the same solutions."""
    run = run_of(network(kind), data_of(kind), "w4a4", "sequential", method=ADAQUANT)
    before = run.bits()
    monkeypatch.setattr("bitwright.solving.cuts.CUT_BYTES", 0)
    assert run.bits() == before


def test_no_cut_where_later_units_have_already_been():
    """Behind a weight's last use, or a late activation, stand results of units still unsolved."""
    run = run_of(network("odd"), data_of("odd"), "w4a4", "sequential")
    names = [unit.name for unit in run.work.graph.units]
    assert names == ["stem", "twice", "between", "gate", "up", "padded", "head"]
    found = places(run.work)
    # `padded` begins with its padding, right behind the stem.
    assert found.all_fit == (True, False, False, False, False, True, True)
    plain = places(run_of(network(), tiny(), "w4a4", "sequential").work)
    assert all(plain.all_fit) and all(plain.some_fit)


def test_where_to_cut_for_a_unit():
    found = CutPlaces((False, False, True, False), (False, True, True, True))
    assert [found.before(i) for i in range(5)] == [
        (-1, False), (-1, False), (1, False), (2, True), (2, True),
    ]  # fmt: skip


@pytest.mark.parametrize("method", [QUADRATIC, ADAQUANT], ids=["quadratic", "adaquant"])
def test_forward_work_is_about_two_passes(monkeypatch, method):
    """On fourteen units: one pass in float, one quantised, and a batch for the sizes of values."""
    run = run_of(network("deep"), tiny(), "w4a4", "sequential", method=method)
    units = run.work.graph.units
    one_pass = run.work.samples * sum(unit.macs for unit in units)
    assert len(units) == 14
    with counting(monkeypatch) as done:
        run.solved()
    assert 1.9 * one_pass < done.macs <= 2.1 * one_pass


def test_forward_work_where_nothing_can_be_stored(monkeypatch):
    """What the cuts save: without them every unit costs all that is before it."""
    run = run_of(network("deep"), tiny(), "w4a4", "sequential")
    one_pass = run.work.samples * sum(unit.macs for unit in run.work.graph.units)
    monkeypatch.setattr("bitwright.solving.cuts.CUT_BYTES", 0)
    with counting(monkeypatch) as done:
        run.solved()
    assert done.macs > 10 * one_pass


def test_wide_layers_see_a_part_of_the_samples(monkeypatch):
    """Where all samples do not fit, some do: the first units are solved on those."""
    run = run_of(network(), tiny(), "w4a4", "sequential", method=ADAQUANT)
    monkeypatch.setattr("bitwright.solving.cuts.WIDE_SAMPLES", 16)
    # Room for the values behind a convolution of 16 samples, not of 40; behind the head for all.
    monkeypatch.setattr("bitwright.solving.cuts.CUT_BYTES", 2 * 16 * 6 * 64 * 4)
    with solving_of(monkeypatch, AdaQuant) as given:
        first = run.bits()
    rows = {p.name: p.gram.count + (p.held_out.count if p.held_out else 0) for p in given}
    assert rows["stem"] == 16 * 64 and rows["body.2"] == 16 * 64
    assert run.bits() == first


def test_float_units_are_left_out_and_keep_their_place():
    run = run_of(network(), tiny(), "w4a4", "sequential", keep={"body.1": "float"})
    ticks = []
    found, edges = run.solved(ticks.append)
    assert [name for name, _ in found] == ["stem", "body.0", "body.2", "body.3", "head"]
    assert ticks == [1, 2, 3, 4, 5, 6] and set(edges) == set(run.edges)


def test_the_quantised_error_is_made_good():
    """With weights of two bits, solutions that know of the errors before them end nearer."""
    net, x = small_network(), pictures(48, seed=5)
    errors = {}
    for mode in ("parallel", "sequential"):
        run = run_of(net, pictures(128, seed=1), "w2a8", mode, batch=8)
        module = stitch(run.work.graph, run.assignment())
        with torch.no_grad():
            errors[mode] = float((module(x) - net(x)).square().mean())
    assert errors["sequential"] < 0.7 * errors["parallel"]


def test_a_unit_without_a_bias_gets_one():
    """What its quantised input shifts on average; the network takes it in at every call."""
    run = run_of(network("odd"), data_of("odd"), "w4a4", "sequential")
    assert {unit.name for unit in run.work.graph.units if unit.bias is None} == {"up"}
    assignment = run.assignment()
    assert assignment.biases["up"].q.shape == (4,)
    module = stitch(run.work.graph, assignment)
    (call,) = (n for n in module.graph.nodes if n.name == "conv2d_5")
    assert call.args[2] is not None
