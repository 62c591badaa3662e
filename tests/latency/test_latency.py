"""Latency: attribution by names, designs, the table's sums, its file; no duration is asserted."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import onnx
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.allocation.latency_csv import (
    COLUMNS,
    REST_ROW,
    read_latencies,
    write_latencies,
)
from bitwright.allocation.latency_table import Conditions, LatencyCell, LatencyTable, predict
from bitwright.errors import RecipeError, RunDirectoryError
from bitwright.export.onnx_file import unit_values
from bitwright.export.samples import flat_example
from bitwright.graph.choice import FLOAT, Choice, parse_menu
from bitwright.latency import measure as measuring
from bitwright.latency import timing
from bitwright.latency.attribution import owners_of
from bitwright.latency.designs import kernel, mixtures, plan, tabulate
from bitwright.latency.measure import TimingSettings, feed_of, latencies, menu_for, time_networks
from bitwright.latency.plain_graph import REST, attribute, read_graph
from bitwright.latency.time_here import TimedRuns, Timing, operator_ms, spread
from networks import Tied, normal, pictures, seeded, small_network

HERE = Conditions("ort-cpu", 1, 1, "this one", "1.0")
W8, W4, W4A4 = Choice(8, 8), Choice(4, 8), Choice(4, 4)


@pytest.fixture(scope="module")
def captured():
    graph = bw.capture(small_network(), (pictures(2),))
    return graph, flat_example(graph, (pictures(2),))


def owners_in(graph, target, choice, example, tmp_path):
    """The owner of every operator that ONNX Runtime runs, with the operator's type."""
    write = measuring.file_writer(graph, bw.load_target(target), example)
    choices = {
        u.name: choice if not u.weight_only else replace(choice, a_bits=0) for u in graph.units
    }
    file = write(choices, tmp_path / "m.onnx")
    run = TimedRuns(file.path, file.owners, feed_of(graph, example, 1), 1, tmp_path / "runs")
    optimized = read_graph((tmp_path / "runs" / "optimized.onnx").read_bytes())
    assert run.plain.get_inputs()
    owner_of = attribute(optimized, file.owners)
    return [(node.op_type, owner_of[node.name]) for node in optimized.node]


# ---- attribution -----------------------------------------------------------------------------


def test_fused_operators_belong_to_their_units(captured, tmp_path):
    graph, example = captured
    found = owners_in(graph, "ort-cpu", W8, example, tmp_path)
    integer = [owner for op, owner in found if op in ("QLinearConv", "QGemm")]
    assert integer == ["stem", "depthwise", "project", "grouped", "head"]
    # The input is quantised, and brought into another layout, for the first unit.
    assert found[0] == ("QuantizeLinear", "stem")
    assert all(owner == "stem" for op, owner in found[:2] if op == "Transpose")
    # A residual add and the pooling are no unit.
    assert {owner for op, owner in found if op in ("QLinearAdd", "QLinearGlobalAveragePool")} == {
        REST
    }


def test_float_operators_belong_to_their_units(captured, tmp_path):
    """Activations and the residual add are fused into convolutions here, under other names."""
    graph, example = captured
    found = owners_in(graph, "ort-cpu", FLOAT, example, tmp_path)
    weighted = [owner for op, owner in found if op in ("Conv", "FusedConv", "Gemm")]
    assert weighted == ["stem", "depthwise", "project", "grouped", "head"]
    assert ("GlobalAveragePool", REST) in found


def test_unfused_conversions_belong_to_who_needs_them(captured, tmp_path):
    """On the paper's target results stay in float: every unit quantises its own input."""
    graph, example = captured
    found = owners_in(graph, "paper", W4A4, example, tmp_path)
    # Clamps that a range implies are left out, and a convolution may quantise its own result: which
    # of both a unit has left depends on its numbers.
    everyone = {"stem", "depthwise", "project", "grouped", "head"}
    for op in ("QuantizeLinear", "Clip"):
        assert {"stem", "grouped"} <= {owner for kind, owner in found if kind == op} <= everyone
    dequantized = [owner for kind, owner in found if kind == "DequantizeLinear"]
    assert set(dequantized) <= {u.name for u in graph.units}


