"""ACIQ on one unit and on a whole network, through the packed file and ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from unit_problems import bare, problem

import bitwright as bw
from bitwright.export.packed import load_packed, save_packed
from bitwright.methods.aciq import Aciq
from bitwright.methods.nearest import Nearest
from bitwright.numerics.affine import dequantize
from networks import normal, pictures, seeded, small_network


def layer(channels: int = 24, inputs: int = 64) -> torch.nn.Linear:
    """Rows of very different ranges, and a mean that is not zero."""
    made = seeded(lambda: torch.nn.Linear(inputs, channels))
    spread = torch.exp(normal(channels, 1, seed=3))
    made.weight.data = spread * (normal(channels, inputs, seed=4) + 0.3)
    return made


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bits_of_channels_lower_the_error_at_the_same_average(bits, symmetric):
    given = bare(layer(), bits, symmetric)
    found = Aciq(bias_correction=False).solve(given)
    plain = Nearest("minmax").solve(given)
    if bits in (3, 4):
        assert sum(found.channel_bits) == bits * 24 and len(set(found.channel_bits)) > 1
        assert found.error < 0.9 * plain.error
    else:
        # Two bits are the least and eight the most: there is nothing to give and take.
        assert not found.channel_bits and found.error == plain.error


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_bias_correction_puts_mean_and_norm_right(bits):
    given = replace(bare(layer(), bits), input_means=(0.7,))
    found, plain = (Aciq(bias_correction=b, channel_bits=False).solve(given) for b in (True, False))
    assert torch.equal(found.q, plain.q)
    true, got = given.weight.double(), dequantize(found.q, found.weight).double()
    shift = (found.bias - given.bias).double() / (0.7 * 64)
    xi = (found.weight.scale / plain.weight.scale).reshape(-1).double()
    # xi (Wq + mu) has the mean xi E[W], as the paper has it.
    assert torch.allclose(shift + got.mean(1), xi * true.mean(1), rtol=1e-4, atol=1e-4)
    norms = [(w - w.mean(1, keepdim=True)).norm(dim=1) for w in (true, got)]
    # To within the significant bits that a scale may have.
    assert torch.allclose(norms[0], norms[1], rtol=2.0 ** -(12 - bits))
    x = (0.7 + 0.1 * normal(4096, 64, seed=5)).double()
    errors = [
        (x @ true.T + given.bias - x @ dequantize(s.q, s.weight).double().T - s.bias).mean(0).abs()
        for s in (found, plain)
    ]
    assert errors[0].mean() < 0.6 * errors[1].mean()


def test_without_the_mean_of_the_input_the_bias_stays():
    for given in (bare(layer(), 4), replace(problem("depthwise", 4), input_means=(0.5,))):
        assert Aciq().solve(given).bias is given.bias
    with_mean = replace(problem("linear without bias", 4), input_means=(0.5,))
    assert Aciq().solve(with_mean).bias.shape == (5,)
    assert Aciq().solve(replace(problem("product", 4), input_means=(0.5,))).bias is None


@pytest.fixture(scope="module")
def result():
    return bw.quantize(small_network(), [pictures(64)], recipe="aciq", keep="first=w8a8")


def test_the_packed_file_holds_each_channel_at_its_own_width(result, tmp_path):
    save_packed(tmp_path / "m", result.graph, result.assignment)
    found = load_packed(tmp_path / "m").assignment
    mixed = [n for n, s in result.assignment.weights.items() if s.channel_bits]
    assert "depthwise" in mixed and "stem" not in mixed
    for name in mixed:
        want, got = result.assignment.weights[name], found.weights[name]
        assert torch.equal(got.q, want.q) and got.qparams.grid == want.qparams.grid
        assert (got.channel_bits, got.channel_axis) == (want.channel_bits, want.channel_axis)
        assert torch.equal(got.qparams.scale, want.qparams.scale)
    rows = {row.unit: row for row in result.table.chosen(result.allocation.choices)}
    plain = bw.quantize(
        small_network(),
        [pictures(64)],
        recipe="fixed",
        method="nearest",
        scheme="w4a4",
        keep="first=w8a8",
    )
    sizes = [save_packed(tmp_path / "n", r.graph, r.assignment) for r in (result, plain)]
    # The same bits a weight on average: a byte of rounding for each width, and the widths.
    assert abs(sizes[0] - sizes[1]) < 600
    assert all(row.choice.w_bits == 4 for name, row in rows.items() if name != "stem")


def test_the_pipeline_goes_through_onnx_runtime(result):
    verified = result.verify()
    assert verified["passed"] and verified["agreement"] == 1.0


def test_it_beats_min_max_at_four_bits(result):
    plain = bw.quantize(
        small_network(), [pictures(64)], recipe="fixed", scheme="w4a4", keep="first=w8a8",
        weight_range="minmax", activation_range="minmax",
    )  # fmt: skip
    assert result.metrics["kl"] < plain.metrics["kl"]
