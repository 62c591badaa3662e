from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import DataError
from bitwright.numerics.affine import (
    QParams,
    dequantize,
    fake_quantize,
    fake_quantize_ste,
    from_range,
    quantize,
    round_half_even,
)
from bitwright.numerics.grid import WIDTHS, Grid

TINY = torch.finfo(torch.float32).tiny
grids = st.builds(Grid, st.sampled_from(WIDTHS), st.booleans())
ends = st.floats(width=32, allow_nan=False, allow_infinity=False)
quick = settings(max_examples=60, deadline=None)


def params(grid, scale, zero):
    return QParams(
        grid,
        torch.as_tensor(scale, dtype=torch.float32),
        torch.as_tensor(zero, dtype=torch.int32),
    )


@st.composite
def problems(draw):
    """A tensor, with ties, infinities and empty axes, and parameters that broadcast to it."""
    grid = draw(grids)
    shape = draw(
        st.sampled_from([(), (5,), (0,), (3, 4), (2, 3, 2, 2), (2, 3, 0, 2), (1, 3, 5, 5)])
    )
    per_channel = len(shape) == 4 and draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = (1, 3, 1, 1) if per_channel else ()
    scale = torch.rand(size, generator=generator) * draw(st.sampled_from([1e-30, 1e-3, 1.0, 1e20]))
    scale = scale + 1e-35
    zero = torch.randint(grid.qmin, grid.qmax + 1, size, generator=generator, dtype=torch.int32)
    x = torch.randn(shape, generator=generator) * (0.5 * grid.levels)
    if draw(st.booleans()):
        x = torch.floor(x) + 0.5
    x = x * scale
    if x.numel() and draw(st.booleans()):
        x.view(-1)[0], x.view(-1)[-1] = math.inf, -math.inf
    return x, QParams(grid, scale, zero)


@given(problems())
@quick
def test_one_step_equals_two_steps(problem):
    x, qp = problem
    q = quantize(x, qp)
    assert q.dtype == qp.grid.dtype and q.shape == x.shape
    torch.testing.assert_close(fake_quantize(x, qp), dequantize(q, qp), rtol=0, atol=0)


@given(problems())
@quick
def test_what_is_on_the_grid_is_unchanged(problem):
    x, qp = problem
    once = fake_quantize(x, qp)
    assert torch.equal(fake_quantize(once, qp), once)
    assert torch.equal(quantize(once, qp), quantize(x, qp))


def test_ties_go_to_even_before_the_zero_point_is_added():
    qp = params(Grid(8), 1.0, 1)
    x = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5])
    assert quantize(x, qp).tolist() == [
        1,
        1,
        3,
        3,
        5,
    ]  # round(x / s + z) would give 0, 2, 2, 4, 4
    assert round_half_even(x).tolist() == [0, 0, 2, 2, 4]


def test_the_quotient_is_a_true_division():
    x, scale = torch.arange(1, 4000).float(), torch.tensor(1 / 3)
    expected = torch.round(x.double() / scale.double()).float()
    qp = QParams(Grid(16), scale, torch.tensor(0, dtype=torch.int32))
    assert torch.equal(quantize(x, qp).float(), expected)


@pytest.mark.parametrize("size", [(), (1, 3, 1, 1)])
def test_memory_format_is_kept_and_the_input_is_not_touched(size):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    before = x.clone()
    qp = QParams(Grid(4, True), torch.full(size, 0.1), torch.zeros(size, dtype=torch.int32))
    out = fake_quantize(x, qp)
    assert out.is_contiguous(memory_format=torch.channels_last) and torch.equal(x, before)
    assert not fake_quantize(x.requires_grad_(), qp).requires_grad


def test_half_precision_is_computed_in_float32():
    qp = params(Grid(8, True), 0.1, 0)
    x = torch.randn(100).bfloat16()
    out = fake_quantize(x, qp)
    assert out.dtype == torch.float32 and torch.equal(out, fake_quantize(x.float(), qp))


@pytest.mark.parametrize(
    ("scale", "zero", "message"),
    [
        (torch.ones(2), torch.zeros(3, dtype=torch.int32), r"shape \(2,\) and zero_point has"),
        (torch.ones(2).double(), torch.zeros(2, dtype=torch.int32), "float64 .* convert them"),
        (torch.ones(2), torch.zeros(2), "zero_point is torch.float32"),
    ],
)
def test_ill_formed_parameters_are_refused(scale, zero, message):
    with pytest.raises(DataError, match=message):
        QParams(Grid(8), scale, zero)


# Ranges


