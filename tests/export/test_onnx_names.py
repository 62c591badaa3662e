"""Names in the file: the network's own outputs, readable axes, inputs in forward()'s order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.export.onnx_names import name_outputs
from networks import TwoTowers, normal, pictures, seeded


@dataclass
class Found:
    boxes: torch.Tensor
    classes: torch.Tensor


class Heads(nn.Module):
    """A body and two heads, whose results `form` puts together."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.form = nn.Conv2d(3, 6, 3, padding=1), form
        self.box, self.cls = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, image):
        x = torch.relu(self.body(image)).mean((2, 3))
        return self.form(self.box(x).reshape(-1, 1, 4).transpose(1, 2), self.cls(x), image)


def exported(net, batch, tmp_path, **options):
    result = bw.quantize(net.eval(), [batch], **{"recipe": "fixed", **options})
    path = result.export(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert result.verify(path)["passed"]
    return result, path, model


def shapes(values) -> dict[str, list]:
    return {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
    }


FORMS = [
    (lambda b, c, x: {"boxes": b, "classes": c}, {"boxes", "classes"}),
    (lambda b, c, x: {"det": {"boxes": b}, "rest": [c, c + 1]}, {"det.boxes", "rest.0", "rest.1"}),
    (lambda b, c, x: Found(b, c), {"boxes", "classes"}),
    (lambda b, c, x: (c, b), {"output_0", "output_1"}),
    (lambda b, c, x: c, {"output"}),
    # One value under two keys, an input handed through, names that other values have already.
    (lambda b, c, x: {"one": c, "two": c}, {"one", "two"}),
    (lambda b, c, x: {"scores": c, "image": x}, {"scores", "image_output"}),
    (lambda b, c, x: {"conv2d": c, "relu": b, "cls.weight.q": c + 1}, {"conv2d", "relu",
                                                                       "cls.weight.q"}),
    (lambda b, c, x: {"mean": b, "transpose": c, "mark_1": c * 2}, {"mean", "transpose", "mark_1"}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "names"), FORMS)
@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_outputs_carry_the_networks_own_names(tmp_path, form, names, target):
    images = pictures(16, size=8)
    net = seeded(lambda: Heads(form))
    result, path, model = exported(net, images, tmp_path, target=target)
    assert {v.name for v in model.graph.output} == names
    # Each name carries the value that the network gives under it.
    runtime = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = runtime.run(None, {"image": images.numpy()})
    got = dict(zip([o.name for o in runtime.get_outputs()], values, strict=True))
    wanted = result.model(images)
    if isinstance(wanted, dict) and "det" not in wanted:
        for key, value in wanted.items():
            name = "image_output" if key == "image" else key
            assert got[name].shape == tuple(value.shape)
            scale = float(value.detach().abs().max())
            assert np.abs(got[name] - value.detach().numpy()).max() < 0.1 * scale


def test_free_axes_have_words(tmp_path):
    net = seeded(lambda: Heads(lambda b, c, x: {"boxes": b, "classes": c}))
    _, _, model = exported(net, pictures(16, size=8), tmp_path)
    assert shapes(model.graph.input) == {"image": ["batch", 3, 8, 8]}
    assert shapes(model.graph.output) == {"boxes": ["batch", 4, 1], "classes": ["batch", 3]}


class Reads(nn.Module):
    """Two texts of lengths of their own."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, question, context):
        states = self.words(context)
        return {"states": self.head(states), "sum": self.words(question).mean(1) + states.mean(1)}


def test_the_length_of_a_text_is_called_length(tmp_path):
    generator = torch.Generator().manual_seed(0)
    text = {
        "context": torch.randint(0, 30, (16, 7), generator=generator),
        "question": torch.randint(0, 30, (16, 5), generator=generator),
    }
    _, _, model = exported(seeded(Reads), text, tmp_path)
    assert shapes(model.graph.input) == {
        "question": ["batch", "length"], "context": ["batch", "context_length"],
    }  # fmt: skip
    assert list(shapes(model.graph.input)) == ["question", "context"]  # forward()'s order
    assert shapes(model.graph.output)["states"] == ["batch", "context_length", 3]


def test_inputs_stand_in_the_order_of_forward(tmp_path):
    batch = {"second": normal(16, 6, seed=1), "first": normal(16, 4)}
    _, _, model = exported(seeded(TwoTowers), batch, tmp_path)
    assert [v.name for v in model.graph.input] == ["first", "second"]
    assert {v.name for v in model.graph.output} == {"hidden.0", "hidden.1", "logits"}


def test_names_inside_a_branch_are_told_apart():
    """An operator's branch may hold a value that has an output's name."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    inner = onnx.helper.make_graph(
        [make("Neg", ["x"], ["scores"])], "b", [], [info("scores", 1, [2])]
    )
    other = onnx.helper.make_graph([make("Abs", ["x"], ["abs"])], "c", [], [info("abs", 1, [2])])
    graph = onnx.helper.make_graph(
        [make("If", ["flag"], ["y"], then_branch=inner, else_branch=other)], "g",
        [info("flag", 9, []), info("x", 1, [2])], [info("y", 1, [2])],
    )  # fmt: skip
    whole = ir.from_proto(onnx.helper.make_model(graph))
    name_outputs(whole.graph, ["scores"])
    model = ir.to_proto(whole)
    assert model.graph.output[0].name == "scores"
    onnx.checker.check_model(model, full_check=True)
    branch = next(a for a in model.graph.node[0].attribute if a.name == "then_branch").g
    assert branch.output[0].name != "scores" and branch.node[0].output[0] == branch.output[0].name
