"""Suffixes start where a variant begins to differ, run once, and hold little."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.graph.answers import Answer
from bitwright.graph.capture import capture
from bitwright.graph.change import change_of, with_changes
from bitwright.graph.choice import parse_scheme
from bitwright.graph.execute import bind, first_tensor, outputs_of, walk
from bitwright.graph.installed import find_touched, install, reinstall
from bitwright.graph.simulate import Assignment, stitch
from bitwright.graph.suffix import suffix_of
from bitwright.graph.variants import prepare, run_variants, values_of, wanted_nodes
from bitwright.graph.work import OperationCount, macs_of
from nearest_menu import solve_menu
from networks import Tied, TwoTowers, normal, pictures, seeded, small_network

W4A4 = parse_scheme("w4a4")


@pytest.fixture(scope="module")
def solved():
    return solve_menu(small_network(), [pictures(6)])


def bound(solved):
    return bind(solved.graph, solved.chunks[0].inputs)


def groups_of(solved):
    return {
        unit: {c: (change,) for c, change in of.items() if change is not None}
        for unit, of in solved.changes.items()
    }


def suffix_for(solved, unit):
    change = solved.changes[unit][W4A4]
    wanted = wanted_nodes(solved.graph, bound(solved), OperationCount())
    return suffix_of(solved.graph, find_touched(solved.graph, [change]), wanted)


def test_only_what_depends_on_the_unit_is_in_its_suffix(solved):
    suffix = suffix_for(solved, "project")
    assert [n.name for n in suffix.nodes][:2] == ["conv2d_2", "add"]
    assert [n.name for n in suffix.inputs] == ["relu6", "relu"]
    names = {n.name for n in suffix.nodes}
    assert "relu6" not in names and "conv2d_1" not in names and "linear" in names
    assert len(suffix_for(solved, "head").nodes) == 1


def test_everything_outside_runs_once(solved):
    """Each group's own work, and one walk of the base, add up to all that was run."""
    work = OperationCount()
    prepared = prepare(
        solved.graph, solved.base, groups_of(solved), bound(solved), OperationCount(), 0
    )
    todo = {unit: list(of) for unit, of in groups_of(solved).items()}
    list(run_variants(prepared, bound(solved), todo, work))
    per_call = {u.name: 6 * u.macs for u in solved.graph.units}
    order = list(per_call)
    want = sum(4 * per_call[b] for i, a in enumerate(order) for b in order[i:])
    # The head's input is the last value that any suffix starts from: the head itself is not run.
    want += sum(per_call.values()) - per_call["head"]
    assert work.macs == want


def test_several_variants_share_a_pass(solved):
    calls = []
    prepared = prepare(
        solved.graph, solved.base, groups_of(solved), bound(solved), OperationCount(), 1 << 30
    )
    assert all(size is not None for size in prepared.sample_bytes.values())

    class Counting(OperationCount):
        def add(self, target, args, result):
            calls.append(target)

    todo = {"stem": list(groups_of(solved)["stem"])}
    outputs = dict(run_variants(prepared, bound(solved), todo, Counting()))["stem"]
    assert list(outputs) == todo["stem"] and len({id(v) for v in outputs.values()}) == 4
    # No base node before the stem, four stems, everything behind them once.
    assert len(calls) == 4 + sum(n.op == "call_function" for n in solved.graph.nodes().values()) - 1


def test_the_bound_on_bytes_decides_how_many(solved):
    few = prepare(
        solved.graph, solved.base, groups_of(solved), bound(solved), OperationCount(), 400_000
    )
    need = few.sample_bytes["stem"] * 6
    assert need < 400_000 < 4 * need
    todo = {"stem": list(groups_of(solved)["stem"])}
    wide = dict(run_variants(few, bound(solved), todo, OperationCount()))["stem"]
    for choice, output in wide.items():
        module = stitch(solved.graph, with_changes(solved.base, groups_of(solved)["stem"][choice]))
        assert torch.allclose(output, walk(module, bound(solved))[0], atol=1e-5)


def test_groups_come_as_soon_as_they_can(solved):
    prepared = prepare(
        solved.graph, solved.base, groups_of(solved), bound(solved), OperationCount()
    )
    todo = {unit: [W4A4] for unit in groups_of(solved)}
    came = [name for name, _ in run_variants(prepared, bound(solved), todo, OperationCount())]
    assert came == ["stem", "depthwise", "project", "grouped", "head"]
    assert not list(run_variants(prepared, bound(solved), {"stem": []}, OperationCount()))


def test_grad_mode_is_left_as_it_was(solved):
    prepared = prepare(
        solved.graph, solved.base, groups_of(solved), bound(solved), OperationCount()
    )
    for _, outputs in run_variants(prepared, bound(solved), {"head": [W4A4]}, OperationCount()):
        assert torch.is_grad_enabled()
        assert not outputs[W4A4].requires_grad


