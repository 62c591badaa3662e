"""A timing bundle is timed by a process without us, and its table is what a budget reads."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from networks_on_disk import quantised

import bitwright as bw
from bitwright.allocation.latency_csv import latency_text, parse_latencies, read_latencies
from bitwright.cli import bundle_commands
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from bitwright.export.samples import flat_example
from bitwright.graph.choice import parse_menu
from bitwright.latency import time_here
from bitwright.latency.bundle import SCRIPT, standalone_script, thin, write_bundle
from bitwright.latency.designs import plan, tabulate
from bitwright.latency.measure import menu_for
from bitwright.latency.plain_graph import read_graph
from bitwright.latency.time_here import Timing, write_table
from bitwright.latency.timing import conditions_here
from networks import pictures, small_network

ALIEN = """
import sys

class Nobody:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "bitwright"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Nobody())
import runpy
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    graph = bw.capture(small_network(), (pictures(2),))
    target = bw.load_target("ort-cpu")
    menu = menu_for(graph, target, parse_menu("w8a8,float"))
    write_bundle(folder, graph, target, menu, flat_example(graph, (pictures(2),)))
    return folder, menu


def test_a_process_without_us_writes_a_table_that_budgets_read(bundle, tmp_path):
    folder, menu = bundle
    out = tmp_path / "pi.csv"
    command = [sys.executable, "-c", ALIEN, str(folder / SCRIPT), "--out", str(out)]
    done = subprocess.run(
        [*command, "--repetitions", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    table = read_latencies(out)
    assert table.units == tuple(menu) and table.conditions == conditions_here("ort-cpu", 1, 1)
    assert all(set(own) == set(menu[unit]) for unit, own in table.choices.items())
    # Units were told apart: no one of them has all of the time, and each has some.
    for choice in menu["stem"]:
        assert all(table.cells[unit, choice].ms > time_here.LEAST_UNIT_MS for unit in menu)


def test_the_scripts_table_is_that_of_measure(bundle, tmp_path):
    """The same times give the same table, to the last bit."""
    folder, menu = bundle
    made = plan(menu)
    random = np.random.default_rng(0)
    timings = {}
    for design in made.designs:
        units = {unit: float(random.uniform(0.1, 1)) for unit in menu}
        timings[design] = Timing(sum(units.values()) + 0.25, units, 0.25)
    out = tmp_path / "t.csv"
    write_table(folder, {d.label: t for d, t in timings.items()}, 1, out)
    table = tabulate(made, timings, conditions_here("ort-cpu", 1, 1))
    assert any(cell.enter for cell in table.cells.values())
    text = out.read_text()
    assert parse_latencies(text, "t").cells == table.cells and text == latency_text(table)


def test_the_script_imports_nothing_of_ours():
    names = set()
    for node in ast.walk(ast.parse(standalone_script())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_files_are_small_and_hold_no_weights(tmp_path):
    weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 256])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 256])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(weight[0], "b")],
    )
    model = onnx.helper.make_model(graph)
    large, small = (onnx.numpy_helper.to_array(t) for t in thin(model).graph.initializer)
    assert large.shape == weight.shape and len(np.unique(large)) == 1021
    assert set(np.unique(large)) <= set(np.unique(weight)) and np.array_equal(small, weight[0])
    assert large.std() == pytest.approx(weight.std(), rel=0.1)
    # The plain reader sees what the package onnx sees.
    read = read_graph(model.SerializeToString())
    (node,) = read.node
    assert (node.op_type, node.input, node.output) == ("MatMul", ("x", "w"), ("y",))
    assert read.stored == {"w", "b"}


def test_a_run_has_target_and_menu_of_its_own(tmp_path, monkeypatch):
    wrote = {}

    def remember(folder, graph, target, menu, example, batch, progress):
        wrote.update(target=target.name, menu=menu, example=example)
        return []

    monkeypatch.setattr(bundle_commands, "write_bundle", remember)
    run = quantised(
        tmp_path, "--menu", "w8a8,w4a8", "--budget", "size<=0.8", "--target", "ort-cpu"
    )  # fmt: skip
    of_run = bundle_commands.BundleRequest(str(run))
    bundle_commands.run_bundle(of_run, tmp_path / "b", Progress(), trusted=True)
    assert wrote["target"] == "ort-cpu" and len(wrote["example"]) == 1
    assert {tuple(map(str, own)) for own in wrote["menu"].values()} == {("w8a8", "w4a8")}
    with pytest.raises(RecipeError, match="is a run: its recipe has the target"):
        bundle_commands.run_bundle(replace(of_run, target="paper"), tmp_path / "b", Progress())
    of_model = bundle_commands.BundleRequest(f"{tmp_path}/net.py:net", "w2a8,float", "paper")
    bundle_commands.run_bundle(of_model, tmp_path / "b", Progress())
    assert wrote["target"] == "paper"
    assert {tuple(map(str, own)) for own in wrote["menu"].values()} == {("w2a8", "float")}


def test_the_command_is_of_one_network(bitwright, tmp_path):
    words = ("bench", "a.py:net", "b.py:net", "--bundle", tmp_path)
    done = bitwright(*words)
    assert done.code == 2 and "--bundle is of one network" in done.err
