"""Networks broken on purpose, as they are in practice: the cause is named first, and mended."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace

import broken
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

import bitwright as bw
from bitwright.cli.parser import app
from bitwright.diagnosis.finding import Findings
from bitwright.diagnosis.tree import SHOWN
from bitwright.export.rundir import open_existing
from bitwright.numerics.ranges import RANGES
from networks import TESTS

FIXED = {"recipe": "fixed", "method": "nearest", "target": "paper"}


@dataclass(frozen=True)
class Narrow:
    """A range rule that was given a sixth of what there is."""

    name: str = "narrow"

    def of_stats(self, stats, grid, symmetric):
        lo, hi = RANGES["minmax"].of_stats(stats, grid, symmetric)
        return lo / 6, hi / 6

    def of_rows(self, rows, grid, symmetric):
        lo, hi = RANGES["minmax"].of_rows(rows, grid, symmetric)
        return lo / 6, hi / 6


def changed(change):
    return [change(x) for x in broken.calibration()]


# By cause: the network, its data, options of the run.
BROKEN = {
    "channel-order": lambda: (broken.healthy(), changed(lambda x: x.flip(1)), {}),
    "preprocessing": lambda: (broken.healthy(), changed(lambda x: x * 0.229 + 0.485), {}),
    "clipped-range": lambda: (
        broken.healthy(), broken.calibration(), {"activation_range": Narrow()},
    ),
    "dead-channel": lambda: (broken.with_dead_channel(), broken.calibration(), {}),
    "outlier-channel": lambda: (broken.with_outlier_channel(), broken.calibration(), {}),
    "batch-norm": lambda: (broken.left_in_training(), broken.calibration(), {}),
    "mask-in-range": lambda: (*broken.masked(), {"target": "ort-cpu"}),
    "unlike-ranges": lambda: (
        broken.with_unlike_add(), broken.calibration(), {"target": "ort-cpu"},
    ),
    "half-overflow": lambda: (broken.overflowed(), broken.calibration(), {}),
}  # fmt: skip
# Those whose line mends it alone; the others ask for other data or another network first.
MENDED = ("clipped-range", "dead-channel", "outlier-channel", "mask-in-range", "unlike-ranges")


@pytest.mark.parametrize("cause", BROKEN)
def test_the_cause_is_named_first(cause):
    net, data, options = BROKEN[cause]()
    found = bw.quantize(net, data, **FIXED | options).diagnose()
    assert found.findings[0].cause == cause, [one.cause for one in found.findings]
    assert len(found.findings) <= SHOWN
    assert found.findings[0].command.startswith("bw.quantize(net, calibration")
    severities = [one.severity for one in found.findings]
    assert severities == sorted(severities, reverse=True)
    if cause in MENDED:
        sets = dict(found.findings[0].sets)
        after = bw.quantize(net, data, **FIXED | options | sets).diagnose()
        assert after.noise < found.noise / 10
        assert cause not in [one.cause for one in after.findings]


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_a_healthy_network_gets_no_cause(target):
    found = bw.quantize(broken.healthy(), broken.calibration(), **FIXED | {"target": target})
    diagnosed = found.diagnose()
    assert diagnosed.findings == () and diagnosed.samples == 32
    assert 0 < diagnosed.noise < 10**-2.5
    parts = diagnosed.noise_of_weights, diagnosed.noise_of_inputs
    assert max(parts) < diagnosed.noise < 2 * sum(parts)


def test_few_samples_far_out_are_told_from_a_channel():
    data = broken.calibration()
    data[0] = data[0].clone()
    data[0][3, :, 5, 5] += 200
    net = broken.healthy()
    found = bw.quantize(net, data, **FIXED | {"activation_range": "minmax"}).diagnose()
    causes = [one.cause for one in found.findings]
    assert causes[0] == "outlier-samples" and "outlier-channel" not in causes
    assert "number 3 of the data" in found.findings[0].text


USER = """
import sys
sys.path[:0] = [{tests!r}, {here!r}]
from broken import calibration, healthy
"""


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnosed")
    user = folder / "user.py"
    user.write_text(USER.format(tests=str(TESTS), here=str(TESTS / "diagnosis")))
    done = invoke(
        "quantize", f"{user}:healthy", "--data", f"{user}:calibration", "--out", folder / "run",
        "--recipe", "fixed", "--method", "nearest", "--target", "paper", "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "run"


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def damage(path, unit="body"):
    """One weight in the file becomes another, as by a bad disk or a wrong tool."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if unit in t.name and len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[5] = np.iinfo(values.dtype).max if values.flat[5] < 64 else 0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


def test_a_run_is_diagnosed_and_its_page_shows_it(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    done = invoke("diagnose", run, "--trust")
    assert done.exit_code == 0, done.output
    assert "no cause of lost accuracy was found on 32 samples" in done.output
    directory = open_existing(run)
    assert directory.read("diagnosis.json", Findings).findings == ()
    assert "No cause was found on 32 samples" in directory.read_text("report.html")


def test_a_damaged_weight_in_the_file_is_found_and_written_again(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    damage(run / "model.onnx")
    done = invoke("diagnose", run, "--trust", "--json")
    assert done.exit_code == 0, done.output
    found = Findings.from_json(json.loads(done.stdout))
    first = found.findings[0]
    assert (first.cause, first.place) == ("damaged-file", "body"), found.findings
    assert first.command == f"bitwright export {run}"
    page = open_existing(run).read_text("report.html")
    assert "damaged-file" in page and first.command in page
    # The line that it names mends it.
    assert invoke("export", run, "--trust").exit_code == 0
    directory = open_existing(run)
    assert not directory.has("diagnosis.json") and directory.has("verify.json")
    assert "damaged-file" not in directory.read_text("report.html")
    done = invoke("diagnose", run, "--trust")
    assert "no cause" in done.output


def test_a_diagnosis_runs_no_code_of_a_stranger(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    done = invoke("diagnose", run)
    assert done.exit_code != 0 and isinstance(done.exception, bw.BitwrightError)


def test_data_that_are_given_are_looked_at(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    np.savez(tmp_path / "bgr.npz", x=torch.cat(broken.calibration()).flip(1).numpy())
    done = invoke("diagnose", run, "--data", tmp_path / "bgr.npz", "--trust")
    assert done.exit_code == 0, done.output
    lines = [line.strip() for line in done.output.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("1. channel-order, stem_bn"))
    assert lines[start + 2] == f"bitwright quantize --recipe {run}/recipe.toml --out {run}-mended"


def test_words_of_the_shell_are_of_the_findings_options(whole_run):
    """What mends is asked for by options that `quantize` has."""
    from typer.main import get_command

    options = {o for p in get_command(app).commands["quantize"].params for o in p.opts}
    for key in ("activation_range", "prepare", "keep", "target", "calib", "method", "scheme",
                "mean", "std", "portable"):  # fmt: skip
        assert f"--{key.replace('_', '-')}" in options


def test_findings_read_back_as_they_were():
    net, data, options = BROKEN["outlier-channel"]()
    found = bw.quantize(net, data, **FIXED | options).diagnose()
    again = Findings.from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert replace(again, samples=1)["samples"] == 1
