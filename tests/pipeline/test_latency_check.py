"""Budgets of latency held by the file: tightened where a file is slower than its table says."""

from __future__ import annotations

import pytest
from networks_on_disk import FILE

import bitwright as bw
from bitwright.allocation.latency_csv import write_latencies
from bitwright.allocation.latency_table import LatencyCell, LatencyTable, predict
from bitwright.allocation.timed import FileTime
from bitwright.engine.progress import Progress
from bitwright.evaluation.figures import Metrics
from bitwright.export import rundir
from bitwright.graph.choice import FLOAT, Choice
from bitwright.latency.timing import conditions_here
from bitwright.pipeline import latency_check
from bitwright.report.summary import comparison
from networks import pictures, small_network

UNITS = ("stem", "depthwise", "project", "grouped", "head")
W8, W4 = Choice(8, 8), Choice(4, 8)


def table(units=UNITS, **of_w8):
    """Float takes 1 ms a unit, 8 bits half of that or as said, 4 bits a quarter."""
    cells = {(unit, FLOAT): LatencyCell(1.0) for unit in units}
    cells |= {(unit, W8): LatencyCell(of_w8.get(unit, 0.5)) for unit in units}
    cells |= {(unit, W4): LatencyCell(0.25) for unit in units}
    return LatencyTable(units, cells, {FLOAT: 0.0, W8: 0.0}, conditions_here("ort-cpu", 1, 1))


@pytest.fixture
def notes():
    return []


def quantise(tmp_path, notes, budget, **options):
    write_latencies(tmp_path / "here.csv", table())
    progress = Progress([lambda event: notes.append(event.text) if event.text else None])
    return bw.quantize(
        small_network(), [pictures(8)], target="ort-cpu", menu="w8a8,w4a8", budget=budget,
        latencies=str(tmp_path / "here.csv"), mode="parallel", progress=progress,
        **{"recipe": "fixed", **options},
    )  # fmt: skip


def test_a_slower_file_is_tightened_until_it_holds(tmp_path, notes, monkeypatch):
    """Files that take a quarter more than their table says."""

    def slower(job, prepared, choices):
        share = 1.25 * predict(table(), choices) / table().float_ms
        return FileTime(5 * share, share, 0.0)

    monkeypatch.setattr(latency_check, "time_choices", slower)
    result = quantise(tmp_path, notes, "latency<=0.5")
    found = result.metrics["latency"]
    assert found["held"] and found["rounds"] == 1 and found["file"] == latency_check.TRIAL
    assert found["measured"] == pytest.approx(1.25 * found["predicted"]) and found["limit"] == 0.5
    # All of 8 bits are predicted to hold, and do not: some units have four.
    bits = {row["w_bits"] for row in result.allocation["choices"].values()}
    assert bits == {4, 8}
    assert any("0.5 of float predicted, 0.625 measured" in note for note in notes)


def test_a_broken_budget_is_told_with_what_was_reached(tmp_path, notes):
    """No file of this little network takes a fiftieth of float's time."""
    result = quantise(tmp_path, notes, "latency<=0.26 and size<=0.9", scheme="w4a8")
    assert not result.metrics["latency"]["held"]
    assert any("no choice of the menu holds anything tighter" in note for note in notes)
    run = result.save(tmp_path / "run")
    found = run.read_json(rundir.METRICS)["latency"]
    assert found["file"] == "model.onnx" and not found["held"] and found["measured"] > 0.26
    told = comparison(run.read(rundir.METRICS, Metrics))
    (line,) = [line for line in told if line.startswith("latency")]
    assert "NOT HELD. latency<=0.26: 0.25 of float predicted" in line
    assert "NOT HELD" in run[rundir.REPORT].read_text()


def test_a_budget_that_holds_in_milliseconds_and_a_device_beside(tmp_path, notes):
    """The other device is held by its own table; the file is timed on this machine alone."""
    write_latencies(tmp_path / "pi.csv", table(stem=0.9))
    write_latencies(tmp_path / "here.csv", table())
    result = bw.quantize(
        small_network(), [pictures(8)], recipe="fixed", target="ort-cpu", menu="w8a8,w4a8",
        mode="parallel",
        budget="latency<=50ms and latency[pi]<=0.5",
        latencies=f"pi={tmp_path / 'pi.csv'}, {tmp_path / 'here.csv'}",
    )  # fmt: skip
    assert result.allocation["budgets"]["latency[pi]"]["used"] <= 2.5
    assert result.metrics["latency"]["held"] and not result.metrics["latency"]["relative"]
    run = result.save(tmp_path / "run", verify=False)
    assert run.has(rundir.LATENCY) and run.has(rundir.DEVICES)


def test_the_command_ends_with_1_and_leaves_the_run(bitwright, tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    units = ("stem", "part.first", "part.second", "head")
    write_latencies(tmp_path / "here.csv", table(units))
    out = tmp_path / "run"
    done = bitwright(
        "quantize", f"{tmp_path}/net.py:net", "--data", f"{tmp_path}/net.py:calib", "--out", out,
        "--target", "ort-cpu", "--menu", "w8a8,w4a8", "--latencies", tmp_path / "here.csv",
        "--budget", "latency<=0.26",
    )  # fmt: skip
    assert done.code == 1 and "NOT HELD. latency<=0.26" in done.out
    assert (out / "model.onnx").is_file() and (out / "latency.csv").is_file()
