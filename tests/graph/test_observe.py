"""The calibration pass: one walk, exact statistics, nothing kept, and the preprocessing check."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.graph import observe as module
from bitwright.graph.capture import capture
from bitwright.graph.observe import observe
from bitwright.numerics.stats import TensorStats
from networks import Chain, normal, seeded, trained_looking


def batches(images, *sizes):
    return ((part.clone(),) for part in torch.split(images, list(sizes)))


def test_one_pass_counts_samples_and_reports_progress(small_net, images):
    graph = capture(small_net, (images[:2],))
    ticks: list[int] = []
    found = observe(graph, batches(images, 20, 20, 8), ["x", "relu"], ticks.append)
    assert found.samples == 48 and ticks == [20, 40, 48]  # a generator cannot be walked twice
    assert set(found.stats) == {"x", "relu"}


def test_statistics_equal_direct_computation(small_net, images):
    graph = capture(small_net, (images[:2],))
    found = observe(graph, batches(images, 20, 20, 8), ["x", "relu", "linear"]).stats
    with torch.no_grad():
        want = {
            "x": images,
            "relu": torch.relu(small_net.stem_bn(small_net.stem(images))),
            "linear": small_net(images),
        }
    for name, values in want.items():
        stats, wide = found[name], values.double()
        assert stats.moments.count == stats.histogram.total == values.numel()
        assert stats.minmax.lo == pytest.approx(float(wide.min()), abs=1e-5)
        assert stats.minmax.hi == pytest.approx(float(wide.max()), abs=1e-5)
        assert stats.moments.mean == pytest.approx(float(wide.mean()), abs=1e-6)
        assert stats.moments.var == pytest.approx(float(wide.var(unbiased=False)), rel=1e-5)
        assert stats.moments.abs_sum == pytest.approx(float(wide.abs().sum()), rel=1e-5)
    assert found["x"].minmax.lo == float(images.min())
    assert found["relu"].minmax.lo == 0.0 and found["relu"].histogram.zeros > 0


def test_the_batches_do_not_matter(small_net, images):
    graph = capture(small_net, (images[:2],))
    whole, parts = (
        observe(graph, batches(images, *sizes), ["x"]).stats["x"] for sizes in ((48,), (1, 30, 17))
    )
    assert whole.minmax == parts.minmax
    assert torch.equal(whole.histogram.counts, parts.histogram.counts)
    assert whole.moments.mean == pytest.approx(parts.moments.mean, abs=1e-12)


def test_nothing_is_stored(small_net, images, monkeypatch):
    """Of everything that is observed in a batch, nothing is alive when the next one has come."""
    graph = capture(small_net, (images[:2],))
    watch = [n.name for n in graph.module.graph.nodes if n.op in ("placeholder", "call_function")]
    alive: list[weakref.ref] = []
    read = TensorStats.of

    def spy(value, **options):
        alive.append(weakref.ref(value))
        return read(value, **options)

    monkeypatch.setattr(module.TensorStats, "of", spy)
    left: list[int] = []

    def source():
        for part in torch.split(images, 12):
            yield (part.clone(),)
            left.append(sum(ref() is not None for ref in alive))

    observe(graph, source(), watch)
    assert len(alive) == 4 * len(watch)
    # What one batch leaves behind while the next is made: its own inputs at most.
    assert max(left) <= 2


def test_no_data(small_net, images):
    graph = capture(small_net, (images[:2],))
    with pytest.raises(DataError, match=r"calibration data are empty.*--data"):
        observe(graph, iter(()), ["x"])


class Logarithms(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.log(x))


def test_values_that_are_not_finite_are_placed():
    graph = capture(seeded(Logarithms).eval(), (normal(3, 4).abs() + 1,))
    with pytest.raises(DataError, match=r"NaN or infinite appear inside the network, at 'log'"):
        observe(graph, [(normal(3, 4).abs() + 1,), (normal(3, 4),)], ["log"])


# ---- the preprocessing check -----------------------------------------------------------------

MEAN, STD = torch.tensor([0.48, 0.45, 0.40]), torch.tensor([0.22, 0.22, 0.23])


def colours(count: int, seed: int) -> torch.Tensor:
    """Images in 0..1 whose channels differ, as those of photographs of warm places do."""
    base = torch.nn.functional.interpolate(normal(count, 1, 4, 4, seed=seed), size=16)
    own = 0.3 * normal(count, 3, 16, 16, seed=seed + 1)
    tint = torch.tensor([0.9, 0.0, -0.9]).view(1, 3, 1, 1)
    return torch.sigmoid(base + own + tint)


def normalised(images, mean=MEAN, std=STD):
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def trained():
    """A network whose batch-norm statistics come from data, as training leaves them."""
    net = seeded(lambda: Chain(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()))
    net = trained_looking(net)
    with torch.no_grad():
        y = net.m0(normalised(colours(256, 0)))
        net.m1.running_mean.copy_(y.mean((0, 2, 3)))
        net.m1.running_var.copy_(y.var((0, 2, 3)))
    return capture(net, (torch.zeros(2, 3, 16, 16),))


def notes(graph, images) -> list[str]:
    found = observe(graph, [(images,)], [])
    return [note.text for note in found.notes if note.place == "m1"]


def test_the_right_preprocessing_raises_no_note(trained):
    assert notes(trained, normalised(colours(128, 10))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x,
        lambda x: 255 * x,
        lambda x: normalised(255 * x),
        lambda x: normalised(x, torch.zeros(3), torch.ones(3) / 255),
        lambda x: normalised(x, mean=MEAN + 0.5),
        lambda x: normalised(x.flip(1)),
    ],
    ids=["none", "0..255", "not divided", "only scaled", "wrong mean", "BGR"],
)
def test_wrong_preprocessing_is_noted(trained, wrong):
    (text,) = notes(trained, wrong(colours(128, 10)))
    assert "do not look like the training data" in text and "channel order" in text


def test_without_a_folded_norm_there_is_nothing_to_compare():
    graph = capture(seeded(lambda: Chain(nn.Conv2d(3, 4, 3))).eval(), (normal(2, 3, 8, 8),))
    assert observe(graph, [(1e4 * normal(2, 3, 8, 8),)], []).notes == ()
