"""Quantised tables: looked up as integers, to the bit what the whole table as numbers gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.numerics.affine import dequantize


class Tagger(nn.Module):
    """Two look-ups in one table, one in another, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.places = nn.Embedding(16, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1]).expand_as(ids)
        both = self.words(ids) + 0.1 * self.words(ids.flip(1))
        return self.head(torch.tanh(both + self.places(places)))


class Tied(Tagger):
    """The table is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 50, bias=False)
        self.head.weight = self.words.weight


def quantised(network, **options):
    torch.manual_seed(0)
    network = network().eval()
    batches = [torch.randint(0, 50, (8, 7)) for _ in range(4)]
    return bw.quantize(network, batches, scheme="w8a8", **{"recipe": "fixed", **options})


@pytest.mark.parametrize("scheme", ["w8afloat", "w4afloat", "w3afloat", "w2afloat"])
@pytest.mark.parametrize("target", ["paper", "weights-only"])
def test_rows_are_those_of_the_whole_table(tmp_path, scheme, target):
    """Against the plain formula on the packed integers, in ONNX Runtime, optimised and not."""
    result = quantised(Tagger, target=target, keep=f"*={scheme},head=float")
    ids = torch.randint(0, 50, (3, 5))
    whole = {n: dequantize(s.q, s.qparams) for n, s in result.assignment.weights.items()}
    words, places = whole["words"], whole["places"]
    want = words[ids] + 0.1 * words[ids.flip(1)] + places[torch.arange(5)]
    weight, bias = (result.graph.tensor(f"head.{name}") for name in ("weight", "bias"))
    head = nn.functional.linear(torch.tanh(want), weight, bias)
    assert torch.equal(result.model(ids), head)
    path = result.export(tmp_path / "m.onnx")
    levels = ort.GraphOptimizationLevel
    for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        got = session.run(None, {session.get_inputs()[0].name: ids.numpy()})[0]
        np.testing.assert_allclose(got, head.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_table_stays_integers_in_the_file(tmp_path):
    """No DequantizeLinear of a table, its integers at their own width, and the file verifies."""
    result = quantised(Tagger, keep="words=w4afloat")
    path = result.export(tmp_path / "m.onnx")
    model = onnx.load(path)
    stored = {i.name: i for i in model.graph.initializer}
    assert stored["words.table.q"].data_type == onnx.TensorProto.UINT4
    assert len(stored["words.table.q"].raw_data) == 50 * 12 // 2
    made = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert not [name for name in made if "table" in name]
    assert result.verify()["passed"]
    sizes = {row["name"]: row["w_bits"] for row in result.census["units"]}
    assert sizes["words"] == 4 and sizes["places"] == 8


def test_a_table_that_is_also_the_output_layer(tmp_path):
    result = quantised(Tied)
    found = result.verify()
    assert found["passed"], found
    assert len(result.assignment.weights) == 2


def test_one_scale_for_the_whole_table(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text('name = "plain"\nweight_per_channel = false\n')
    result = quantised(Tagger, target=str(file))
    assert result.assignment.weights["words"].qparams.scale.dim() == 0
    assert result.verify()["passed"]
