"""Batch-norm folding: exact to float rounding, recorded, and declined with a reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.graph.capture import capture
from networks import Chain, normal, seeded, trained_looking

FOLDS = {
    "conv1d": (lambda: (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (5, 4, 9)),
    "conv2d": (lambda: (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), (5, 4, 9, 9)),
    "conv2d same": (lambda: (nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)), (5, 4, 9, 9)),
    "conv3d": (lambda: (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4)), (3, 2, 5, 5, 5)),
    "transposed 1d": (lambda: (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)), (5, 4, 9)),
    "transposed 2d": (
        lambda: (nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6)),
        (5, 4, 7, 7),
    ),
    "transposed 3d": (lambda: (nn.ConvTranspose3d(2, 4, 2), nn.BatchNorm3d(4)), (3, 2, 4, 4, 4)),
    "transposed grouped": (
        lambda: (nn.ConvTranspose2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)),
        (5, 6, 7, 7),
    ),
    "transposed depthwise": (
        lambda: (nn.ConvTranspose2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)),
        (5, 4, 7, 7),
    ),
    "grouped": (lambda: (nn.Conv2d(6, 8, 3, groups=2), nn.BatchNorm2d(8)), (5, 6, 9, 9)),
    "depthwise": (
        lambda: (nn.Conv2d(6, 12, 3, groups=6, bias=False), nn.BatchNorm2d(12)),
        (5, 6, 9, 9),
    ),
    "linear": (lambda: (nn.Linear(7, 5), nn.BatchNorm1d(5)), (6, 7)),
    "linear without bias": (lambda: (nn.Linear(7, 5, bias=False), nn.BatchNorm1d(5)), (6, 7)),
    "norm without affine": (
        lambda: (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
        (5, 4, 9, 9),
    ),
}


def norms_in(graph) -> int:
    return sum("batch_norm" in str(n.target) for n in graph.module.graph.nodes)


def with_statistics(net: nn.Module) -> nn.Module:
    """As trained_looking, for norms without affine parameters too."""
    for index, module in enumerate(net.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(normal(module.num_features, seed=index) * 0.2)
            module.running_var.copy_(normal(module.num_features, seed=index + 50).abs() + 0.5)
            if module.affine:
                module.weight.data.copy_(normal(module.num_features, seed=index + 100))
                module.bias.data.copy_(normal(module.num_features, seed=index + 150))
    return net.eval()


@pytest.mark.parametrize("kind", FOLDS)
def test_folding_is_exact_to_float_rounding(kind):
    make, shape = FOLDS[kind]
    net = with_statistics(seeded(lambda: Chain(*make())))
    x = normal(*shape, seed=1)
    graph = capture(net, (x,))
    assert norms_in(graph) == 0
    with torch.no_grad():
        want, got = net.double()(x.double()), graph.module(x)
    assert torch.allclose(got.double(), want, rtol=0, atol=2e-6 * float(want.abs().max()))


def test_the_record_of_what_was_folded():
    net = with_statistics(seeded(lambda: Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3))))
    norm = net.m1
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph = capture(net, (normal(2, 3, 6, 6),))
    assert list(graph.folded) == ["m0"]
    record = graph.folded["m0"]
    assert record.name == "m1" and record.eps == pytest.approx(1e-3)
    for kept, own in (
        (record.gamma, norm.weight),
        (record.beta, norm.bias),
        (record.mean, norm.running_mean),
        (record.var, norm.running_var),
    ):
        assert torch.equal(kept, own.detach())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_scale_that_vanishes_or_is_negative_folds():
    net = trained_looking(seeded(lambda: Chain(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
    net.m1.weight.data[:] = torch.tensor([0.0, -1.0, 1e-8, 2.0])
    x = normal(4, 3, 6, 6)
    with torch.no_grad():
        assert torch.allclose(capture(net, (x,)).module(x), net(x), atol=1e-5)


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(torch.relu(self.norm(x)))


class SharedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x.flip(0))


class SeveralReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + torch.tanh(y)


class Sequence(nn.Module):
    """A linear layer over a sequence: the batch-norm's channels are the sequence's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.linear(x))


class NoStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("make", "shape", "reason"),
    [
        (PreActivation, (4, 3, 8, 8), "no weighted layer directly before it"),
        (SharedWeight, (4, 3, 8, 8), "shared by several calls"),
        (SeveralReaders, (4, 3, 8, 8), "used elsewhere too"),
        (Sequence, (4, 3, 5), "channels are not the batch-norm's"),
    ],
)
def test_what_cannot_fold_stays_with_a_note(make, shape, reason):
    net = trained_looking(seeded(make))
    x = normal(*shape)
    graph = capture(net, (x,))
    assert norms_in(graph) == 1 and not graph.folded
    notes = [note for note in graph.notes if "batch-norm stays in float" in note.text]
    assert len(notes) == 1 and reason in notes[0].text and notes[0].place == "norm"
    with torch.no_grad():
        assert torch.allclose(graph.module(x), net(x), atol=1e-5)


def test_a_norm_without_running_statistics_stays():
    net = seeded(NoStatistics).eval()
    graph = capture(net, (normal(4, 3, 8, 8),))
    assert not graph.folded
    assert any("batch-norm stays in float" in note.text for note in graph.notes)
