"""A promise by the command: kept in the file, mended by a rung, or refused with what would do."""

from __future__ import annotations

import json
import re

import onnxruntime
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import DataError, RecipeError
from bitwright.evaluation.figures import Metrics
from bitwright.export import rundir
from bitwright.numerics.confidence import bound_rate_below
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.integrity import check
from bitwright.sources.apart import key_of, keys_of, skip, without
from bitwright.sources.batches import as_batch
from bitwright.sources.data import as_dataset
from networks import TESTS, Chain, normal, seeded

USER_FILE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from torch import nn
from networks import Chain, normal, seeded


def net():
    made = seeded(lambda: Chain(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))).eval()
    made.example_inputs = (torch.zeros(2, 12),)
    return made


def calib():
    return [normal(50, 12, seed=i) for i in range(4)]


def held_out(seed=100):
    batches = [normal(50, 12, seed=seed + i) for i in range(6)]
    return [(x, net()(x).argmax(-1)) for x in batches]


def few():
    return [(normal(20, 12, seed=7), torch.zeros(20, dtype=torch.long))]
"""


def net() -> nn.Module:
    return seeded(lambda: Chain(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))).eval()


def calib(count: int = 4, seed: int = 0) -> list[torch.Tensor]:
    return [normal(50, 12, seed=seed + i) for i in range(count)]


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    path = tmp_path_factory.mktemp("promise") / "user.py"
    path.write_text(USER_FILE)
    return path


@pytest.fixture
def quantize(user, bitwright, tmp_path):
    def call(promise, *words, data="calib", scheme="w8a8"):
        out = tmp_path / "run"
        ended = bitwright(
            "quantize", f"{user}:net", "--data", f"{user}:{data}", "--recipe", "fixed",
            "--scheme", scheme, "--promise", promise, "--out", out, *words,
        )  # fmt: skip
        return ended, out

    return call


def found_in(out) -> dict:
    return json.loads((out / "metrics.json").read_text())["promise"]


def test_it_holds_in_the_file(quantize, user):
    """The bound is the binomial's of what ONNX Runtime answers, counted here again."""
    ended, out = quantize("top1>=90%", "--eval", f"{user}:held_out")
    assert ended.code == 0, ended.err
    promise = found_in(out)
    assert promise["holds"] and promise["look"]["number"] == 1
    session = onnxruntime.InferenceSession(out / "model.onnx")
    right = 0
    for seed in range(100, 106):
        x = normal(50, 12, seed=seed)
        answers = torch.from_numpy(session.run(None, {"x": x.numpy()})[0]).argmax(-1)
        right += int((answers == net()(x).argmax(-1)).sum())
    assert promise["look"]["estimate"] == right / 300
    assert promise["look"]["bound"] == bound_rate_below(right, 300, 0.025)
    assert "top1>=90% HOLDS: at least" in ended.out
    assert "HOLDS" in (out / "report.html").read_text() and check(out).sound
    assert promise["proof"] == "the evaluation data"
    assert "none of them solves or tunes" in ended.out


def test_too_few_samples_are_told_with_how_many_would_do(quantize, user):
    ended, out = quantize("agreement>=99%", "--eval", f"{user}:few")
    promise = found_in(out)
    assert ended.code == 1 and not promise["holds"]
    needed = promise["look"]["needed"]
    assert bound_rate_below(needed, needed, 0.025) >= 0.99
    assert bound_rate_below(needed - 1, needed - 1, 0.025) < 0.99
    assert f"{needed} samples like these would show it" in ended.out
    assert f"{needed} such samples could" in ended.out
    # What nothing could show is not tried.
    assert len(promise["rungs"]) == 1
    assert "what holds is at least" in ended.out and "remedy: about" in ended.out


def test_a_rung_mends_it_and_no_worse_one_is_kept(quantize, user, bitwright):
    ended, out = quantize("agreement>=93%", "--eval", f"{user}:held_out", scheme="w3a4")
    promise = found_in(out)
    rungs = promise["rungs"]
    assert ended.code == 0, ended.out
    assert promise["holds"] and len(rungs) > 1 and not rungs[0]["look"]["holds"]
    figures = [rung["figure"] for rung in rungs if rung["kept"]]
    assert figures == sorted(figures)
    looks = [rung["look"] for rung in rungs if rung["look"]]
    assert [look["alpha"] for look in looks] == [0.05 / 2**n for n in range(1, len(looks) + 1)]
    assert looks[-1]["holds"] and promise["look"] == looks[-1]
    for rung in rungs:
        assert rung["name"] in ended.out
    # The run is read back as it was made, whatever the rungs have changed.
    verified = bitwright("verify", out, "--data", f"{user}:calib")
    assert verified.code == 0, verified.err
    loaded = bw.load(out)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    x = normal(20, 12, seed=9)
    own = torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
    torch.testing.assert_close(loaded(x), own, rtol=1e-4, atol=1e-4)


