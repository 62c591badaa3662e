"""The simulated network against quantisation written out by hand."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.nn import functional

import bitwright as bw
from bitwright.graph.capture import capture
from bitwright.graph.simulate import Assignment, QuantizedTensor, stitch
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid
from networks import Tied, TwoTowers, normal, seeded


def test_one_layer_by_hand():
    """y = W^ x^ + b with every number written down."""
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.0, 0.6, -0.3], [0.9, 0.2, 1.0]])
    layer.bias.data = torch.tensor([1.0, -1.0])

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = layer

        def forward(self, x):
            return self.fc(x)

    graph = capture(One().eval(), (torch.zeros(2, 3),))
    # Weights in steps of 0.25 around zero point 1 on 0..3; inputs in steps of 0.5, zero point 2.
    weight = QuantizedTensor(
        torch.tensor([[1, 3, 0], [3, 2, 3]], dtype=torch.uint8),
        QParams(Grid(2), torch.full((2, 1), 0.25), torch.ones(2, 1, dtype=torch.int32)),
    )
    edge = QParams(Grid(2), torch.tensor(0.5), torch.tensor(2, dtype=torch.int32))
    module = stitch(
        graph, Assignment({"fc": weight}, {"fc": layer.bias.detach()}, {("x", "linear"): edge})
    )
    x = torch.tensor([[-9.0, 0.3, 0.2], [0.25, 0.75, -0.74]])
    # -9 saturates at (0 - 2) / 2, 0.3 -> 0.5, 0.2 -> 0; ties go to even: 0.25 -> 0, 0.75 -> 2
    # steps, which saturates at (3 - 2) / 2; -0.74 -> -0.5.
    by_hand = torch.tensor([[-1.0, 0.5, 0.0], [0.0, 0.5, -0.5]])
    kernel = torch.tensor([[0.0, 0.5, -0.25], [0.5, 0.25, 0.5]])
    assert torch.equal(module(x), by_hand @ kernel.T + layer.bias.detach())


def on_grid(x, qparams):
    """Quantise and dequantise as the ONNX standard words it."""
    q = torch.round(x / qparams.scale) + qparams.zero_point
    q = q.clamp(qparams.grid.qmin, qparams.grid.qmax)
    return (q - qparams.zero_point) * qparams.scale


def folded(conv, norm):
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * gain
    return conv.weight.double() * gain.view(-1, 1, 1, 1), bias


def by_hand(net, result, x):
    """SmallNet in float64, with the grids of the result and nothing else of its code."""
    grids, edges = result.assignment.weights, result.assignment.edges

    def at(value, source, reader):
        return on_grid(value, edges[source, reader]) if (source, reader) in edges else value

    def weight(name, value):
        got, solved = grids[name].q, grids[name].qparams
        q = torch.round(value / solved.scale) + solved.zero_point
        q = q.clamp(solved.grid.qmin, solved.grid.qmax)
        assert (q - got.long()).abs().max() <= 1 and (q != got.long()).double().mean() < 1e-3
        return (got.double() - solved.zero_point) * solved.scale.double()

    def bias(name, value):
        held = result.assignment.biases[name]
        if isinstance(held, torch.Tensor):
            return held.double()
        assert (held.q * held.scale.double() - value).abs().max() <= held.scale.max()
        return held.q.double() * held.scale.double()

    stem, stem_bias = folded(net.stem, net.stem_bn)
    deep, deep_bias = folded(net.depthwise, net.depthwise_bn)
    x = at(x.double(), "x", "conv2d")
    x = functional.conv2d(x, weight("stem", stem), bias("stem", stem_bias), padding=1).relu()
    y = at(x, "relu", "conv2d_1")
    y = functional.conv2d(
        y, weight("depthwise", deep), bias("depthwise", deep_bias), padding=1, groups=16
    ).clamp(0, 6)
    y = functional.conv2d(
        at(y, "relu6", "conv2d_2"),
        weight("project", net.project.weight.double()),
        bias("project", net.project.bias),
    )
    x = (at(y, "conv2d_2", "add") + at(x, "relu", "add")).relu()
    x = functional.conv2d(
        at(x, "relu_1", "conv2d_3"),
        weight("grouped", net.grouped.weight.double()),
        bias("grouped", net.grouped.bias),
        stride=2, padding=1, groups=4,
    ).relu()  # fmt: skip
    x = at(at(x, "relu_2", "mean").mean((2, 3)), "mean", "linear")
    head = weight("head", net.head.weight.double())
    return functional.linear(x, head, bias("head", net.head.bias))


@pytest.mark.parametrize("target", ["paper", "ort-cpu", "weights-only"])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a4", "w2a8", "w3a5"])
def test_small_net_equals_the_reference(small_net, images, target, scheme):
    result = bw.quantize(small_net, [images], recipe="fixed", target=target, scheme=scheme)
    with torch.no_grad():
        got, want = result.model(images), by_hand(small_net, result, images)
    relative = (got - want).abs() / want.abs().max()
    # Rounding in float64 and float32 may differ at a tie: a few activations move by one step.
    assert float(relative.median()) < 1e-5 and float(relative.max()) < 2e-2
    assert float((relative < 1e-5).double().mean()) > 0.6


def test_float_is_the_network_itself(small_net, images):
    result = bw.quantize(small_net, [images], recipe="fixed", scheme="float")
    with torch.no_grad():
        assert torch.allclose(result.model(images), small_net(images), atol=1e-5)
    assert result.assignment.edges == {} and result.metrics["agreement"] == 1.0


def test_sixteen_bits_are_nearly_exact(small_net, images):
    result = bw.quantize(
        small_net, [images], recipe="fixed", scheme="w16a16", activation_range="minmax"
    )
    with torch.no_grad():
        got, want = result.model(images), small_net(images)
    assert float((got - want).abs().max() / want.abs().max()) < 1e-3


def test_a_kept_unit_stays_float(small_net, images):
    result = bw.quantize(small_net, [images], recipe="fixed", scheme="w2a2", keep="stem,head=float")
    assert set(result.assignment.weights) == {"depthwise", "project", "grouped"}
    readers = {reader for _, reader in result.assignment.edges}
    assert "conv2d" not in readers and "linear" not in readers


def test_the_graph_is_left_alone(small_net, images):
    graph = capture(small_net, (images,))
    before = graph.digest()
    result = bw.quantize(small_net, [images], recipe="fixed", scheme="w4a4")
    stitch(graph, result.assignment)
    stitch(graph, result.assignment, marks=True)
    assert graph.digest() == before


def test_marks_change_no_number(small_net, images):
    result = bw.quantize(small_net, [images], recipe="fixed", scheme="w4a4", target="ort-cpu")
    marked = stitch(result.graph, result.assignment, marks=True)
    with torch.no_grad():
        assert torch.equal(marked(images), result.model(images))


def test_both_calls_of_a_shared_weight_are_quantised():
    net, x = seeded(Tied).eval(), normal(64, 6)
    result = bw.quantize(net, [x], recipe="fixed", scheme="w4a4")
    assert len(result.assignment.weights) == 2 and len(result.assignment.edges) == 3
    solved = {
        n: (w.q.float() - w.qparams.zero_point) * w.qparams.scale
        for n, w in result.assignment.weights.items()
    }
    e = result.assignment.edges
    b = {
        name: bias if isinstance(bias, torch.Tensor) else bias.q * bias.scale
        for name, bias in result.assignment.biases.items()
    }
    with torch.no_grad():
        y = functional.linear(on_grid(x, e["x", "linear"]), solved["twice"], b["twice"]).relu()
        y = functional.linear(on_grid(y, e["relu", "linear_1"]), solved["twice"], b["twice"])
        y = on_grid(y.relu(), e["relu_1", "linear_2"])
        want = functional.linear(y, solved["head"], b["head"])
        assert torch.allclose(result.model(x), want, atol=1e-5)


def test_structure_of_inputs_and_outputs_is_kept():
    net = seeded(TwoTowers).eval()
    batch = {"first": normal(32, 4), "second": normal(32, 6, seed=1)}
    result = bw.quantize(net, [batch], recipe="fixed", scheme="w8a8")
    got, want = result.model(**batch), net(**batch)
    assert isinstance(got, dict) and list(got) == ["hidden", "logits"]
    assert isinstance(got["hidden"], tuple) and torch.equal(got["hidden"][1], batch["first"])
    assert torch.allclose(got["logits"], want["logits"], atol=0.1)


def test_the_model_is_an_ordinary_module(small_net, images):
    result = bw.quantize(small_net, [images], recipe="fixed", scheme="w3a8")
    model = result.model
    assert isinstance(model, nn.Module) and not model.training
    with torch.no_grad():
        before = model(images)
        assert torch.equal(model.to(torch.device("cpu"))(images), before)
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        for value in model.state_dict().values():
            value.zero_()
        assert not torch.equal(model(images), before)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        missing = model.load_state_dict(state)
        assert not missing.missing_keys and not missing.unexpected_keys
        assert torch.equal(model(images), before)
        for size in (1, 5):
            assert torch.allclose(model(images[:size]), before[:size], atol=1e-4)
    assert list(model.parameters()) == []


def test_the_simulation_holds_no_float_weights(small_net, images):
    """What is replaced by integers is not carried along: the state is that of the quantised net."""
    model = bw.quantize(small_net, [images], recipe="fixed", scheme="w8a8").model
    names = list(model.state_dict())
    assert "stem.quantized.q" in names and not any(n == "stem.weight" for n in names)
