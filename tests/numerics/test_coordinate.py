"""Coordinate descent against brute force, and the quadratic objective against float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from bitwright.numerics.coordinate import Effort, Steps, Successive, best_of, descend
from bitwright.numerics.gram import Gram, centre_gram, regularise_problem, without_bias
from descent import best_scale, sweep


def rows(groups=1, count=200, inputs=5, outputs=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=g)
    x = torch.randn(groups, count, inputs, generator=g) @ mix + 0.3
    w = torch.randn(groups, outputs, inputs, generator=g)
    return x, w, x @ w.transpose(1, 2) + torch.randn(groups, 1, outputs, generator=g)


def steps_of(w, scale=0.5, bits=3):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    s = torch.full((*w.shape[:2], 1), scale)
    k = (w / s).round().clamp(low, high)
    return Steps(k, s, torch.full_like(s, low), torch.full_like(s, high))


def test_objective_is_the_true_output_error_with_the_best_bias():
    x, w, y = rows()
    q = (w * 3).round() / 3
    exact = centre_gram(Gram.of(x, y))
    residual = y.double() - x.double() @ q.double().transpose(1, 2)
    expected = (residual - residual.mean(1, keepdim=True)).square().sum(1)
    assert torch.allclose(exact.loss(q), expected, rtol=1e-4)
    assert torch.allclose(exact.bias(q).double(), residual.mean(1), atol=1e-4)


def test_objective_with_a_given_bias():
    x, w, y = rows(seed=3)
    bias = torch.randn(1, 3, generator=torch.Generator().manual_seed(3))
    # The last bias is nearly the true one: what is left of its loss is the rounding of the sums.
    bias[0, 2] = (y - x @ w.transpose(1, 2))[0, 0, 2] + 0.02
    residual = y.double() - x.double() @ w.double().transpose(1, 2) - bias.double().unsqueeze(1)
    gram = Gram.of(x, y)
    error = (without_bias(gram, bias).loss(w) - residual.square().sum(1)).abs()
    assert bool((error < 1e-5 * gram.yy).all())


def test_grams_of_parts_add_up_to_the_whole():
    x, _, y = rows(groups=2)
    whole = Gram.of(x, y)
    parts = Gram.of(x[:, :77], y[:, :77]).add_(Gram.of(x[:, 77:], y[:, 77:]))
    assert parts.count == whole.count
    assert torch.allclose(parts.xx, whole.xx, rtol=1e-4)
    assert torch.allclose(parts.yx, whole.yx, rtol=1e-4, atol=1e-3)


def test_descent_against_brute_force():
    """No single change improves the result, and it is the optimum or near it, on 24 tiny problems.

    Descent is a heuristic: a local optimum may cost up to twice the optimum's error here.
    """
    grid = torch.tensor(list(itertools.product(range(-4, 4), repeat=4)), dtype=torch.float32) * 0.6
    ratios = []
    for seed in range(12):
        x, w, y = rows(inputs=4, outputs=2, seed=seed)
        problem = centre_gram(Gram.of(x, y))
        start = steps_of(w, scale=0.6, bits=3)
        starts = (start, Successive.of(problem).rounded(start))
        steps = best_of(problem, starts, False, Effort(40, 0.0))
        found = problem.loss(steps.weight)
        assert bool((found <= problem.loss(start.weight) + 1e-3).all())
        for j, move in itertools.product(range(4), (-1, 1)):
            k = steps.k.clone()
            k[..., j] = (k[..., j] + move).clamp(-4, 3)
            assert bool((problem.loss(k * steps.scale) >= 0.999 * found - 1e-3).all())
        for channel in range(2):
            one = centre_gram(Gram.of(x, y[:, :, channel : channel + 1].expand(-1, -1, len(grid))))
            ratios.append(float(found[0, channel] / one.loss(grid.unsqueeze(0)).min()))
    assert min(ratios) > 0.99
    assert sorted(ratios)[len(ratios) // 2] < 1.001
    assert max(ratios) < 2.5


def test_blocks_change_nothing(monkeypatch):
    x, w, y = rows(groups=2, inputs=37, count=400, outputs=4)
    problem = centre_gram(Gram.of(x, y))
    one, _ = sweep(problem, steps_of(w))
    monkeypatch.setattr("bitwright.numerics.coordinate.BLOCK", 5)
    other, _ = sweep(problem, steps_of(w))
    assert (one.k != other.k).float().mean() < 0.02


def test_scale_in_closed_form_is_the_best():
    x, w, y = rows(seed=5)
    problem = centre_gram(Gram.of(x, y))
    steps = steps_of(w, scale=0.45)
    fitted = best_scale(problem, steps)
    loss = problem.loss(steps.k * fitted)
    for factor in (0.97, 0.99, 1.01, 1.03):
        assert bool((problem.loss(steps.k * fitted * factor) >= loss - 1e-4).all())


def test_dead_inputs_keep_the_float_weights_under_regularisation():
    x, w, y = rows(inputs=6)
    x[..., 2] = 0
    problem = regularise_problem(centre_gram(Gram.of(x, y)), w, 0.003)
    steps = steps_of(w, scale=0.25, bits=8)
    solved, _ = sweep(problem, steps)
    assert torch.equal(solved.k[..., 2], (w[..., 2] / 0.25).round().clamp(-128, 127))


@pytest.mark.parametrize(("groups", "outputs"), [(1, 6), (5, 1)])
@pytest.mark.parametrize("scales", [False, True])
def test_rows_at_rest_are_left_out_and_nothing_else_changes(groups, outputs, scales):
    """Each row (of a group of its own) ends where it ends alone, at the loss that is stated."""
    x, w, y = rows(groups=groups, inputs=12, outputs=outputs, seed=4)
    problem = centre_gram(Gram.of(x, y))
    start = steps_of(w, scale=0.7)
    found, loss = descend(problem, start, scales, Effort(40, 0.0))
    assert torch.allclose(loss, problem.loss(found.weight), rtol=1e-3)
    assert bool((loss <= problem.loss(start.weight) * (1 + 1e-9)).all())
    for g, c in itertools.product(range(groups), range(outputs)):
        one = centre_gram(Gram.of(x[g : g + 1], y[g : g + 1, :, c : c + 1]))
        own = Steps(
            *(v[g : g + 1, c : c + 1] for v in (start.k, start.scale, start.low, start.high))
        )
        alone, _ = descend(one, own, scales, Effort(40, 0.0))
        assert torch.equal(alone.k[0, 0], found.k[g, c])
        assert torch.allclose(alone.scale[0, 0], found.scale[g, c], rtol=1e-5)


def test_of_two_starts_the_lower_end_is_taken_row_by_row():
    x, w, y = rows(inputs=12, outputs=6, seed=6)
    problem = centre_gram(Gram.of(x, y))
    start = steps_of(w, scale=0.7)
    other = Successive.of(problem).rounded(start)
    ends = [descend(problem, s, True, Effort()) for s in (start, other)]
    losses = torch.stack([loss for _, loss in ends])
    found = best_of(problem, (start, other), True, Effort())
    assert torch.allclose(problem.loss(found.weight), losses.amin(0), rtol=1e-3)
    assert 0 < int(losses.argmin(0).sum()) < 6
