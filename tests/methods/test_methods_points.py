"""Every method solves sums of several low-bit tensors, as it solves one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from unit_problems import bare, with_rows

from bitwright.engine.digest import digest
from bitwright.graph.choice import Choice
from bitwright.graph.rows import weight_rows
from bitwright.methods.catalogue import METHODS
from bitwright.methods.problem import UnitProblem, store_in_points
from bitwright.methods.stored import from_entry, to_entry
from bitwright.numerics.affine import dequantize
from bitwright.numerics.gram import Gram
from bitwright.numerics.grid import Grid
from bitwright.numerics.points import split
from networks import normal

CASES = ("conv with relu6", "linear without bias", "depthwise", "transposed", "one sample")
EVERY = pytest.mark.parametrize("name", METHODS)


def quick(name: str):
    found = METHODS[name]
    found = found.configured("minmax") if found.needs.data else found
    return replace(found, iterations=10, rows=64) if found.needs.backward else found


@cache
def asked(case: str, bits: int, points: int, symmetric: bool = False) -> UnitProblem:
    """A problem of several points."""
    given = with_rows(case, 4, symmetric, True)
    grid = Grid(bits * points, given.grid.signed)
    return replace(given, choice=Choice(bits, 4, points), grid=grid)


@EVERY
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("bits", "points"), [(2, 2), (3, 3), (4, 4)])
def test_a_solution_of_points(name, case, bits, points):
    given = asked(case, bits, points, symmetric=points == 3)
    found = store_in_points(quick(name).solve(given), given.choice)
    if found.channel_bits:
        widths = found.channel_bits
        assert sum(widths) == bits * points * len(widths) and not any(w % bits for w in widths)
        assert found.points * bits == max(widths) == found.weight.grid.bits
    else:
        assert found.points == points and found.weight.grid == given.grid
    grid = found.weight.grid
    assert grid.qmin <= int(found.q.int().min()) and int(found.q.int().max()) <= grid.qmax
    parts = split(found.q, found.weight, found.points)
    assert {own.grid.bits for _, own in parts} == {bits}
    back = from_entry(*to_entry(found))
    assert digest(back) == digest(found) and back.points == found.points


@EVERY
@pytest.mark.parametrize("case", CASES[:4])
def test_never_worse_than_the_points_rounded(name, case):
    given = asked(case, 2, 2)
    if METHODS[name].needs.data:
        found = quick(name).solve(given)
        assert found.loss_after <= found.loss_before * (1 + 1e-6)


@pytest.mark.parametrize("case", CASES[:4])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_every_point_brings_the_weights_closer(case, bits):
    problems = [asked(case, bits, points) for points in (1, 2, 3, 4)]
    solved = (store_in_points(quick("nearest").solve(p), p.choice) for p in problems)
    errors = [found.error for found in solved]
    for coarse, fine in pairwise(errors):
        assert fine < 0.5 * coarse or coarse < 1e-7


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_every_point_lowers_the_output_error(bits):
    """On the float input; where inputs are quantised too, their error stays below it all.

    Eight bits in sum and twelve both reach the rows' own noise: there only the pull that rows
    apart chose makes a difference.
    """
    solved = (quick("quadratic").solve(asked("float input", bits, points)) for points in (1, 2, 3))
    errors = [found.loss_after for found in solved]
    assert errors[0] > errors[1] and 1.01 * errors[1] > errors[2]


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_errors_below_the_rounding_of_the_sums_are_told_apart(seed):
    """Of 16 bits in sum, on inputs that resemble each other: the truth is told in float64."""
    plain = asked("float input", 4, 4)
    size = plain.weight[0].numel()
    x = normal(1, 4000, size, seed=seed) @ (normal(size, size, seed=seed + 50) * 0.05 + 1)
    x, weight = x.relu(), weight_rows(plain.weight.float(), plain.unit)
    y = x @ weight.mT + plain.bias
    fit, apart = (Gram.of(x[:, s], y[:, s]) for s in (slice(3000), slice(3000, None)))
    given = replace(plain, gram=fit, held_out=apart)

    def error(solution):
        moved = weight_rows(dequantize(solution.q, solution.weight), given.unit) - weight
        found = x[:, 3000:].double() @ moved.double().mT
        return float((found - found.mean(1, keepdim=True)).square().sum())

    found = quick("quadratic").solve(given)
    assert found.fallback is None and found.loss_after <= found.loss_before < 1e-5
    assert error(found) < 0.5 * error(quick("nearest").solve(given))


def test_two_points_of_four_bits_are_one_of_eight():
    for case in CASES[:4]:
        two, one = (quick("quadratic").solve(asked(case, *s)) for s in ((4, 2), (8, 1)))
        assert torch.equal(two.q, one.q) and torch.equal(two.weight.scale, one.weight.scale)


def test_channels_with_points_of_their_own():
    """Channels of unequal ranges: two points on average, and less error than two for each."""
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-2, 1, 12)[:, None]
    given = replace(
        bare(torch.nn.Linear(20, 12), 4), weight=weight, choice=Choice(2, 8, 2), grid=Grid(4)
    )
    found, plain = (
        store_in_points(METHODS[name].solve(given), given.choice) for name in ("aciq", "nearest")
    )
    assert sum(found.channel_bits) == 12 * 4 and set(found.channel_bits) <= {2, 4, 6, 8}
    assert len(set(found.channel_bits)) > 1 and found.points == max(found.channel_bits) // 2
    assert found.error < 0.5 * plain.error
    # A channel of few points is zero in the points that it does without.
    parts = split(found.q, found.weight, found.points)
    for place, (q, own) in enumerate(parts):
        least = 2 * (found.points - place)
        without = torch.tensor([b < least for b in found.channel_bits])
        assert not q[without].any() and not own.zero_point[without].any()
