"""Which disagreements with a runtime mean nothing, and which do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import bitwright as bw
from bitwright.export import verify as verification
from bitwright.export.rounding import count_undecided
from bitwright.graph.execute import bind, first_tensor, walk
from bitwright.graph.simulate import stitch
from networks import pictures, small_network

IMAGES = pictures(24)


@pytest.fixture(scope="module")
def marked():
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme="w4a4")
    module = stitch(result.graph, result.assignment, marks=True)
    flat = bind(result.graph, (IMAGES,))
    return module, flat, first_tensor(walk(module, flat))


def swap(scores, row, gap):
    """The row's two best answers set `gap` apart, and the same with them exchanged."""
    best, second = scores[row].topk(2).indices
    scores[row, second] = scores[row, best] - gap
    other = scores.clone()
    other[row, best], other[row, second] = scores[row, second], scores[row, best]
    return other


def test_a_tie_within_rounding_is_undecided(marked):
    module, flat, expected = marked
    units = {"head": 1e-5}
    scores = expected.clone()
    other = swap(scores, 3, 1e-9)
    # The simulation's own scores differ from those made up here by more than rounding in row 3.
    assert count_undecided(module, flat, scores, other, units) in (0, 1)
    assert count_undecided(module, flat, expected, expected, units) == 0


def test_a_clear_answer_is_never_excused(marked):
    module, flat, expected = marked
    best, worst = expected.argmax(1), expected.argmin(1)
    rows = torch.arange(len(expected))
    other = expected.clone()
    other[rows, best], other[rows, worst] = expected[rows, worst], expected[rows, best]
    assert count_undecided(module, flat, expected, other, {}) == 0


class Tie(nn.Module):
    """Two scores that differ by the last bit at most."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 1)

    def forward(self, x):
        y = self.layer(x)
        return torch.cat([y, y * (1 + 2.0**-22), y - 1], -1)


def test_scores_that_differ_by_the_last_bit_are_undecided():
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    result = bw.quantize(Tie().eval(), [x], recipe="fixed", scheme="w8a8")
    module = stitch(result.graph, result.assignment, marks=True)
    flat = bind(result.graph, (x,))
    expected = first_tensor(walk(module, flat))
    exchanged = expected[:, [1, 0, 2]]
    different = int((expected.argmax(1) != exchanged.argmax(1)).sum())
    assert different == 8
    assert count_undecided(module, flat, expected, exchanged, {"layer": 1e-6}) == 8
    # Where the whole output is off by more than rounding, no row is excused.
    assert count_undecided(module, flat, expected, exchanged + 1e-3, {"layer": 1e-6}) == 0


def test_many_samples_excuse_nothing(monkeypatch, tmp_path):
    """99 % of the answers must agree, whatever their margin, where there are samples enough."""
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    result = bw.quantize(Tie().eval(), [x], recipe="fixed", scheme="w8a8")
    path = result.export(tmp_path / "m.onnx")
    real = verification._Whole.run

    def exchanged(self, flat, like):
        return real(self, flat, like)[:, [1, 0, 2]]

    def all_of_them(marked, flat, expected, got, *_):
        return int((expected.argmax(-1) != got.argmax(-1)).sum())

    monkeypatch.setattr(verification._Whole, "run", exchanged)
    monkeypatch.setattr(verification, "count_undecided", all_of_them)
    found = result.verify(path)
    assert found["agreement"] < 0.9 and found["undecided"] > 0 and found["passed"]
    monkeypatch.setattr(verification, "FEW_SAMPLES", 64)
    found = result.verify(path)
    assert found["agreement"] < 0.9 and not found["passed"]


def test_a_file_that_the_runtime_refuses_fails_and_says_why(tmp_path):
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme="w8a8")
    path = result.export(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    (scale,) = [t for t in model.graph.initializer if t.name == "head.weight.scale"]
    longer = np.concatenate([numpy_helper.to_array(scale)] * 2)
    scale.CopyFrom(numpy_helper.from_array(longer, scale.name))
    onnx.save(model, str(path))
    found = result.verify(path)
    assert not found["passed"] and found["error"]
    assert found["units"]["head"] == float("inf")


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
@pytest.mark.parametrize("scheme", ["w4a4", "w2a8", "w2a4", "w8a4"])
def test_low_bits_run_with_and_without_optimisations(tmp_path, scheme, target):
    result = bw.quantize(small_network(), [IMAGES], recipe="fixed", scheme=scheme, target=target)
    path = result.export(tmp_path / "m.onnx")
    found = result.verify(path)
    assert found["passed"] and found["error"] is None
    stored = [t for t in onnx.load(str(path)).graph.initializer if t.name == "grouped.weight.q"]
    bits = 2 if scheme.startswith("w2") else 8 if scheme.startswith("w8") else 4
    assert len(stored[0].raw_data) == result.graph.unit("grouped").params * bits // 8
