"""Equalisation by data: steps against brute force, slopes against differences, networks mended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.capture import capture
from bitwright.graph.choice import Choice
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import get_tensor
from bitwright.graph.target import load_target
from bitwright.numerics.affine import fake_quantize
from bitwright.numerics.exact import exact_range
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import range_rule
from bitwright.pipeline.runs import load
from bitwright.prepare.channel_sets import FIXED
from bitwright.prepare.fold_streams import fold_factors
from bitwright.prepare.streams import find_streams
from bitwright.solving.samples import Samples
from bitwright.tuning.equalization import Equalization, equalize_by_data
from bitwright.tuning.even import _EvenThrough
from bitwright.tuning.widths import SHRINK, Aim, best_step
from networks import normal, seeded, trained_looking

W4A4 = Choice(4, 4)


class Uneven(nn.Module):
    """A residual stream; its channels are made uneven by `spoil`, which changes no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 12, 3, 1, 1), nn.Conv2d(12, 12, 3, 1, 1)
        self.two, self.head = nn.Conv2d(12, 16, 3, 2, 1), nn.Linear(16, 6)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.one(x))
        return 4.0 * self.head(torch.relu(self.two(x)).mean((2, 3)))


def images(count=64, seed=1):
    return normal(count, 3, 8, 8, seed=seed)


def spoil(net):
    """Factors from 1/6 to 6 into every stream: per-channel noise of any grid for a whole tensor."""
    graph = capture(net, (images(4),))
    streams = find_streams(graph)
    drawn = torch.randn(streams.count, generator=torch.Generator().manual_seed(3)).double()
    drawn[FIXED] = 0.0
    module = fold_factors(graph, streams, drawn.clamp(-1.8, 1.8).exp()).module
    with torch.no_grad():
        for unit in graph.units:
            owner = net.get_submodule(unit.name)
            owner.weight.copy_(get_tensor(module, unit.weight))
            owner.bias.copy_(get_tensor(module, str(unit.bias)))
    return net


@pytest.fixture(scope="module")
def spoilt():
    return spoil(trained_looking(seeded(Uneven)).eval())


def aim_of(graph, choice=W4A4, solved=True, target="paper"):
    choices = {unit.name: choice for unit in graph.units}
    return Aim(choices, load_target(target), range_rule("mse"), solved)


def samples_of(graph, fit=96, held_out=32):
    def opened(data):
        return lambda: iter([bind(graph, part) for part in data.split(32)])

    return Samples(opened(images(fit)), opened(images(held_out, 2)), fit, held_out)


@pytest.mark.parametrize("signed", [False, True])
def test_the_best_step_of_each_line_is_that_of_brute_force(signed):
    rows = normal(5, 200) * torch.tensor([0.1, 1.0, 3.0, 0.5, 20.0]).reshape(-1, 1)
    grid = Grid(4, signed)
    scale, zero = best_step(rows, grid, signed, False)
    for line, own, at in zip(rows, scale, zero, strict=True):
        tried = [exact_range(line.min() * f, line.max() * f, grid, signed) for f in SHRINK]
        errors = [float((fake_quantize(line, q) - line).double().square().sum()) for q in tried]
        best = tried[errors.index(min(errors))]
        assert float(own) == float(best.scale) and int(at) == int(best.zero_point)


def test_slopes_are_those_of_the_formula():
    """Inside x^ = x (1 + rounding), outside a bound over a: the slopes in float64."""
    x = normal(6, 3, 4, 4).double().requires_grad_()
    a = torch.tensor([2.0, 3.0, 5.0]).double().reshape(1, 3, 1, 1).requires_grad_()
    up = normal(6, 3, 4, 4, seed=2).double()
    made = _EvenThrough.apply(x, a, -2, 5)
    made.backward(up)
    u = (x * a).detach()
    inside = (u > -2.5) & (u < 5.5)
    q = u.round().clamp(-2, 5)
    assert torch.equal(made.detach(), q / a.detach())
    assert torch.equal(x.grad, up * inside)
    slope = (torch.where(inside, u, 0.0) - q) / a.detach().square() * up
    assert torch.allclose(a.grad, slope.sum((0, 2, 3), keepdim=True))


@pytest.mark.parametrize("learn", [False, True])
def test_uneven_channels_are_evened_out(spoilt, learn):
    graph = capture(spoilt, (images(4),))
    made, said = equalize_by_data(
        graph, samples_of(graph), aim_of(graph), Equalization(learn=learn, iterations=60)
    )
    assert made is not graph and "streams of channels rescaled" in said
    before, after = (float(part) for part in said.rsplit(" ", 3)[1::2])
    assert after < 0.6 * before
    assert bool(made.grids) is learn
    x = images(8, 5)
    with torch.no_grad():
        assert torch.allclose(made.module(x), graph.module(x), rtol=1e-4, atol=1e-4)


def test_what_gains_nothing_is_left_as_it_was():
    graph = capture(trained_looking(seeded(Uneven)).eval(), (images(4),))
    # At sixteen bits there is nothing to gain; a GELU lets no factor through.
    made, said = equalize_by_data(
        graph, samples_of(graph), aim_of(graph, Choice(8, 16)), Equalization(learn=False)
    )
    assert made is graph and "left as it was" in said
    closed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    graph = capture(closed.eval(), (images(4),))
    made, said = equalize_by_data(graph, samples_of(graph), aim_of(graph), Equalization())
    assert made is graph and "no channels" in said


def test_learning_is_the_same_twice(spoilt):
    graph = capture(spoilt, (images(4),))
    options = Equalization(iterations=10)
    one, two = (
        equalize_by_data(graph, samples_of(graph), aim_of(graph), options)[0] for _ in range(2)
    )
    assert one.digest() == two.digest()
    assert [float(q.scale) for q in one.grids.values()] == [
        float(q.scale) for q in two.grids.values()
    ]


def test_numbers_that_make_no_sense():
    with pytest.raises(RecipeError, match="iterations=0"):
        Equalization(iterations=0)
    assert {replace(Equalization(), learn=v).name for v in (True, False)} == {
        "equalize-learned", "balance",
    }  # fmt: skip


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
def test_end_to_end(spoilt, target, tmp_path):
    """Nearer answers, a file that verifies, and a run that is read back as it was made."""
    noise = {}
    for step in ("", "balance", "equalize-learned"):
        result = bw.quantize(
            spoilt, list(images(128).split(32)), recipe="fixed", scheme="w4a4", target=target,
            prepare=step, method="quadratic",
        )  # fmt: skip
        noise[step] = result.metrics["relative_noise"]
    assert max(noise["balance"], noise["equalize-learned"]) < 0.7 * noise[""]
    assert result.verify()["passed"]
    result.save(tmp_path / "run")
    x = images(8, 7)
    assert torch.equal(load(tmp_path / "run", spoilt)(x), result.model(x))
