"""Bounds of integer sums against all inputs tried, and repairs that keep to them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from benchmarks.saturating import lost_sums, saturating_sums
from hypothesis import given
from hypothesis import strategies as st

from bitwright.numerics.grid import Grid
from bitwright.numerics.kernel_sums import (
    InputSpan,
    any_pair_peaks,
    fit_pairs,
    neighbours,
    neighbours_of,
    pair_bounds,
    pair_limit,
    pair_peaks,
    sum_peaks,
)

BYTES = st.integers(-128, 127)
SHAPES = st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 3, 9]))


@st.composite
def weights(draw):
    inputs, positions = draw(SHAPES)
    size = inputs * positions
    rows = draw(st.lists(st.lists(BYTES, min_size=size, max_size=size), min_size=1, max_size=4))
    return torch.tensor(rows), neighbours(inputs, positions)


@given(SHAPES)
def test_every_pair_of_either_layout_is_among_the_neighbours(shape):
    inputs, positions = shape
    sets = neighbours(*shape)
    known = {
        pair for left, right in sets for pair in zip(left.tolist(), right.tolist(), strict=True)
    }
    stored = np.arange(inputs * positions)
    last = stored.reshape(inputs, positions).T.reshape(-1)
    for order in (stored, last):
        assert {(a, b) for a, b in zip(order[::2], order[1::2], strict=False)} <= known
    for position in range(positions):
        own = stored.reshape(inputs, positions)[:, position]
        assert set(zip(own[::2], own[1::2], strict=False)) <= known
    for left, right in sets:
        assert len({*left.tolist(), *right.tolist()}) == 2 * len(left)


@given(weights())
def test_what_fits_is_never_cut_off_and_what_does_not_is(drawn):
    """The limit is exact: at it no input loses anything, beyond it the largest one does."""
    rows, pairs = drawn
    peaks, limit = pair_peaks(rows, pairs), pair_limit(Grid(8))
    for row, peak in zip(rows, peaks, strict=True):
        any_lost = False
        for left, right in pairs:
            order = torch.stack((left, right), 1).reshape(-1)
            w = row[order].numpy().astype(np.int8)
            x = np.stack([np.where(w > 0, 255, 0), np.where(w < 0, 255, 0)]).astype(np.uint8)
            exact = x.astype(np.int64) @ w.astype(np.int64)
            lost = exact - saturating_sums(x, w[None])[:, 0]
            assert np.array_equal(lost, lost_sums(x, w[None])[:, 0])
            any_lost |= bool(lost.any())
        assert any_lost is (int(peak) > limit)


@given(weights())
def test_repaired_rows_fit_and_go_on_to_fit_within_their_bounds(drawn):
    rows, pairs = drawn
    limit = pair_limit(Grid(8))
    fixed = fit_pairs(rows.float(), pairs, limit)
    assert (pair_peaks(fixed, pairs) <= limit).all()
    good = pair_peaks(rows, pairs) <= limit
    assert torch.equal(fixed[good], rows[good].float())
    assert (fixed.abs() <= rows.abs()).all() and (fixed * rows >= 0).all()
    low, high = pair_bounds(fixed, pairs, limit)
    assert (low <= fixed).all() and (fixed <= high).all()
    assert (pair_peaks(low, pairs) <= limit).all() and (pair_peaks(high, pairs) <= limit).all()


def test_the_nearest_pair_that_fits_is_taken():
    pairs = neighbours(2, 1)
    fixed = fit_pairs(torch.tensor([[100.0, 61.0], [-127.0, -128.0], [127.0, -128.0]]), pairs, 128)
    assert fixed.tolist() == [[83.0, 45.0], [-64.0, -64.0], [127.0, -128.0]]


@given(weights())
def test_any_two_weights_are_at_least_as_hard_as_neighbours(drawn):
    rows, pairs = drawn
    most = any_pair_peaks(rows)
    assert (most >= pair_peaks(rows, pairs)).all()
    for row, found in zip(rows.tolist(), most.tolist(), strict=True):
        same = [abs(a) + abs(b) for a, b in itertools.combinations(row, 2) if a * b > 0]
        assert found == max([*same, *map(abs, row)])


@given(
    st.lists(BYTES, min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(-2, 2),
    st.sampled_from([(0, 3), (-2, 1)]),
)
def test_no_sum_nor_part_of_one_exceeds_its_bound(row, zero, w_zero, ends):
    """All inputs of a small grid, all subsets of the products: the bound holds and is reached."""
    low, high = ends
    zero = min(zero, high)
    span = InputSpan(low, high, zero)
    bound = float(sum_peaks(torch.tensor([row]), span, w_zero)[0])
    worst = 0
    for x in itertools.product(range(low, high + 1), repeat=len(row)):
        parts = [(a - zero) * (w - w_zero) for a, w in zip(x, row, strict=True)]
        raw = [a * w for a, w in zip(x, row, strict=True)]
        for products in (parts, raw):
            up, down = sum(p for p in products if p > 0), sum(p for p in products if p < 0)
            worst = max(worst, up, -down)
    assert worst == bound


@pytest.mark.parametrize(("shape", "axis", "count"), [((4, 3, 3, 3), 0, 3), ((8, 4), 0, 1),
                                                      ((4, 8), 1, 1), ((4, 2, 3), 0, 2),
                                                      ((4, 1, 3, 3), 0, 1)])  # fmt: skip
def test_layouts_of_a_weight(shape, axis, count):
    assert len(neighbours_of(torch.zeros(shape), axis)) == count


@pytest.mark.parametrize(("bits", "limit"), [(8, 128), (7, 258), (2, 10922), (16, 128)])
def test_limits_of_narrower_inputs(bits, limit):
    assert pair_limit(Grid(bits)) == limit
    assert pair_limit(Grid(bits, signed=True)) == limit
