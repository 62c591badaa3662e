"""The float file out of the quantised one, and the two timed beside each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

import bitwright as bw
import records
from bitwright.export import speed
from bitwright.export.float_twin import float_twin
from bitwright.export.runtime import run, session
from bitwright.graph.simulate import stitch
from bitwright.report.report import ReportData, render_report
from bitwright.report.speed_words import speed_advice
from bitwright.report.summary import comparison
from networks import TwoTowers, normal, pictures, seeded, small_network

IMAGES = pictures(16, size=8)


@pytest.mark.parametrize("target", ["paper", "ort-cpu", "weights-only"])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a4", "w2a8", "w8a16", "w4a8g8"])
def test_the_twin_is_the_float_network(tmp_path, target, scheme):
    """Its operators are those of a float export, its weights what the integers stand for."""
    result = bw.quantize(
        small_network(width=8), [IMAGES], recipe="fixed", scheme=scheme, target=target
    )
    twin = float_twin(onnx.load(str(result.export(tmp_path / "m.onnx"))))
    onnx.checker.check_model(twin, full_check=True)
    kinds = {node.op_type for node in twin.graph.node}
    # What clamps to six is left out where integers of four bits say the same.
    clamps = set() if scheme == "w4a4" and target != "weights-only" else {"Clip"}
    assert kinds == {"Conv", "Relu", "Add", "GlobalAveragePool", "Squeeze", "Gemm"} | clamps
    if not clamps:
        return  # six is nowhere in such a file: the twin takes the same time, to other numbers
    # The simulation with the run's weights, its inputs in float.
    module = stitch(result.graph, replace(result.assignment, edges={}))
    (got,) = run(session(twin.SerializeToString(), optimized=False), {"x": IMAGES.numpy()})
    want = module(IMAGES).detach().numpy()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_an_output_that_was_quantised_keeps_its_name(tmp_path, target):
    batch = {"first": normal(16, 4), "second": normal(16, 6, seed=1)}
    result = bw.quantize(seeded(TwoTowers).eval(), [batch], recipe="fixed", target=target)
    model = onnx.load(str(result.export(tmp_path / "m.onnx")))
    twin = float_twin(model)
    onnx.checker.check_model(twin, full_check=True)
    assert [v.name for v in twin.graph.output] == [v.name for v in model.graph.output]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in twin.graph.node}


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8x2"])
def test_a_verification_times_the_file_beside_float(monkeypatch, scheme):
    """The time of both, and their ratio."""
    monkeypatch.setattr(speed, "MOST_TURNS", 25)
    found = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme=scheme).verify()["speed"]
    assert found["ratio"] == found["quantized_ms"] / found["float_ms"] > 0
    assert found["samples"] == found["threads"] == 1 and found["turns"] >= 3


def test_a_file_that_cannot_run_is_not_timed(tmp_path):
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed")
    path = result.export(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(path))
    found = result.verify(path)
    assert not found["passed"] and found["speed"] is None


TURNS = {"samples": 1, "threads": 1, "turns": 5}
SLOW = {"float_ms": 0.67, "quantized_ms": 1.01, "ratio": 1.01 / 0.67, **TURNS}
FAST = {"float_ms": 1.0, "quantized_ms": 0.5, "ratio": 0.5, **TURNS}


@pytest.mark.parametrize(
    ("speed", "level"), [(SLOW, "Look closer"), (FAST, "Good"), (None, "Good")]
)
def test_a_slow_file_is_not_called_good(speed, level):
    verify, metrics = records.verification(speed=speed), records.metrics(samples=500)
    census = records.census(units=[records.unit()])
    page = render_report(ReportData(metrics=metrics, census=census, verify=verify))
    assert f"<strong>{level}.</strong>" in page
    last = "\n".join(comparison(metrics, verified=verify, target="paper"))
    if speed is SLOW:
        for shown in (page, last):
            assert "1.5 times its time" in shown and "--target ort-cpu" in shown
            assert "1.01 ms" in shown and "0.67 ms" in shown and "are good" not in shown
    elif speed is FAST:
        assert "faster than float, 2.0 times" in page and "note:" not in last
    else:
        assert "ms a run" not in page + last


def test_a_fast_target_is_not_advised_to_itself():
    reason, option = speed_advice("ort-cpu+matmul")
    assert "slower than float" in reason and not option
    assert speed_advice("mine.toml")[1] == "--target ort-cpu --scheme w8a8"


def test_the_default_target_says_what_its_file_is_for():
    said = bw.load_target(
        bw.quantize(small_network(width=8), [IMAGES], recipe="fixed").recipe.target
    ).description
    assert "not speed" in said and "ort-cpu" in said
