"""Groups of weights with a grid each: against the formula, in the file, in ONNX Runtime."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.allocation.cost import weight_bits
from bitwright.errors import RecipeError
from bitwright.export.packed import load_packed
from bitwright.graph.choice import Choice, parse_scheme
from bitwright.numerics.affine import dequantize
from bitwright.numerics.blocks import block_of, blocks, repeat_blocks


def network():
    """Rows whose halves differ in size; 16 does not divide the inputs of the last layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 40), nn.GELU(), nn.Linear(40, 12)).eval()
    with torch.no_grad():
        net[0].weight[:, 32:] *= 0.05
    return net


def data():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(64, 64, generator=generator) @ torch.diag(1 + torch.arange(64) / 8)]


def quantised(scheme, method="nearest", **options):
    return bw.quantize(
        network(), data(), scheme=scheme, method=method, **{"recipe": "fixed", **options}
    )


def test_each_group_has_the_grid_of_its_own_range():
    """minmax: s = (max(w, 0) - min(w, 0)) / 15 over every 16 neighbours, up to the exact scale."""
    result = quantised("w4a8g16", weight_range="minmax")
    solved = result.assignment.weights["0"]
    weight = network()[0].weight.detach().reshape(40, 4, 16)
    plain = (weight.amax(-1).clamp_min(0) - weight.amin(-1).clamp_max(0)) / 15
    own = solved.qparams.scale.reshape(40, 4, 16)
    assert torch.equal(own[..., :1].expand_as(own), own)
    ratio = own[..., 0] / plain
    assert float(ratio.min()) > 0.999 and float(ratio.max()) < 1.2
    # 16 does not divide 40: that layer has one scale a channel, and the record says so.
    assert result.assignment.weights["2"].qparams.scale.shape == (12, 1)
    assert result.allocation["choices"]["0"]["group"] == 16
    assert "group" not in result.allocation["choices"]["2"]
    assert result.census["protocol"]["first"] == "w4a8g16"


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
@pytest.mark.parametrize("method", ["nearest", "quadratic"])
def test_groups_lower_the_error_and_the_file_computes_the_same(tmp_path, method, target):
    plain, result = (quantised(s, method, target=target) for s in ("w4a8", "w4a8g16"))
    assert result.metrics["relative_noise"] < 0.7 * plain.metrics["relative_noise"]
    path = result.export(tmp_path / "m.onnx")
    assert result.verify(path)["passed"]
    file = onnx.load(path)
    stored = {t.name: list(t.dims) for t in file.graph.initializer}
    blocks_at_run = [a.i for n in file.graph.node for a in n.attribute if a.name == "block_size"]
    if target == "paper":  # made floats once, at load: what runs reads no packed weight
        assert stored["0.weight.q"] == [40, 4, 16] and stored["0.weight.scale"] == [40, 4, 1]
        assert not blocks_at_run
    else:  # between quantisers ONNX Runtime would round float weights once more
        assert stored["0.weight.q"] == [40, 64] and blocks_at_run == [16]
    x = data()[0]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    want = result.model(x).detach().numpy()
    assert np.square(got - want).sum() < 1e-4 * np.square(want).sum()


def test_quadratic_is_better_than_nearest():
    nearest, solved = (
        quantised("w3a8g16", method).metrics["relative_noise"]
        for method in ("nearest", "quadratic")
    )
    assert solved < nearest


def test_a_scale_is_stored_once_a_group(tmp_path):
    result = quantised("w4a8g16")
    run = result.save(tmp_path / "run")
    packed = load_packed(run["model.safetensors"])
    one, other = result.assignment.weights["0"], packed.assignment.weights["0"]
    assert torch.equal(one.q, other.q) and torch.equal(one.qparams.scale, other.qparams.scale)
    assert torch.equal(dequantize(one.q, one.qparams), dequantize(other.q, other.qparams))
    sizes = json.loads((tmp_path / "run" / "metrics.json").read_text())["size"]
    plain = quantised("w4a8")
    small = json.loads((plain.save(tmp_path / "p")["metrics.json"]).read_text())["size"]
    assert 0 < sizes["weight_bytes"] - small["weight_bytes"] < 40 * 4 * 5
    assert weight_bits(1600, 40, Choice(4, 8, 1, 16)) == 1600 * 4 + 100 * 32


def test_what_a_block_is():
    values = torch.arange(24.0).reshape(4, 6)
    scale = repeat_blocks(values, (1, 8))
    zero = torch.zeros_like(scale, dtype=torch.int32)
    assert block_of(scale, zero) == (1, 8) and torch.equal(blocks(scale, (1, 8)), values)
    zero[0, :4] = 1
    assert block_of(scale, zero) == (1, 4)
    assert block_of(scale.t(), zero.t()) == (0, 4)
    assert block_of(torch.rand(4, 1), torch.zeros(4, 1)) is None


@pytest.mark.parametrize("text", ["w4a8g4", "w4a8g64x2"])
def test_what_makes_no_group(text):
    with pytest.raises(RecipeError, match="a group has 8 weights or more"):
        parse_scheme(text)


def test_menus_and_other_methods_have_none():
    with pytest.raises(RecipeError, match=r"--menu holds w4a8g16: a menu has no groups"):
        quantised("w8a8", menu="w8a8,w4a8g16", budget="size<=0.2")
    with pytest.raises(RecipeError, match="method 'adaquant' solves no groups"):
        quantised("w4a8g16", "adaquant")
