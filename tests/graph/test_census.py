"""The census: every unit with its bits, every other operator with its reason, the protocol."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from bitwright.graph.census import census
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from bitwright.solving.grids import active_sites
from networks import normal, seeded


def taken(net, x, target="paper", keep=None, samples=0):
    graph, aim = capture(net, (x,)), load_target(target)
    choices = {u.name: Choice(4, 8) for u in graph.units} | (keep or {})
    sites = active_sites(find_sites(graph, aim), graph, choices)
    return census(graph, aim, choices, sites, samples)


@pytest.fixture
def small(small_net, images):
    return lambda **options: taken(small_net, images, **options)


def test_every_unit_has_a_row(small):
    found = small(samples=100)
    rows = {row["name"]: row for row in found["units"]}
    assert list(rows) == ["stem", "depthwise", "project", "grouped", "head"]
    stem = rows["stem"]
    assert (stem["w_bits"], stem["a_bits"], stem["points"]) == (4, 8, 1)
    assert stem["kind"] == "conv2d" and stem["shape"] == [16, 3, 3, 3]
    assert stem["params"] == 432 and stem["macs"] == 256 * 432 and stem["calls"] == 1
    assert stem["activation"] == "relu" and rows["head"]["activation"] is None
    assert found["folded_batch_norms"] == ["depthwise_bn", "stem_bn"]
    assert found["target"] == "paper" and found["calibration_samples"] == 100


def test_the_calibration_size_rule(small):
    """Equations are samples times positions, unknowns the weights of one output channel."""
    rows = {row["name"]: row for row in small(samples=20)["units"]}
    assert rows["stem"]["unknowns_per_channel"] == 27 and rows["stem"]["equations"] == 20 * 256
    assert rows["depthwise"]["unknowns_per_channel"] == 9
    assert rows["head"]["unknowns_per_channel"] == 32 and rows["head"]["equations"] == 20
    assert rows["head"]["over_parameterised"] and not rows["stem"]["over_parameterised"]
    assert "over_parameterised" not in small()["units"][0]


def test_unknowns_of_a_grouped_transposed_convolution():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)

        def forward(self, x):
            return self.up(x)

    (row,) = taken(seeded(Up).eval(), normal(2, 4, 5, 5))["units"]
    assert row["unknowns_per_channel"] == 2 * 9  # inputs of its group times the kernel


def test_float_units_say_why(small):
    rows = {row["name"]: row for row in small(keep={"head": FLOAT})["units"]}
    assert rows["head"]["w_bits"] == rows["head"]["a_bits"] == 0
    assert "--keep" in rows["head"]["reason"] and "reason" not in rows["stem"]


def test_what_stays_in_float_has_a_count_and_a_reason(small):
    ops = {row["op"]: row for row in small()["float_ops"]}
    assert ops["relu"]["count"] == 3 and "activation function" in ops["relu"]["reason"]
    assert ops["relu6"]["count"] == 1 and ops["add"]["count"] == ops["mean"]["count"] == 1
    assert "conv2d" not in ops and "linear" not in ops
    chained = {row["op"] for row in small(target="ort-cpu")["float_ops"]}
    assert "add" not in chained and "mean" not in chained


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).split(8, -1)
        return self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)


def test_reasons_of_attention():
    found = taken(seeded(Attention).eval(), normal(2, 5, 8))["float_ops"]
    reasons = {row["op"]: row["reason"] for row in found}
    assert "normalisation" in reasons["layer_norm"] and "attention" in reasons["softmax"]
    assert "not a stored weight" in reasons["matmul"]


def test_the_protocol(small):
    found = small(keep={"stem": Choice(8, 8)})["protocol"]
    assert found["schemes"] == {"w4a8": 4, "w8a8": 1}
    assert found["first"] == "w8a8" and found["last"] == "w4a8"
    assert found["weights"] == "asymmetric, per channel" and found["biases"] == "int32"
    assert not found["residual_adds_quantised"] and found["network_input_quantised"]
    ort = small(target="ort-cpu")["protocol"]
    assert ort["residual_adds_quantised"] and ort["biases"] == "int32"
    assert ort["weights"] == "symmetric, per channel"
    alone = small(target="weights-only")
    assert alone["protocol"]["inputs"] == "float" and alone["units"][0]["a_bits"] == 0
    assert not alone["protocol"]["network_input_quantised"]


def test_an_embedding_has_no_input_bits():
    class Embeds(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.head(self.words(tokens))

    rows = taken(Embeds().eval(), torch.zeros(2, 3, dtype=torch.int64))["units"]
    assert [row["a_bits"] for row in rows] == [0, 8] and rows[0]["w_bits"] == 4
