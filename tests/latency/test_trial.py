"""What a doctor says of speed: measured on files of each target; no duration is asserted."""

from __future__ import annotations

from dataclasses import replace

import pytest

import bitwright as bw
from bitwright.cli.console import doctor_lines
from bitwright.cli.outcomes import Diagnosis, Estimate, SpeedTrials
from bitwright.export.runtimes import list_installed
from bitwright.export.samples import flat_example
from bitwright.graph.census import census
from bitwright.graph.choice import parse_scheme
from bitwright.graph.sites import find_sites
from bitwright.latency import trial
from bitwright.latency.trial import SpeedTrial, try_targets
from networks import pictures, small_network


@pytest.fixture(scope="module")
def captured():
    graph = bw.capture(small_network(), (pictures(2),))
    return graph, flat_example(graph, (pictures(2),))


@pytest.fixture(scope="module")
def tried(captured):
    graph, example = captured
    targets = [bw.load_target(name) for name in ("ort-cpu", "weights-only")]
    return try_targets(graph, targets, parse_scheme("w8a8"), example)


def test_a_file_of_each_target_is_timed_in_each_runtime(tried):
    trials, told = tried
    assert not told
    assert [(t.target, t.runtime) for t in trials] == [
        (target, runtime) for runtime in list_installed() for target in ("ort-cpu", "weights-only")
    ]
    shares = {t.target: t.in_float for t in trials if t.runtime == "onnxruntime"}
    # On ort-cpu only what brings the input into integers computes on floats; weights-only all.
    assert shares["ort-cpu"] < 0.5 < shares["weights-only"]
    for t in trials:
        median, low, high = t.times
        assert low <= median <= high


def test_what_would_take_too_long_is_told(captured, monkeypatch):
    graph, example = captured
    targets = [bw.load_target(name) for name in ("ort-cpu", "weights-only")]
    monkeypatch.setattr(trial, "MOST_MACS", 10)
    assert try_targets(graph, targets, parse_scheme("w8a8"), example) == ((), (trial._TOO_LARGE,))


def test_a_network_that_will_not_gain_is_told_so(captured):
    slow = SpeedTrial("ort-cpu", "onnxruntime", (0.9, 0.85, 0.95), 0.2)
    fast = replace(slow, target="ort-linear", times=(2.0, 1.9, 2.1))
    lost = SpeedTrial("openvino", "openvino", None, None, "Unsupported type")
    assert [t.gains for t in (slow, fast, lost)] == [False, True, False]
    told = "\n".join(lines(captured[0], slow, fast, lost))
    assert "x 0.90 of float (0.85 to 0.95), 20% of its time in float operators  will not" in told
    assert "x 2.00" in told and "does not run: Unsupported type" in told
    assert "No file of this network" not in told
    assert "No file of this network is faster than float here" in "\n".join(
        lines(captured[0], slow, lost)
    )


def lines(graph, *trials):
    target = bw.load_target("ort-cpu")
    choices = {unit.name: parse_scheme("w8a8") for unit in graph.units}
    found = Diagnosis(
        model="m",
        inputs=(),
        census=census(graph, target, choices, find_sites(graph, target)),
        target="t",
        plan=Estimate(
            macs_per_sample=1, float_macs={}, uncounted=(), float_mb=1.0, calibration_samples=1,
            samples_counted=True, estimated_seconds=1, estimated_memory_mb=1,
        ),
        speed=SpeedTrials(scheme="w8a8", trials=trials, notes=()),
    )  # fmt: skip
    return doctor_lines(found)
