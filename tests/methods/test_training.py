"""What the gradient methods share: minibatches, losses, and rows of steps as a solution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from unit_problems import CASES, output_error, with_rows

from bitwright.engine.digest import digest
from bitwright.graph.activation import Activation
from bitwright.methods.nearest import Nearest
from bitwright.methods.problem import RowSamples
from bitwright.methods.training import (
    MOST_MOVES,
    Minibatches,
    Start,
    as_solution,
    batch_rows,
    behind,
    loss_of,
    moments_suffice,
    moves,
    never_worse,
    output_slope,
    slope_from_moments,
    slope_from_rows,
)
from bitwright.numerics.affine import QParams, fake_quantize
from bitwright.numerics.grid import Grid

ONE_SCALE_A_ROW = [name for name in CASES if name != "transposed grouped"]


@pytest.mark.parametrize(
    ("rows", "size"), [(100, 10), (100, 30), (97, 32), (7, 3), (9, 1), (5, 64)]
)
def test_every_epoch_visits_every_minibatch_once(rows, size):
    """Each row comes with its own target; only what would make a smaller minibatch is left out."""
    x = torch.arange(2.0 * rows).reshape(2, rows, 1)
    drawn = Minibatches.of(x, -x, size, seed=3)
    count = max(1, rows // size)
    epoch = [drawn.at(step)[0] for step in range(count)]
    seen = torch.cat(epoch, 1)[0].flatten().tolist()
    assert len(set(seen)) == len(seen) == count * min(size, rows)
    assert all(torch.equal(drawn.at(count + i)[0], one) for i, one in enumerate(epoch))
    assert all(torch.equal(a, -b) for a, b in (drawn.at(i) for i in range(count)))
    assert seen != sorted(seen) or len(seen) < 4


def test_the_order_depends_on_the_seed_alone():
    x = torch.randn(1, 50, 2)

    def drawn(seed):
        return Minibatches.of(x, x, 20, seed).x

    torch.manual_seed(1)
    first = drawn(4)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(4)) and not torch.equal(first, drawn(5))


def test_a_minibatch_is_a_view():
    x = torch.randn(1, 50, 2)
    drawn = Minibatches.of(x, x, 20, 1)
    assert drawn.at(1)[0].untyped_storage().data_ptr() == drawn.x.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((1, 4096, 576), 1024), ((32, 4096, 9), 910), ((576, 4096, 9), 64), ((2, 50, 3), 1024)],
)
def test_a_minibatch_of_many_groups_has_fewer_rows(shape, rows):
    assert batch_rows(RowSamples(torch.empty(shape), torch.empty(0)), 1024) == rows


def test_the_loss_is_taken_behind_the_activation():
    given = with_rows("conv with relu6", 4)
    value = torch.tensor([-3.0, 2.0, 9.0])
    assert behind(given, value).tolist() == [0, 2, 6]
    assert behind(replace(given, activation=None), value).tolist() == value.tolist()


@pytest.mark.parametrize("case", ONE_SCALE_A_ROW)
def test_the_loss_against_float64(case):
    given = with_rows(case, 4)
    found = Nearest().solve(given)
    rows = given.samples_apart or given.samples
    energy = float(behind(given, rows.y.double()).square().sum())
    want = output_error(given, rows, found, given.activation) / max(energy, 1e-30)
    assert loss_of(given, rows, found) == pytest.approx(want, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("case", ONE_SCALE_A_ROW)
def test_a_solution_as_rows_and_back(case, per_channel):
    given = with_rows(case, 4, per_channel=per_channel)
    found = Nearest().solve(given)
    start = Start.of(given, given.unit, found)
    back = as_solution(given, start, start.k, start.scale, start.bias, None, "nearest")
    assert torch.equal(back.q, found.q) and back.q.dtype == found.q.dtype
    assert digest(back.weight) == digest(found.weight)
    assert back.error == pytest.approx(found.error, rel=1e-5, abs=1e-12)
    assert back.inputs == given.inputs
    assert back.moves == (given.weight.numel(),)
    if given.kind == "matmul":
        assert back.bias is None
    else:
        want = torch.zeros_like(back.bias) if given.bias is None else given.bias
        assert torch.equal(back.bias, want)
    assert bool((start.k >= start.low).all()) and bool((start.k <= start.high).all())


def test_moves_are_counted_from_nearest_rounding_on_the_solutions_own_grid():
    qp = QParams(Grid(4), torch.tensor(0.5), torch.tensor(3, dtype=torch.int32))
    weight = torch.tensor([0.2, 0.3, 1.0, -1.0, 100.0])
    assert moves(weight, torch.tensor([3, 4, 5, 1, 15]), qp) == (5,)
    assert moves(weight, torch.tensor([4, 4, 3, 1, 15]), qp) == (3, 1, 1)
    # All that lie further share the last place.
    far = moves(weight, torch.tensor([15, 4, 5, 1, 0]), qp)
    assert far == (3, *[0] * (MOST_MOVES - 1), 2) and sum(far) == 5


def test_what_is_worse_on_the_rows_apart_is_not_taken():
    given = with_rows("linear", 4)
    plain = Nearest().solve(given)
    worse = replace(plain, q=torch.zeros_like(plain.q), method="other")
    found = never_worse(given, plain, worse)
    assert torch.equal(found.q, plain.q) and found.loss_after == found.loss_before
    assert found.fallback.startswith("held-out error ") and "that of nearest" in found.fallback
    undefined = replace(plain, bias=torch.full_like(plain.bias, float("nan")), method="other")
    assert never_worse(given, plain, undefined).fallback is not None
    kept = never_worse(given, plain, replace(plain, method="other"))
    assert kept.method == "other" and kept.fallback is None


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("relu", (), ()),
        ("hardtanh", (-1.0, 2.0), ()),
        ("clamp", (0.0,), ()),
        ("gelu", (), (("approximate", "tanh"),)),
        ("leaky_relu", (0.2,), ()),
    ],
)
def test_activations_are_values_with_gradients(name, args, kwargs):
    """They are compared, hashed and carried to workers like any other part of a problem."""
    activation = Activation(name, args, kwargs)
    assert activation == Activation(name, args, kwargs) and hash(activation)
    x = torch.linspace(-3, 3, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(activation, x + 0.05)


@pytest.mark.parametrize(
    "activation",
    [
        None,
        Activation("relu"),
        Activation("relu6"),
        Activation("hardtanh", (-0.5, 2.0)),
        Activation("clamp", (None, 0.4)),
        Activation("clamp", (), (("min", 0.1),)),
        Activation("gelu"),
        Activation("leaky_relu", (0.2,)),
    ],
)
def test_the_slope_behind_an_activation_is_autograds(activation):
    """Written out where the activation only clamps; of the others autograd differentiates it."""
    given = replace(with_rows("depthwise", 4), activation=activation)
    out = torch.randn(6, 33, 1, requires_grad=True)
    target = behind(given, torch.randn(6, 33, 1))
    loss = (behind(given, out) - target).square().sum() / 2
    (want,) = torch.autograd.grad(loss, out)
    with torch.no_grad():
        got = output_slope(given, out.detach().clone(), target)
    torch.testing.assert_close(got, want)
    assert int((want != 0).sum()) > 0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", ["conv", "depthwise", "product"])
def test_moments_and_rows_have_the_slope_of_one_loss(case, tied):
    """Against autograd in float64: all rows at once, relative to the output's energy."""
    given = replace(with_rows(case, 4), tied=tied, activation=None)
    rows, unit = given.samples, given.unit
    assert given.gram.count == rows.x.shape[1]
    start = Start.of(given, unit, Nearest().solve(given))
    true = start.weight.double()
    weight = (start.k * start.scale).double().requires_grad_()
    x, y = fake_quantize(rows.x, given.inputs[0]).double(), rows.y.double()
    energy = y.square().sum()
    loss = (x @ weight.transpose(1, 2) + start.bias.double() - y).square().sum() / energy
    loss = loss + tied * (weight - true).square().sum() / true.square().sum()
    (want,) = torch.autograd.grad(loss, weight)
    whole = Minibatches.of(rows.x, rows.y, rows.x.shape[1], 0).quantise(given.inputs[0])
    mean = float(energy) / y.numel()
    found = (slope_from_moments(given, start), slope_from_rows(given, start, whole, mean))
    for slopes in found:
        got = slopes(weight.detach().float(), 0).double()
        assert float((got - want).abs().max()) < 2e-4 * float(want.abs().max())


@pytest.mark.parametrize(
    ("activation", "inputs", "enough"),
    [(None, 9, True), (Activation("relu"), 9, False), (None, 513, False)],
)
def test_moments_serve_where_nothing_lies_between_and_they_are_small(activation, inputs, enough):
    given = replace(with_rows("conv", 4), activation=activation)
    assert moments_suffice(given, inputs, 256) == enough
    assert not moments_suffice(replace(given, gram=None), inputs, 256)