def test_a_menu_is_walked_from_the_cheapest(quantize, user):
    ended, out = quantize(
        "agreement>=90%", "--eval", f"{user}:held_out", "--menu", "w{2,4,8}a{4,8}",
        "--minimize", "size",
    )  # fmt: skip
    assert ended.code == 0, ended.out + ended.err
    promise = found_in(out)
    assert promise["cost"] == "size" and promise["used"] > 0
    allocation = json.loads((out / "allocation.json").read_text())
    assert allocation["budgets"]["size"]["used"] <= promise["used"]
    assert any(row["w_bits"] < 8 for row in allocation["choices"].values())


def test_proof_samples_change_no_integer():
    """Without --eval the last half proves: other samples there, the same network."""
    made = [
        bw.quantize(net(), [*calib(2), *calib(2, seed=last)], recipe="fixed", scheme="w8a8",
                    promise="agreement>=50%", method="quadratic")
        for last in (10, 20)
    ]  # fmt: skip
    first, second = (result.assignment.weights for result in made)
    assert all(torch.equal(first[name].q, second[name].q) for name in first)
    assert "the last 100 of 200" in made[0].metrics.promise.proof
    looks = [result.metrics.promise.look for result in made]
    assert all(look.samples == 100 and look.holds for look in looks)
    changed = bw.quantize(
        net(), [*calib(2, seed=30), *calib(2, seed=10)], recipe="fixed", scheme="w8a8",
        promise="agreement>=50%", method="quadratic",
    )  # fmt: skip
    other = changed.assignment.weights
    assert not all(torch.equal(first[name].q, other[name].q) for name in first)


def test_what_took_part_proves_nothing():
    data = calib(2)
    labelled = [(x, torch.zeros(50, dtype=torch.long)) for x in data]
    with pytest.raises(DataError, match="is a calibration sample too"):
        bw.quantize(net(), data, recipe="fixed", evaluation=labelled, promise="agreement>=90%")
    fresh = normal(40, 12, seed=50)
    more = [*labelled, (fresh, torch.zeros(40, dtype=torch.long))]
    found = bw.quantize(net(), data, recipe="fixed", evaluation=more, promise="agreement>=50%")
    assert found.metrics.promise.look.samples == 40
    assert found.metrics.samples == 140


def test_samples_told_apart():
    data = as_dataset([normal(5, 3), normal(4, 3, seed=1)])
    keys = keys_of(data)
    assert len(set(keys)) == 9 and keys_of(skip(data, 3)) == keys[3:]
    assert keys_of(without(data, {keys[1], keys[6]})) == [
        key for place, key in enumerate(keys) if place not in (1, 6)
    ]
    assert key_of(as_batch(normal(5, 3)[:1], "here")) == keys[0]


def test_the_store_and_a_saved_run_read_the_same(tmp_path):
    result = bw.quantize(net(), calib(4), recipe="fixed", promise="kl<=0.5")
    run = result.save(tmp_path / "run")
    read = run.read(rundir.METRICS, Metrics).promise
    assert read is not None and read.to_json() == result.metrics.promise.to_json()
    assert read.told.startswith("kl<=0.5 HOLDS: at most ")
    assert 'promise = "kl<=0.5"' in run.read_text(rundir.RECIPE)
    assert result.with_bits({}).metrics.promise is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"promise": "agreement"}, "is no promise"),
        ({"promise": "agreement>=99%", "lossless": 0.01, "menu": "w4a8"}, "Leave one of them out"),
        ({"promise": "kl<=1", "budget": "size<=0.5", "menu": "w4a8"}, "Leave --budget out"),
        ({"promise": "kl<=1", "minimize": "loss"}, "name a cost, such as bops"),
        ({"promise": "kl<=1", "minimize": "bobs"}, "unknown cost 'bobs'"),
        ({"promise": "kl<=1", "data": "none"}, "is judged by samples"),
        ({"promise": "f1>=0.5"}, "'f1' is not measured here"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        make_recipe("fixed", options)


def test_labels_are_asked_for_before_any_work(quantize):
    ended, out = quantize("drop<=1%")
    assert ended.code == 2 and "needs labels" in ended.err and not out.exists()
    with pytest.raises(RecipeError, match="needs labels"):
        bw.quantize(net(), calib(), recipe="fixed", promise="drop<=1%")
