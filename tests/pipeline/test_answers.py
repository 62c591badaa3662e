"""Networks of several outputs down the whole road: all of them count, in any order."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import DataError, RecipeError
from bitwright.evaluation.compare import compare
from bitwright.evaluation.forward import outcome_of
from bitwright.sources.batches import Batch
from networks import normal, seeded

MENU = {"recipe": "fixed", "menu": "w8a8,w4a8,w2a8", "budget": "bops<=0.05", "table_samples": 48}
# Two units of one size: the budget has room for one at eight bits and one at two, or both at four.
KEEP = {"keep": "body=w8a8"}


class TwoHeads(nn.Module):
    """Classes, and a number that nothing else says; `form` makes the result of them."""

    def __init__(self, form=lambda a, b: {"scores": a, "depth": b}) -> None:
        super().__init__()
        self.body = nn.Linear(12, 32)
        self.classes, self.number = nn.Linear(32, 8), nn.Linear(32, 8)
        self.form = form

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.form(self.classes(h), self.number(h).sum(1, keepdim=True))


def two_heads(form=lambda a, b: {"scores": a, "depth": b}):
    return seeded(lambda: TwoHeads(form)).eval()


def bits(result):
    return {name: choice.w_bits for name, choice in result.allocation.choices.items()}


@pytest.fixture(scope="module")
def data():
    return [normal(16, 12, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def both(data):
    return bw.quantize(two_heads(), data, **MENU, **KEEP)


def losses(result, unit):
    return {str(r.choice): r.loss_delta for r in result.table.rows if r.unit == unit}


def test_a_head_that_was_ignored_counts(both, data):
    """Today's road: the first output alone; the other head's loss is nothing at any bits."""
    first = bw.quantize(two_heads(), data, answer="depth=none", **MENU, **KEEP)
    assert losses(first, "number")["w2a8"] == 0.0 < losses(both, "number")["w2a8"]
    assert bits(first) == {"body": 8, "classes": 8, "number": 2}
    found = compare(
        outcome_of(both.graph, both.graph.module), outcome_of(both.graph, first.model),
        [Batch((x,)) for x in data], None,
    )  # fmt: skip
    assert found.outputs["depth"].agreement < 0.5
    assert both.metrics.outputs["depth"].loss < found.outputs["depth"].loss
    assert both.metrics.kl < found.kl


def test_figures_of_every_output(both):
    outputs = both.metrics.outputs
    assert {name: own.kind for name, own in outputs.items()} == {
        "scores": "scores", "depth": "regression",
    }  # fmt: skip
    assert both.metrics.answers == "several"
    assert both.metrics.agreement <= min(own.agreement for own in outputs.values())
    assert both.metrics.kl == pytest.approx(sum(own.loss for own in outputs.values()) / 2)
    assert "depth" in both.summary() and "standard deviations" in both.summary()
    verified = both.verify()
    assert verified.passed and set(verified.outputs) == {"scores", "depth"}
    assert set(both.census.outputs) == {"scores", "depth"}


def test_the_order_of_outputs_changes_nothing(both, data):
    other = bw.quantize(two_heads(lambda a, b: {"depth": b, "scores": a}), data, **MENU, **KEEP)
    assert bits(other) == bits(both)
    for unit in ("classes", "number"):
        assert losses(other, unit) == pytest.approx(losses(both, unit), rel=1e-9)
    assert other.metrics.agreement == both.metrics.agreement
    assert other.metrics.kl == pytest.approx(both.metrics.kl, rel=1e-12)


def test_batches_of_any_size_give_the_same_figures(both, data):
    float_, small = (outcome_of(both.graph, m) for m in (both.graph.module, both.model))
    whole = torch.cat(data)
    found = [
        compare(float_, small, [Batch((x,)) for x in whole.split(sizes)], None)
        for sizes in (48, 5, [1, 40, 7])
    ]
    for other in found[1:]:
        assert other.agreement == found[0].agreement
        assert other.kl == pytest.approx(found[0].kl, rel=1e-6)
        for name, own in other.outputs.items():
            assert own.agreement == found[0].outputs[name].agreement


def test_weights_weigh_the_losses(data):
    def ratio(weight):
        found = bw.quantize(two_heads(), data, answer={"depth": weight}, **MENU, **KEEP)
        return losses(found, "number")["w2a8"] / losses(found, "classes")["w2a8"]

    assert ratio("regression*1000") == pytest.approx(1e3 * ratio("regression"), rel=1e-6)


def test_tuning_lowers_the_loss_of_all_outputs(data):
    before = bw.quantize(two_heads(), data, recipe="fixed", scheme="w4a8")
    after = bw.quantize(two_heads(), data, recipe="fixed", scheme="w4a8", tune="bias,scales")
    assert any(step.kept for step in after.metrics.tuning)
    assert after.metrics.kl < before.metrics.kl


def test_a_promise_of_all_outputs(data):
    found = bw.quantize(
        two_heads(), [torch.cat(data)] * 2 + [normal(96, 12, seed=9)], recipe="fixed",
        scheme="w8a8", promise="agreement>=60%",
    )  # fmt: skip
    assert found.metrics.promise.holds


def test_labels_of_one_output_are_no_measure_of_two(data):
    labelled = [(x, torch.zeros(16, dtype=torch.int64)) for x in data]
    with pytest.raises(DataError, match="leave outputs out"):
        bw.quantize(two_heads(), labelled, labels=True, **MENU)


# ---- a loss of the user's own ----------------------------------------------------------------


def only_depth(reference, other):
    return (reference["depth"] - other["depth"]).square().mean(1)


def test_a_loss_of_the_users_own_decides(data):
    own = bw.quantize(two_heads(), data, loss=only_depth, **MENU, **KEEP)
    assert losses(own, "classes")["w2a8"] == 0.0 < losses(own, "number")["w2a8"]
    assert bits(own) == {"body": 8, "classes": 2, "number": 8}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda a, b: a["depth"].mean(), "for 16 samples"),
        (lambda a: a, "two arguments"),
        (lambda a, b: a["height"], "KeyError|height"),
    ],
)
def test_a_loss_that_is_none_is_refused(data, loss, message):
    with pytest.raises(RecipeError, match=message):
        bw.quantize(two_heads(), data, loss=loss, **MENU)


# ---- by the command --------------------------------------------------------------------------

FILE = """
import torch
from torch import nn


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 32)
        self.classes, self.number = nn.Linear(32, 8), nn.Linear(32, 8)
        self.example_inputs = (torch.zeros(2, 12),)

    def forward(self, x):
        h = torch.relu(self.body(x))
        return {"scores": self.classes(h), "depth": self.number(h).sum(1, keepdim=True)}


