"""What the gradient methods share: minibatches, losses, and rows of steps as a solution."""

from __future__ import annotations

from collections import Counter
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
    Start,
    as_solution,
    batch_rows,
    behind,
    loss_of,
    minibatches,
    moves,
    never_worse,
    pick_rows,
    squared_error,
)
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid

ONE_SCALE_A_ROW = [name for name in CASES if name != "transposed grouped"]


@pytest.mark.parametrize(("rows", "size"), [(100, 10), (100, 30), (97, 32), (7, 3), (5, 4), (9, 1)])
def test_every_epoch_visits_every_row_once(rows, size):
    """Whatever the size: the rows left over at the end of an epoch open the next batch."""
    count = 6 * rows
    drawn = torch.cat(list(minibatches(rows, size, count, seed=3)))
    assert len(drawn) == size * count
    for epoch in drawn.split(rows)[:-1]:
        assert Counter(epoch.tolist()) == Counter(range(rows))
    first, second = drawn[:rows], drawn[rows : 2 * rows]
    assert not torch.equal(first, second) or rows < 3


def test_fewer_rows_than_a_batch_holds():
    drawn = list(minibatches(5, 64, 4, seed=0))
    assert [sorted(batch.tolist()) for batch in drawn] == [list(range(5))] * 4


def test_batches_depend_on_the_seed_alone():
    def drawn(seed):
        return torch.cat(list(minibatches(50, 20, 9, seed)))

    torch.manual_seed(1)
    first = drawn(4)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(4)) and not torch.equal(first, drawn(5))


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


def test_rows_are_picked_from_every_group():
    values = torch.randn(3, 20, 4)
    picked = torch.tensor([7, 0, 19, 7])
    assert torch.equal(pick_rows(values, picked), values[:, picked])


@pytest.mark.parametrize("input_learned", [False, True])
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
def test_the_error_behind_an_activation_and_its_gradient_are_autograds(activation, input_learned):
    """Bit for bit: what is learned does not depend on how few passes over memory it takes."""
    given = replace(with_rows("depthwise", 4), activation=activation)
    x = torch.randn(6, 33, 9)
    x.requires_grad_(input_learned)
    weight, bias = (torch.randn(*s, requires_grad=True) for s in ((6, 1, 9), (6, 1, 1)))
    target = behind(given, torch.randn(6, 33, 1))
    learned = [weight, bias, *([x] if input_learned else [])]
    plain = (behind(given, x @ weight.transpose(1, 2) + bias) - target).square().mean()
    loss = squared_error(given, x, weight, bias, target)
    torch.testing.assert_close(loss, plain)
    want = torch.autograd.grad(plain / 3.7, learned)
    got = torch.autograd.grad(loss / 3.7, learned)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)