def test_the_wanted_value_is_what_metrics_read():
    batch = {"first": normal(4, 4), "second": normal(4, 6)}
    graph = capture(seeded(TwoTowers).eval(), batch)
    (node,) = wanted_nodes(graph, bind(graph, batch), OperationCount())
    want = first_tensor(outputs_of(graph, walk(graph.module, bind(graph, batch))))
    got = values_of(graph, install(graph, Assignment({}, {}, {})), bind(graph, batch), (node,),
                    OperationCount())[node]  # fmt: skip
    assert torch.equal(got, want)


def test_a_constant_first_output_is_not_the_answer():
    class Anchors(nn.Module):
        def __init__(self):
            super().__init__()
            self.anchors, self.head = nn.Parameter(torch.ones(4, 2)), nn.Linear(6, 3)

        def forward(self, x):
            return self.anchors, self.head(x)

    graph = capture(Anchors().eval(), (normal(4, 6),))
    (node,) = wanted_nodes(graph, bind(graph, (normal(4, 6),)), OperationCount())
    assert node.name in graph.unit("head").calls
    stored = replace(graph, answer=Answer("scores", (0,)))
    with pytest.raises(DataError, match="does not depend on its input"):
        wanted_nodes(stored, bind(graph, (normal(4, 6),)), OperationCount())


# ---- changes ---------------------------------------------------------------------------------


def test_a_change_there_and_back(solved):
    unit = solved.graph.unit("grouped")
    base = change_of(unit, solved.base, solved.sites)
    there = with_changes(solved.base, [solved.changes["grouped"][W4A4]])
    assert there.weights["grouped"].qparams.grid.bits == 4
    assert there.weights["stem"] is solved.base.weights["stem"]
    assert solved.base.weights["grouped"].qparams.grid.bits == 8
    back = with_changes(there, [base])
    for name in ("weights", "biases", "edges"):
        assert dict(getattr(back, name)) == dict(getattr(solved.base, name))


def test_a_float_change_takes_everything_away(solved):
    unit = solved.graph.unit("grouped")
    change = change_of(unit, Assignment({}, {}, {}), solved.sites)
    assert change.weight is None and list(change.edges.values()) == [None]
    after = with_changes(solved.base, [change])
    assert "grouped" not in after.weights and "grouped" not in after.biases
    assert len(after.edges) == len(solved.base.edges) - 1
    installed = reinstall(solved.graph, install(solved.graph, solved.base), [change])
    assert "conv2d_3" not in installed.weights and ("relu_1", "conv2d_3") not in installed.edges


def test_both_calls_of_a_shared_weight_are_touched():
    solved = solve_menu(seeded(Tied).eval(), [normal(8, 6)])
    assert find_touched(solved.graph, [solved.changes["twice"][W4A4]]) == {"linear", "linear_1"}
    assert len(install(solved.graph, solved.base).weights) == 3


# ---- counting --------------------------------------------------------------------------------

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Conv2d(6, 8, 3, 2, 1, groups=2), normal(3, 6, 9, 9)),
        (lambda: nn.Conv1d(6, 8, 3), normal(3, 6, 9)),
        (lambda: nn.ConvTranspose2d(6, 8, 3, 2, groups=2), normal(3, 6, 5, 5)),
        (lambda: nn.Linear(6, 8), normal(3, 4, 6)),
    ],
    ids=["grouped", "conv1d", "transposed", "linear"],
)
def test_macs_agree_with_the_units(make, x):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = make()

        def forward(self, x):
            return self.unit(x)

    graph = capture(seeded(One).eval(), (x,))
    work = OperationCount()
    (wanted,) = wanted_nodes(graph, bind(graph, (x,)), OperationCount())
    values_of(graph, install(graph, Assignment({}, {}, {})), bind(graph, (x,)), (wanted,), work)
    assert work.macs == 3 * graph.units[0].macs > 0


def test_macs_of_products():
    a, b = normal(2, 3, 4), normal(2, 4, 5)
    assert macs_of(aten.matmul.default, (a, b), a @ b) == 2 * 3 * 4 * 5
    assert macs_of(aten.bmm.default, (a, b), a @ b) == 2 * 3 * 4 * 5
    q, k, v = normal(2, 2, 3, 4), normal(2, 2, 7, 4), normal(2, 2, 7, 4)
    got = macs_of(aten.scaled_dot_product_attention.default, (q, k, v), q)
    assert got == 2 * 2 * 3 * 7 * (4 + 4)
    assert macs_of(aten.relu.default, (a,), a) == 0
    assert macs_of(aten.embedding.default, (b, a), b) == 0
