"""The opset of the file: asked for, needed, refused."""

from __future__ import annotations

import json

import onnx
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from networks import normal, pictures, seeded, small_network

IMAGES = pictures(16, size=8)


@pytest.mark.parametrize(("opset", "target"), [(13, "ort-cpu"), (17, "paper"), (23, "ort-cpu")])
def test_a_file_of_the_opset_that_is_asked_for(tmp_path, opset, target):
    result = bw.quantize(
        small_network(width=8), [IMAGES], recipe="fixed", target=target, opset=opset
    )
    run = result.save(tmp_path / "run")
    model = onnx.load(str(run["model.onnx"]))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= onnx.helper.find_min_ir_version_for(model.opset_import)
    assert json.loads(run["verify.json"].read_text())["passed"]
    assert f"opset = {opset}" in run["recipe.toml"].read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opset": 20, "scheme": "w4a8"}, r"--opset 20 .*INT4.* needs opset 21"),
        ({"opset": 24, "scheme": "w2a8"}, r"--opset 24 .*INT2.* needs opset 25"),
        ({"opset": 20, "keep": "first=w3a8"}, r"INT4, which holds 3-bit weights, needs opset 21"),
        ({"opset": 20, "menu": "w8a8,w2a8", "budget": "size<=0.5"}, "INT2.* needs opset 25"),
        ({"opset": 20, "scheme": "w8a16"}, "UINT16.* needs opset 21"),
        ({"opset": 20, "scheme": "w8a8g8"}, "group.* needs opset 21"),
        ({"opset": 12}, "--opset 12 cannot be written. Give 13 to 25"),
        ({"opset": 99}, "--opset 99 cannot be written"),
    ],
)
def test_an_opset_that_cannot_hold_the_bits_is_refused_before_any_work(options, said):
    with pytest.raises(RecipeError, match=said):
        bw.quantize(small_network(width=8), [IMAGES], **{"recipe": "fixed", **options})


def test_float_inputs_need_no_type():
    result = bw.quantize(
        small_network(width=8),
        [IMAGES],
        recipe="fixed",
        scheme="w8a16",
        target="weights-only",
        opset=20,
    )
    assert result.verify()["passed"]


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.norm(torch.relu(self.first(x))))


def test_an_operator_that_the_opset_lacks_is_named_before_any_work():
    net, stages = seeded(Normed).eval(), []
    progress = Progress([lambda event: stages.append(event.stage)])
    with pytest.raises(RecipeError, match=r"--opset 16 .*LayerNormalization.* --opset 18"):
        bw.quantize(net, [normal(16, 5, 8)], recipe="fixed", opset=16, progress=progress)
    assert set(stages) == {"capture"}
    assert bw.quantize(net, [normal(16, 5, 8)], recipe="fixed", opset=18).verify()["passed"]