@given(grids, ends, ends, st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_range_gives_usable_parameters(grid, a, b, symmetric):
    lo, hi = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    qp = from_range(lo, hi, grid, symmetric)
    assert TINY <= float(qp.scale) < math.inf
    zero = int(qp.zero_point)
    assert grid.qmin <= zero <= grid.qmax
    assert float(fake_quantize(torch.zeros(()), qp)) == 0.0
    if symmetric:
        assert zero == (0 if grid.signed else grid.levels // 2)
    elif lo >= 0:
        assert zero == grid.qmin
    elif hi <= 0:
        assert zero == grid.qmax


@given(grids, ends, ends)
@quick
def test_an_asymmetric_range_is_covered_to_half_a_step(grid, a, b):
    lo, hi = min(a, b, 0.0), max(a, b, 0.0)
    qp = from_range(torch.tensor(lo), torch.tensor(hi), grid)
    scale, zero = float(qp.scale), int(qp.zero_point)
    if scale == 1.0:
        return
    slack = scale * (0.5 + 1e-6 * grid.levels)
    assert abs((grid.qmin - zero) * scale - lo) <= slack
    assert abs((grid.qmax - zero) * scale - hi) <= slack


@given(grids, st.floats(min_value=2**-80, max_value=2**100, width=32))
@settings(max_examples=300, deadline=None)
def test_the_top_of_a_one_sided_range_never_exceeds_it(grid, hi):
    qp = from_range(torch.tensor(0.0), torch.tensor(hi), grid)
    top = float(fake_quantize(torch.tensor(math.inf), qp))
    assert hi * (1 - 2**-21) <= top <= hi


def test_six_is_the_top_for_every_width():
    for bits in WIDTHS:
        qp = from_range(torch.tensor(0.0), torch.tensor(6.0), Grid(bits))
        assert float(fake_quantize(torch.tensor(1e9), qp)) <= 6.0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("lo", "hi"), [(0.0, 0.0), (0.0, 1e-40), (-1e-44, 0.0), (-1e-40, 1e-40)])
def test_vanishing_ranges_get_a_scale_of_one(lo, hi, symmetric):
    qp = from_range(torch.tensor([lo]), torch.tensor([hi]), Grid(8, True), symmetric)
    assert qp.scale.tolist() == [1.0] and qp.scale.shape == qp.zero_point.shape == (1,)


def test_ranges_keep_their_shape_and_may_be_empty():
    lo = -torch.rand(4, 1, 1)
    assert from_range(lo, -lo, Grid(4)).scale.shape == (4, 1, 1)
    assert from_range(torch.zeros(0), torch.zeros(0), Grid(4)).scale.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_ranges_are_refused(bad):
    lo, hi = torch.tensor([0.0, -1.0]), torch.tensor([1.0, bad])
    with pytest.raises(DataError, match=r"range \[-1.0, .*\] at position 1 in from_range: both"):
        from_range(lo, hi, Grid(8))


def test_ranges_in_the_wrong_order_or_shape_are_refused():
    with pytest.raises(DataError, match=r"range \[2.0, 1.0\] at position 0 .* in order"):
        from_range(torch.tensor(2.0), torch.tensor(1.0), Grid(8))
    with pytest.raises(DataError, match=r"shape \(2,\) and hi has shape \(\) in from_range"):
        from_range(torch.zeros(2), torch.zeros(()), Grid(8))


# The straight-through estimator


@given(problems())
@quick
def test_the_differentiable_form_has_the_same_values(problem):
    x, qp = problem
    out = fake_quantize_ste(x, qp.scale, qp.zero_point.float(), qp.grid)
    torch.testing.assert_close(out, fake_quantize(x, qp), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(), (3, 1)])
@pytest.mark.parametrize("grid", [Grid(2, True), Grid(4), Grid(8)])
def test_gradients_equal_those_of_the_formula(size, grid):
    """Autograd of the formula in float64, with round(u) written as u + constant."""
    torch.manual_seed(1)
    x = (3 * torch.randn(3, 50)).double().requires_grad_()
    scale = (0.05 + torch.rand(size)).double().requires_grad_()
    zero = (torch.rand(size) * (grid.levels - 1) + grid.qmin).double().requires_grad_()
    weight = torch.randn(3, 50).double()
    got = torch.autograd.grad(
        (weight * fake_quantize_ste(x, scale, zero, grid)).sum(), (x, scale, zero)
    )
    ratio = x / scale
    rounded = ratio + (torch.round(ratio) - ratio).detach()
    point = zero + (torch.round(zero).clamp(grid.qmin, grid.qmax) - zero).detach()
    expected = ((rounded + point).clamp(grid.qmin, grid.qmax) - point) * scale
    want = torch.autograd.grad((weight * expected).sum(), (x, scale, zero))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


def test_the_scale_gradient_is_a_derivative_where_the_function_is_smooth():
    """Outside the clamp x^ is linear in the scale, so differences of the true function agree."""
    x, zero = torch.tensor([9.0, -9.0]).double(), torch.tensor(1.0).double()
    scale = torch.tensor(0.5).double().requires_grad_()
    grid, step = Grid(3, True), 1e-6

    def value(s):
        return fake_quantize_ste(x, s, zero, grid)[0] + 2 * fake_quantize_ste(x, s, zero, grid)[1]

    (slope,) = torch.autograd.grad(value(scale), scale)
    difference = (value(scale.detach() + step) - value(scale.detach() - step)) / (2 * step)
    torch.testing.assert_close(slope, difference)


def test_gradients_that_nobody_needs_are_not_computed():
    x = torch.randn(4, requires_grad=True)
    fake_quantize_ste(x, torch.tensor(0.5), torch.tensor(0.0), Grid(2, True)).sum().backward()
    q = torch.round(x.detach() / 0.5)
    assert torch.equal(x.grad, ((q >= -2) & (q <= 1)).float())


@pytest.mark.parametrize("grid", [Grid(2, True), Grid(4), Grid(3), Grid(8)])
@pytest.mark.parametrize("zero", [-3.4, 0.0, 2.5, 7.0, 300.0])
def test_one_learned_scale_takes_a_shorter_way_to_the_same_bits(grid, zero):
    """Beside a learned zero point the general form runs; quotients on every half step count."""
    scale = torch.tensor(0.25, requires_grad=True)
    halves = torch.arange(-2 * grid.levels, 2 * grid.levels + 1) * 0.5
    x = torch.cat([halves * 0.25, torch.randn(999), torch.tensor([0.0, 1e30, -1e30])])
    weight = torch.randn(len(x))
    free, fixed = torch.tensor(zero, requires_grad=True), torch.tensor(zero)
    found = {}
    for point in (free, fixed):
        out = fake_quantize_ste(x, scale, point, grid)
        (slope,) = torch.autograd.grad((weight * out).sum(), scale)
        found[point.requires_grad] = (out.detach(), slope)
    assert torch.equal(found[True][0], found[False][0])
    assert torch.equal(found[True][1], found[False][1])
