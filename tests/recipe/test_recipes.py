"""Each recipe of the literature from end to end, its file run in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

import bitwright as bw
from bitwright.methods.catalogue import METHODS
from bitwright.pipeline import distilled as distilling
from bitwright.pipeline.check import make_recipe
from bitwright.tuning.catalogue import ABOUT
from networks import pictures, small_network

# Recipe, a scheme of the user's, a target.
RUNS = [
    ("aciq", "w4a8", "paper"),
    ("dfq", "w8a8", "ort-cpu"),
    ("zeroq", "w8a8", "paper"),
    ("ocs", "w4a8", "paper"),
    ("lapq", "w4a4", "paper"),
    ("adaround", "w3a8", "paper"),
    ("brecq", "w3a8", "ort-cpu"),
    ("qat-kld", "w3a8", "paper"),
]


@pytest.fixture
def quick(monkeypatch):
    """The same code with few iterations."""
    shorter = {
        "brecq": {"iterations": 20},
        "qat-kld": {"iterations": 20},
        "lapq": {"evaluations": 12, "norms": (2.0, 3.0)},
    }
    for name, settings in shorter.items():
        monkeypatch.setitem(ABOUT, name, replace(ABOUT[name], settings=settings))
    monkeypatch.setattr(distilling, "Distillation", partial(distilling.Distillation, iterations=20))
    monkeypatch.setitem(METHODS, "adaround", replace(METHODS["adaround"], iterations=20))


@pytest.mark.parametrize(("recipe", "scheme", "target"), RUNS)
def test_verified_in_the_runtime(quick, recipe, scheme, target):
    net = small_network()
    net.example_inputs = (pictures(2),)
    data = "none" if recipe == "zeroq" else [pictures(64)]
    result = bw.quantize(
        net, data, recipe=recipe, scheme=scheme, target=target, evaluation=[pictures(48, seed=7)],
        metric="agreement",
    )  # fmt: skip
    made = make_recipe(recipe, {})
    assert result.recipe.scheme == scheme and result.recipe.method == made.method
    assert result.metrics["agreement"] > 0.5
    found = result.verify()
    assert found["passed"] and found["agreement"] == 1.0