def net():
    torch.manual_seed(0)
    return TwoHeads().eval()


def calib():
    return [torch.randn(16, 12, generator=torch.Generator().manual_seed(s)) for s in range(3)]


def only_depth(reference, other):
    return (reference["depth"] - other["depth"]).square().mean(1)
"""


def test_the_command(bitwright, tmp_path):
    file, run = tmp_path / "net.py", tmp_path / "run"
    file.write_text(FILE)
    done = bitwright("doctor", f"{file}:net", "--no-speed", "--answer", "depth=regression*2")
    assert "depth: regression, weight 2, as --answer says" in done.out
    assert "scores: scores, by its name" in done.out
    asked = ["--recipe", "fixed", "--menu", "w8a8,w4a8,w2a8", "--budget", "bops<=0.05", "--keep",
             "body=w8a8", "--data", f"{file}:calib"]  # fmt: skip
    done = bitwright("quantize", f"{file}:net", *asked, "--out", str(run), "--answer", "depth=none")
    assert done.code == 0, done.err
    bits = json.loads((run / "allocation.json").read_text())["choices"]
    assert bits["number"]["w_bits"] == 2
    done = bitwright("quantize", f"{file}:net", *asked, "--out", str(run), "--force",
                     "--loss", f"{file}:only_depth")  # fmt: skip
    assert done.code == 0, done.err
    bits = json.loads((run / "allocation.json").read_text())["choices"]
    assert bits["number"]["w_bits"] == 8 and bits["classes"]["w_bits"] == 2
    assert set(json.loads((run / "metrics.json").read_text())["outputs"]) == {"scores", "depth"}
    assert set(json.loads((run / "verify.json").read_text())["outputs"]) == {"scores", "depth"}
    assert bitwright("verify", str(run)).code == 0
    done = bitwright("evaluate", str(run), "--eval", f"{file}:calib", "--metric", "agreement")
    assert done.code == 0 and "depth: " in done.out
    done = bitwright("quantize", f"{file}:net", *asked, "--out", f"{run}2", "--answer", "deep=none")
    assert done.code == 2 and "'depth'" in done.err
