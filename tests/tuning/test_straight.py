"""The network with a gradient computes what is deployed, and its gradient is that of a formula."""

from __future__ import annotations

import pytest
import torch
from quantised import KINDS, built, quantised
from torch import nn

from bitwright.graph.custom_ops import DEQUANTIZE, FAKE_QUANTIZE
from bitwright.graph.execute import first_tensor, walk
from bitwright.numerics.affine import QParams, dequantize, fake_quantize, fake_quantize_ste
from bitwright.numerics.grid import Grid
from bitwright.tuning.network import simulate
from bitwright.tuning.straight import differentiable, run_with, straight_through
from networks import Chain, normal, seeded, small_network
from networks import pictures as images_of


def formula(x, qp: QParams):
    """In float64: the value of the quantiser, the gradient of a clamp."""
    scale, zero = qp.scale.double(), int(qp.zero_point)
    low, high = ((bound - zero) * scale for bound in (qp.grid.qmin - 0.5, qp.grid.qmax + 0.5))
    passed = torch.maximum(torch.minimum(x, high), low)
    return passed + (fake_quantize(x, qp).double() - passed).detach()


def params(scale=0.125, zero=3, bits=4) -> QParams:
    return QParams(Grid(bits), torch.tensor(scale), torch.tensor(zero, dtype=torch.int32))


@pytest.mark.parametrize("zero", [0, 3, 15])
def test_gradient_is_the_clamp_s(zero):
    qp = params(zero=zero)
    x = (normal(40, 9) * 1.2).requires_grad_()
    weights = normal(40, 9, seed=2)
    y = straight_through(x, qp)
    assert torch.equal(y, fake_quantize(x, qp))
    (mine,) = torch.autograd.grad((y * weights).sum(), x)
    wide = x.detach().double().requires_grad_()
    (theirs,) = torch.autograd.grad((formula(wide, qp) * weights).sum(), wide)
    assert torch.equal(mine.double(), theirs)
    # Some values are clamped and some are not, or the test says nothing.
    assert 0 < int((mine == 0).sum()) < x.numel()
    other = fake_quantize_ste(x, qp.scale, qp.zero_point.float(), qp.grid)
    assert torch.equal(mine, torch.autograd.grad((other * weights).sum(), x)[0])


@pytest.mark.parametrize("zero", [0, 3, 15])
def test_the_scale_s_gradient_is_that_of_the_slow_quantiser(zero):
    grid = Grid(4)
    scale = torch.tensor(0.11, requires_grad=True)
    point = torch.tensor(zero, dtype=torch.int32)
    x = (normal(3, 5, 6, 4) * 1.2).to(memory_format=torch.channels_last).requires_grad_()
    weights = normal(3, 5, 6, 4, seed=2)
    mine = straight_through(x, QParams(grid, scale, point))
    theirs = fake_quantize_ste(x, scale, point.float(), grid)
    assert torch.equal(mine, theirs)
    ours, other = (torch.autograd.grad((y * weights).sum(), (x, scale)) for y in (mine, theirs))
    assert torch.equal(ours[0], other[0])
    assert float(ours[1]) == pytest.approx(float(other[1]), rel=1e-4)
    assert float(other[1]) != 0.0


def test_gradients_of_biases_are_those_of_the_formula():
    """Two layers by hand in float64, against the stitched network."""
    net = seeded(lambda: Chain(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))).eval()
    made = quantised(net, normal(64, 6), "w3a3")
    simulation = simulate(made.start)
    module = differentiable(simulation.module)
    paths = [place.bias for place in simulation.places.values()]
    biases = {path: module.get_buffer(path).clone().requires_grad_() for path in paths}
    x = normal(16, 6, seed=8)
    weights = normal(16, 4, seed=9)
    loss = (first_tensor(run_with(module, (x,), biases)) * weights).sum()
    mine = torch.autograd.grad(loss, list(biases.values()))

    assignment = made.deploy(made.solved)
    (one, two), grids = assignment.weights.values(), list(assignment.edges.values())
    b1, b2 = (bias.detach().double().requires_grad_() for bias in biases.values())
    w1, w2 = (dequantize(w.q, w.qparams).double() for w in (one, two))
    hidden = torch.relu(formula(x.double(), grids[0]) @ w1.T + b1)
    out = formula(hidden, grids[1]) @ w2.T + b2
    theirs = torch.autograd.grad((out * weights).sum(), (b1, b2))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_computes_what_is_deployed_bit_for_bit(kind):
    made = built(kind, "w4a4")
    module = simulate(made.start).module
    trained = differentiable(module)
    targets = {node.target for node in trained.graph.nodes}
    assert not targets & {FAKE_QUANTIZE, DEQUANTIZE}
    x = made.data[:8]
    with torch.no_grad():
        assert torch.equal(
            first_tensor(run_with(trained, (x,), {})), first_tensor(walk(module, (x,)))
        )
    # The network that was given is as it was.
    assert {node.target for node in module.graph.nodes} >= {FAKE_QUANTIZE, DEQUANTIZE}


def test_every_bias_gets_a_gradient():
    made = quantised(small_network(), images_of(32, seed=1), "w4a4")
    simulation = simulate(made.start)
    module = differentiable(simulation.module)
    biases = {
        place.bias: module.get_buffer(place.bias).clone().requires_grad_()
        for place in simulation.places.values()
    }
    out = first_tensor(run_with(module, (images_of(8, seed=2),), biases))
    grads = torch.autograd.grad(out.square().sum(), list(biases.values()))
    assert all(bool(g.any()) for g in grads)