def test_a_shared_weight_is_one_unit(tmp_path):
    graph = bw.capture(seeded(Tied).eval(), (normal(2, 6),))
    example = flat_example(graph, (normal(2, 6),))
    found = owners_in(graph, "weights-only", Choice(8, 0), example, tmp_path)
    assert [owner for op, owner in found if op in ("Gemm", "MatMul", "FusedGemm")] == [
        "twice", "twice", "head",
    ]  # fmt: skip


class Encoder(nn.Module):
    """An embedding, linear layers on three axes, a smooth activation, a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.wide = nn.Linear(16, 32)
        self.back = nn.Linear(32, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)

    def forward(self, ids):
        x = self.table(ids)
        x = self.norm(x + self.back(nn.functional.gelu(self.wide(x))))
        return self.head(x.mean(1))


def test_linear_layers_and_embeddings(tmp_path):
    ids = torch.arange(12).reshape(2, 6)
    graph = bw.capture(seeded(Encoder).eval(), (ids,))
    found = owners_in(graph, "paper", W8, flat_example(graph, (ids,)), tmp_path)
    assert {owner for _, owner in found} == {"table", "wide", "back", "head", REST}
    kinds = dict(found)
    assert kinds["Gather"] == "table"
    assert kinds.get("LayerNormalization", REST) == REST
    activation = [owner for op, owner in found if "Gelu" in op or op == "Erf"]
    assert set(activation) == {"wide"}


def test_a_files_own_nodes_have_owners(captured, tmp_path):
    graph, example = captured
    write = measuring.file_writer(graph, bw.load_target("ort-cpu"), example)
    write({u.name: W8 for u in graph.units}, tmp_path / "m.onnx")
    model = onnx.load(str(tmp_path / "m.onnx"))
    owners = owners_of(model, unit_values(model), graph.units)
    assert owners.nodes["node_relu"] == "stem" and owners.nodes["node_relu6"] == "depthwise"
    assert owners.weights["head.weight.q"] == "head"
    assert all(len(dims) > 1 for dims in dims_of(model, owners.weights))


def dims_of(model, names):
    return [t.dims for t in model.graph.initializer if t.name in names]


# ---- times -----------------------------------------------------------------------------------


def test_warm_runs_of_a_profile_count():
    def event(name, duration):
        return {
            "cat": "Node", "name": f"{name}_kernel_time", "dur": duration,
            "args": {"node_index": "1"},
        }  # fmt: skip

    events = [event("a", d) for d in (90, 10, 90, 20, 90, 30, 90, 900)]
    events += [{"cat": "Session", "name": "model_run", "dur": 5}, event("b", 7)]
    assert operator_ms(events) == {"a": 0.025, "b": 0.007}


def test_parts_sum_to_the_whole():
    slow = spread(1.0, {"a": 0.3, "b": 0.2, REST: 0.1})
    assert slow.units == {"a": 0.3, "b": 0.2} and slow.rest == pytest.approx(0.5)
    noisy = spread(1.0, {"a": 1.5, "b": 0.25, REST: 0.25})
    assert noisy.units == {"a": 0.75, "b": 0.125} and noisy.rest == pytest.approx(0.125)
    assert spread(1.0, {"a": 0.0}).units["a"] > 0


def test_files_take_turns_in_lots(tmp_path, monkeypatch):
    files = {}
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
        files[name] = timing.ExportedFile(tmp_path / name, None)
    monkeypatch.setattr(timing, "LOT_BYTES", 400)
    assert list(timing._lots(files)) == [["a", "b"], ["c"]]


# ---- designs ---------------------------------------------------------------------------------


def menu_of(text, units="abcdef"):
    return {unit: parse_menu(text) for unit in units}


def test_choices_that_the_runtime_sees_alike_are_timed_once():
    made = plan(menu_of("w{2..8}a{2..8}"))
    assert len(made.uniform) == 1 + 3 * 2 and not made.mixed
    assert kernel(Choice(3, 8)) == kernel(W4) != kernel(W4A4)


def test_every_choice_of_every_unit_is_in_a_network():
    menu = {**menu_of("w8a8,w4a4"), "table": (Choice(8, 0), Choice(4, 0)), "kept": (Choice(8, 16),)}
    made = plan(menu)
    for unit, own in menu.items():
        timed = {kernel(design.choices[unit]) for design in made.uniform.values()}
        assert {kernel(choice) for choice in (*own, FLOAT)} <= timed
    labels = [design.label for design in made.uniform.values()]
    assert labels == ["float", "w8a8", "w4a4"]  # the table and the kept unit go along


def test_single_float_units_are_apart():
    made = plan(menu_of("w8a8,w4a8,float", "abcdefgh"))
    assert len(made.mixed) == 2 * 3
    for mixed in made.mixed:
        flags = [mixed.design.choices[u] == FLOAT for u in "abcdefgh"]
        places = [i for i, flag in enumerate(flags) if flag]
        assert len(places) >= 2 and all(b - a == 3 for a, b in pairwise(places))
    for unit in "abcdefgh":
        assert sum(mixed.design.choices[unit] == FLOAT for mixed in made.mixed) == 2


def test_mixtures_are_of_the_menu_and_come_again():
    menu = menu_of("w8a8,float")
    first, second = mixtures(menu, 2)
    assert all(first.choices[u] in menu[u] for u in menu)
    assert first.choices == mixtures(menu, 1)[0].choices != second.choices


def invented(designs, units):
    """Timings with borders: a quantised unit takes 1 more before a float one, which takes 1/2."""

    def of(design):
        taken, own = {}, [design.choices[u] for u in units]
        for i, unit in enumerate(units):
            ms = 2.0 + i if own[i].is_float else 1.0 + own[i].w_bits / 10
            before = i > 0 and own[i - 1].is_float != own[i].is_float
            after = i + 1 < len(units) and own[i + 1].is_float != own[i].is_float
            ms += (before + after) / 2 if own[i].is_float else after
            taken[unit] = ms
        return Timing(sum(taken.values()) + 0.5, taken, 0.5)

    return {design: of(design) for design in designs}


def test_the_table_gives_back_networks_with_borders():
    units = "abcdefgh"
    menu = menu_of("w8a8,w4a8,float", units)
    made = plan(menu)
    table = tabulate(made, invented(made.designs, units), HERE)
    assert table.cells["c", W8] == LatencyCell(1.8, 0.0, pytest.approx(1.0))
    assert table.cells["c", FLOAT] == LatencyCell(4.0, pytest.approx(0.5), pytest.approx(0.5))
    checks = (*made.designs, *mixtures(menu, 6))
    for design, truth in invented(checks, units).items():
        assert predict(table, design.choices) == pytest.approx(truth.ms), design.label
    assert table.float_ms == pytest.approx(sum(range(2, 10)) + 0.5)


# ---- measuring -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(captured):
    graph, example = captured
    target = bw.load_target("ort-cpu")
    menu = menu_for(graph, target, parse_menu("w8a8,w7a8,float"))
    return menu, latencies(graph, target, menu, example, TimingSettings(repetitions=2, checks=1))


def test_every_unit_and_choice_has_a_positive_figure(captured, measured):
    graph, _ = captured
    menu, found = measured
    table = found.table
    assert table.units == tuple(u.name for u in graph.units)
    assert set(table.cells) == {(u, c) for u in table.units for c in menu[u]}
    assert all(
        cell.ms > 0 and math.isfinite(cell.enter + cell.leave) for cell in table.cells.values()
    )
    assert all(ms >= 0 for ms in table.rest.values())
    assert table.cells["stem", Choice(7, 8)] == table.cells["stem", W8]
    assert (table.conditions.target, table.conditions.threads) == ("ort-cpu", 1)
    assert table.conditions.processor


def test_parts_sum_to_whole_networks(measured):
    _, found = measured
    uniform = [check for check in found.uniform if "every third" not in check.label]
    assert [check.label for check in uniform] == ["w8a8", "float"]
    for check in uniform:
        assert check.predicted == pytest.approx(check.measured)
    table = found.table
    assert table.float_ms == pytest.approx(uniform[-1].measured)
    assert sum(table.own(u, W8) for u in table.units) == pytest.approx(uniform[0].measured)
    assert [check.label for check in found.checks] == ["scattered 1"]


def test_weights_only_and_a_batch(captured):
    graph, example = captured
    target = bw.load_target("weights-only")
    menu = menu_for(graph, target, parse_menu("w8a8"))
    settings = TimingSettings(batch=3, repetitions=1, checks=0)
    found = latencies(graph, target, menu, example, settings)
    assert set(found.table.choices["stem"]) == {Choice(8, 0), FLOAT}
    assert len(found.uniform) == 2 and found.table.conditions.batch == 3


def test_any_configuration_can_be_timed(captured):
    graph, example = captured
    choices = {u.name: FLOAT if i % 2 else W8 for i, u in enumerate(graph.units)}
    timed = time_networks(
        graph, bw.load_target("ort-cpu"), example, {"mine": choices}, TimingSettings(repetitions=1)
    )
    assert set(timed["mine"].units) == set(choices)
    assert sum(timed["mine"].units.values()) + timed["mine"].rest == pytest.approx(timed["mine"].ms)


def test_samples_are_repeated_to_a_batch(captured):
    graph, example = captured
    assert feed_of(graph, example, 5)["x"].shape == (5, 3, 16, 16)
    assert feed_of(graph, example, 1)["x"].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("name", ["batch", "threads", "repetitions"])
def test_senseless_settings(name):
    with pytest.raises(RecipeError, match=f"--{name} 0 makes no sense"):
        TimingSettings(**{name: 0})
    with pytest.raises(RecipeError, match="--checks -1"):
        TimingSettings(checks=-1)


# ---- the file --------------------------------------------------------------------------------


@pytest.fixture
def table():
    cells = {
        ("a", W8): LatencyCell(0.1, 0.01, -0.02),
        ("a", FLOAT): LatencyCell(0.3),
        ("b", FLOAT): LatencyCell(1 / 3),
    }
    return LatencyTable(("a", "b"), cells, {W8: 0.5, FLOAT: 0.7}, HERE)


def test_the_file_gives_back_the_table(table, tmp_path):
    path = tmp_path / "latency.csv"
    write_latencies(path, table)
    again = read_latencies(path)
    assert dict(again.cells) == dict(table.cells) and dict(again.rest) == dict(table.rest)
    assert (again.units, again.conditions) == (table.units, table.conditions)
    lines = path.read_text().splitlines()
    assert lines[0].split(",")[:5] == ["unit", "w_bits", "a_bits", "points", "latency_ms"]
    assert sum(line.startswith(REST_ROW) for line in lines) == 2


def test_another_machine_is_told(table):
    other = replace(HERE, processor="another one", threads=2)
    assert table.conditions.differences(HERE) == ()
    assert table.conditions.differences(other) == (
        "threads was 1, is 2", "processor was this one, is another one",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a,8,8,1,0.1", "a,8,8,1,-0.1", "line 2: latency_ms is '-0.1'; it must be a finite"),
        ("a,8,8,1,0.1", "a,9,8,1,0.1", "line 2: w_bits is '9'"),
        ("0.01,-0.02", "nan,-0.02", "line 2: enter_ms is 'nan'"),
        ("a,0,0,1", "a,8,8,1", "line 3: 'a' at w8a8 stands there twice"),
        ("b,0,0,1", "b,8,8,1", "lacks the line of 'b' in float"),
        ("(rest),0,0,1", "(rest),4,8,1", r"lacks the line of '\(rest\)' in float"),
        ("this one,1.0\na,0", "that one,1.0\na,0", "line 3 was measured on other conditions"),
        ("latency_ms", "latency", "unknown column 'latency'"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(table, tmp_path, old, new, message):
    path = tmp_path / "latency.csv"
    write_latencies(path, table)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RunDirectoryError, match=message):
        read_latencies(path)


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"no table of latencies .*bitwright measure"):
        read_latencies(tmp_path / "none.csv")
    (tmp_path / "latency.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(RunDirectoryError, match="holds no latencies"):
        read_latencies(tmp_path / "latency.csv")
