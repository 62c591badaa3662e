"""Rewrites of the captured graph: what disappears, what becomes a constant, what is merged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from networks import Chain, normal, seeded

X = normal(4, 3, 8, 8, seed=3)


def names(graph) -> list[str]:
    return [str(n.target) for n in graph.module.graph.nodes if n.op == "call_function"]


def captured(net: nn.Module, x: torch.Tensor = X):
    """The graph, checked against the network on two other batch sizes."""
    graph = capture(net.eval(), (x,))
    for size in (1, 3):
        with torch.no_grad():
            want, got = net(x[:size].clone()), graph.module(x[:size].clone())
        assert torch.allclose(got, want, atol=1e-5)
    return graph


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.Identity()],
    ids=lambda m: type(m).__name__,
)
def test_dropout_and_identity_disappear(layer):
    graph = captured(seeded(lambda: Chain(nn.Conv2d(3, 4, 3), layer, nn.ReLU())))
    assert names(graph) == ["aten.conv2d.default", "aten.relu.default"]
    assert graph.units[0].activation == "relu"


class Clones(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x.clone().detach().contiguous()).contiguous()


def test_clone_detach_and_contiguous_disappear():
    assert names(captured(seeded(Clones))) == ["aten.conv2d.default"]


@pytest.mark.parametrize(
    "layer", [nn.ReLU(True), nn.ReLU6(True), nn.Hardtanh(0, 1, True), nn.SiLU(True)]
)
def test_in_place_activations_become_functional(layer):
    graph = captured(seeded(lambda: Chain(nn.Conv2d(3, 4, 3), layer)))
    assert not any(name.split(".")[1].endswith("_") for name in names(graph))
    assert graph.units[0].activation is not None


class WritesIntoViews(nn.Module):
    """In-place on a whole value that was read before, and on a part of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.side = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        early = y * 2
        y += self.side(x)
        y[:, 0] = 0
        y[:, 1].mul_(3)
        return y + early


class ReadsAfterWrite(nn.Module):
    """`z` is another name of `y`: writing to one changes what the other reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        z = y
        y.relu_()
        return z - 1


@pytest.mark.parametrize("make", [WritesIntoViews, ReadsAfterWrite])
def test_in_place_writes_keep_their_meaning(make):
    graph = captured(seeded(make))
    mutating = [
        n for n in graph.module.graph.nodes
        if getattr(getattr(n.target, "_schema", None), "is_mutable", False)
    ]  # fmt: skip
    assert not mutating


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return nn.functional.conv2d(x, w)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "wrap", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
def test_weight_norm_becomes_a_constant(wrap):
    net = seeded(lambda: Chain(wrap(nn.Conv2d(3, 4, 3)), nn.ReLU()))
    graph = captured(net)
    assert names(graph) == ["aten.conv2d.default", "aten.relu.default"]
    (unit,) = graph.units
    assert unit.name == "m0"
    assert torch.allclose(graph.tensor(unit.weight), net.m0.weight.detach(), atol=1e-6)


def test_standardised_weights_become_a_constant():
    graph = captured(seeded(Standardised))
    assert names(graph) == ["aten.conv2d.default"] and len(graph.units) == 1


def padding_of(graph) -> list[int]:
    node = next(n for n in graph.module.graph.nodes if str(n.target) == "aten.conv2d.default")
    return list(node.args[4]) if len(node.args) > 4 else [0, 0]


@pytest.mark.parametrize(
    ("pad", "own", "merged"),
    [((1, 1, 2, 2), 0, [2, 1]), ((1, 1, 1, 1), 2, [3, 3]), ((0, 0, 3, 3), 1, [4, 1])],
)
def test_symmetric_zero_padding_is_merged(pad, own, merged):
    graph = captured(seeded(lambda: Chain(nn.ZeroPad2d(pad), nn.Conv2d(3, 4, 3, padding=own))))
    assert names(graph) == ["aten.conv2d.default"]
    assert padding_of(graph) == merged


@pytest.mark.parametrize(
    "pad",
    [nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d(1, 2.0), nn.ReflectionPad2d(1)],
    ids=["asymmetric", "constant", "reflection"],
)
def test_other_padding_stays(pad):
    graph = captured(seeded(lambda: Chain(pad, nn.Conv2d(3, 4, 3))))
    assert len(names(graph)) == 2 and padding_of(graph) == [0, 0]


class PadReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = nn.functional.pad(x, (1, 1, 1, 1))
        return self.a(x) + self.b(x)


def test_padding_with_two_readers_computes_the_same():
    captured(seeded(PadReadTwice))


def test_capture_leaves_the_network_alone():
    net = seeded(lambda: Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    captured(net)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
