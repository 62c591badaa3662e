"""The SQNR of each unit and the pictures of the worst, against the tensors themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import bitwright as bw
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams, dequantize, fake_quantize
from bitwright.numerics.grid import Grid
from bitwright.numerics.losses import sqnr_db
from bitwright.numerics.scores import noise_of_stats
from bitwright.numerics.stats import TensorStats
from bitwright.report.unit_quality import BINS, WORST, decibels, select_as_solved
from networks import normal, pictures, small_network


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = [pictures(25, seed=seed, size=8) for seed in range(4)]
    result = bw.quantize(
        small_network(width=8),
        data,
        recipe="fixed",
        scheme="w3a4",
        method="quadratic",
        keep="stem=w8a8",
    )
    result.report(tmp_path_factory.mktemp("run") / "report.html")
    return result


def qparams(scale, zero, bits=8):
    return QParams(Grid(bits, False), torch.tensor(scale), torch.tensor(zero, dtype=torch.int32))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("relu", [False, True])
def test_the_noise_of_a_histogram_is_that_of_its_values(bits, relu):
    values = normal(200_000, seed=bits)
    values = values.relu() if relu else values
    grid = qparams(4.0 / 2**bits, 0 if relu else 2 ** (bits - 1), bits)
    want = (values - fake_quantize(values, grid)).double().square().sum()
    want = float(want / values.double().square().sum())
    assert noise_of_stats(TensorStats.of(values), grid) == pytest.approx(want, rel=0.02)


def test_nothing_but_zeros_has_no_noise():
    assert noise_of_stats(TensorStats.of(torch.zeros(9)), qparams(0.1, 3)) == 0.0
    assert decibels(0.0) is decibels(None) is decibels(float("inf")) is None
    assert decibels(0.01) == pytest.approx(20.0)


def test_every_unit_has_the_sqnr_of_weight_input_and_output(run):
    graph = run.graph
    for row in run.census["units"]:
        solved = run.assignment.weights[row["name"]]
        weight = graph.tensor(graph.unit(row["name"]).weight)
        back = dequantize(solved.q, solved.qparams)
        assert row["weight_sqnr_db"] == pytest.approx(float(sqnr_db(weight, back)), abs=1e-3)
        assert 0.0 < row["sqnr_db"] < row["weight_sqnr_db"] + 20
        assert 0.0 < row["input_sqnr_db"] < 60.0
    first = run.census["units"][0]
    assert first["name"] == "stem" and first["sqnr_db"] > 30 > run.census["units"][1]["sqnr_db"]


def test_the_worst_units_are_pictured_at_bounded_size(run):
    units = {row["name"]: row["sqnr_db"] for row in run.census["units"]}
    pictured = run.census["histograms"]
    worst = sorted(units, key=lambda name: units[name])[:WORST]
    assert list(dict.fromkeys(entry["unit"] for entry in pictured)) == worst
    assert [entry["what"] for entry in pictured] == ["weight", "input"] * WORST
    for entry in pictured:
        assert len(entry["counts"]) <= BINS
        if entry["what"] == "weight":
            assert sum(entry["counts"]) == run.graph.unit(entry["unit"]).params
    assert len(json.dumps(pictured)) < 40_000


def test_the_page_shows_them(run, tmp_path):
    page = run.report(tmp_path / "report.html").read_text()
    assert "No histograms were recorded" not in page
    assert page.count('<svg class="histogram"') == 2 * WORST
    for what in ("weight", "input", "output"):
        assert f">{what} SQNR<" in page
    assert page.count(" dB</td>") == 3 * len(run.census["units"])


def test_nearest_rounding_measures_no_output_and_weights_alone_no_input():
    data = [pictures(25, seed=1, size=8)]
    units = bw.quantize(small_network(width=8), data, recipe="fixed", target="weights-only").census[
        "units"
    ]
    assert all("weight_sqnr_db" in row for row in units)
    assert not any("sqnr_db" in row or "input_sqnr_db" in row for row in units)


def test_float_units_have_none():
    found = bw.quantize(
        small_network(width=8), [pictures(9, size=8)], recipe="fixed", scheme="float"
    ).census
    assert found["histograms"] == [] and not any("weight_sqnr_db" in r for r in found["units"])


def test_of_integers_that_tuning_changed_nothing_is_known():
    q = torch.ones(2, 2, dtype=torch.int8)
    old = UnitSolution(q, qparams(0.5, 0), None, (), "m", 0.1, loss_before=0.3, loss_after=0.2)
    moved = replace(old, weight=qparams(0.75, 0))
    assert select_as_solved({"u": old}, {"u": moved})["u"] is old
    changed = replace(old, q=q + 1, error=0.4)
    found = select_as_solved({"u": old}, {"u": changed})["u"]
    assert found.loss_after is None and found.error == 0.4
