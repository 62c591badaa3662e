"""A file that answers at random gets no name, or by force one that says so; others keep theirs."""

from __future__ import annotations

import json

import pytest
import torch

from bitwright.export import rundir
from bitwright.export.floor import _judge
from bitwright.pipeline.integrity import check
from networks import TESTS

USER_FILE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from torch import nn
from networks import Chain, normal, seeded


def net():
    made = seeded(lambda: Chain(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))).eval()
    made.m0.weight.data[:, 0] = 0.0
    made.m0.bias.data.zero_()
    made.m2.bias.data.zero_()
    made.example_inputs = (torch.zeros(2, 12),)
    return made


def calib():
    # An outlier that the network does not read takes the whole range of its input.
    batches = [normal(50, 12, seed=i) for i in range(2)]
    for batch in batches:
        batch[:, 0] = 1e6
    return batches
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "user.py"
    path.write_text(USER_FILE)
    return path


def words_of(user, out, rule):
    return (
        "quantize", f"{user}:net", "--data", f"{user}:calib", "--recipe", "fixed",
        "--activation-range", rule, "--out", out,
    )  # fmt: skip


def test_a_file_that_answers_at_random_is_not_written(user, bitwright, tmp_path):
    out = tmp_path / "run"
    ended = bitwright(*words_of(user, out, "minmax"))
    assert ended.code == 1
    assert "model.onnx answers at random" in ended.out and "it was not written" in ended.out
    assert not (out / rundir.ONNX).exists() and not (out / rundir.REJECTED).exists()
    assert check(out).sound and "answers at random" in (out / "report.html").read_text()
    rejected = json.loads((out / rundir.VERIFY).read_text())["rejected"]
    assert rejected["bound"] <= rejected["chance"] and rejected["samples"] == 100
    for command in ("export", "verify"):
        refused = bitwright(command, out)
        assert refused.code == 2 and "answers at random" in refused.err
    assert bitwright("report", out).code == 0

    forced = bitwright(*words_of(user, out, "minmax"), "--force")
    assert forced.code == 1 and "it is written as model.rejected.onnx" in forced.out
    assert (out / rundir.REJECTED).is_file() and not (out / rundir.ONNX).exists()
    manifest = json.loads((out / rundir.MANIFEST).read_text())
    assert rundir.REJECTED in manifest["files"] and check(out).sound

    good = bitwright(*words_of(user, out, "mse"), "--force", "--scheme", "w8a0")
    assert (out / rundir.ONNX).is_file() and not (out / rundir.REJECTED).exists(), good.out
    assert check(out).sound
    (out / rundir.VERIFY).write_text("{")  # damaged: the command that mends it must not read it
    assert not check(out).sound and bitwright("verify", out).code == 0 and check(out).sound


def answers(count, classes, seed=0):
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("float_", "own", "rejected"),
    [
        (answers(256, 10), answers(256, 10, 1), True),  # drawn by lot
        (answers(256, 10), torch.full((256,), 3), True),  # always the same
        (answers(256, 10), answers(256, 10), False),
        # Poor, and yet far better than a lot: one half right.
        (answers(256, 10), torch.where(torch.arange(256) % 2 == 0, answers(256, 10), 11), False),
        (answers(19, 10), answers(19, 10, 1), False),  # too few to say
        # Float itself gives nearly always one answer: nothing can be told.
        ((torch.arange(256) == 0).long(), torch.full((256,), 1), False),
    ],
)
def test_what_is_no_better_than_a_lot(float_, own, rejected):
    found = _judge(float_, own, len(own))
    assert (found is not None) == rejected
    if found is not None:
        assert found.agreement == pytest.approx(float((float_ == own).double().mean()))
