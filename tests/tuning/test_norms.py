"""The reconstructed batch-norm does nothing; fusing it again rounds nothing again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.graph.model_graph import FoldedBatchNorm
from bitwright.methods.problem import UnitSolution
from bitwright.numerics.affine import QParams, dequantize
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.grid import Grid
from bitwright.tuning.norms import (
    LIMIT,
    from_statistics,
    gain_between,
    nearest_scale,
    reconstruct,
    refuse,
)
from networks import normal

GRID = Grid(4)


def record(channels: int = 6) -> FoldedBatchNorm:
    gamma = normal(channels, seed=1)
    gamma[0] = 0.0
    return FoldedBatchNorm(
        "bn", gamma, normal(channels, seed=2), normal(channels), gamma.square() + 1, 1e-3
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("axis", [1, -1])
def test_reconstructed_is_the_identity(dtype, bound, axis):
    """Equation 7: whatever the sign and size of gamma, to the rounding of the type."""
    x = (10 * normal(5, 6, 6, seed=3)).to(dtype)
    for norm in (reconstruct(record()), from_statistics(normal(6), normal(6).square())):
        assert torch.allclose(norm(x, axis), x, rtol=bound, atol=bound)
        assert torch.allclose(norm.gain, torch.ones(6).double(), rtol=1e-12)
        assert norm(x, axis).dtype == dtype


def solution(shape=(6, 4, 3, 3), axis=0, bits=4, bias=True, per_channel=True) -> UnitSolution:
    grid = Grid(bits)
    form = [1] * len(shape)
    form[axis] = shape[axis] if per_channel else 1
    scale = snap(normal(*form, seed=4).abs() + 0.01, significant_bits(grid))
    q = (normal(*shape, seed=5) * 4 + 8).clamp(0, grid.qmax).to(torch.uint8)
    channels = shape[axis]
    zero = torch.full(form, 7, dtype=torch.int32)
    own = normal(channels, seed=6) if bias else None
    return UnitSolution(q, QParams(grid, scale, zero), own, (None,), "nearest", 0.0)


def measured(norm, factor=1.3):
    """The same batch-norm where the quantised network's statistics are others."""
    return replace(norm, mean=norm.mean + 0.3, var=norm.var * factor)


@pytest.mark.parametrize(("shape", "axis"), [((6, 4, 3, 3), 0), ((5, 6), 1), ((4, 6, 2, 2), 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_refusing_equals_the_batch_norm_and_keeps_integers(shape, axis, bias):
    """B.14: the weights are gamma_r / sigma times what they were, bit for bit in the integers."""
    before = solution(shape, axis, bias=bias)
    norm = measured(reconstruct(record()))
    after = refuse(before, norm)
    assert after.q is before.q
    assert torch.equal(after.weight.zero_point, before.weight.zero_point)
    gain = gain_between(before, after)
    form = [1] * len(shape)
    form[axis] = -1
    assert torch.allclose(
        dequantize(after.q, after.weight).double(),
        dequantize(before.q, before.weight).double() * gain.view(form),
        rtol=1e-6,
    )
    # The mean is put right with the gain that the snapped scale has.
    old = torch.zeros(6) if before.bias is None else before.bias
    expected = gain * (old.double() - norm.mean) + norm.beta
    assert torch.allclose(after.bias.double(), expected, rtol=1e-5, atol=1e-6)


def test_scale_is_the_nearest_of_few_bits():
    before = solution()
    after = refuse(before, measured(reconstruct(record())))
    bits = significant_bits(GRID)
    assert torch.equal(snap(after.weight.scale, bits), after.weight.scale)
    wanted = measured(reconstruct(record())).gain.clamp(1 / LIMIT, LIMIT)
    assert torch.allclose(gain_between(before, after), wanted, rtol=2.0**-bits)


def test_a_gain_below_half_a_step_corrects_the_mean_alone():
    before = solution(bits=8)
    norm = measured(from_statistics(normal(6), torch.ones(6)), 1.02)
    after = refuse(before, norm)
    assert torch.equal(after.weight.scale, before.weight.scale)
    assert torch.allclose(after.bias, before.bias - 0.3, atol=1e-5)


@pytest.mark.parametrize("case", ["per tensor", "grouped transposed", "switched off"])
def test_shared_scales_stay(case):
    before = solution(per_channel=case != "per tensor")
    norm = measured(reconstruct(record()))
    if case == "grouped transposed":  # three channels a group, two groups
        before = solution((4, 3, 2, 2), axis=1)
        before = replace(before, bias=normal(6))
    after = refuse(before, norm, scales=case != "switched off")
    assert torch.equal(after.weight.scale, before.weight.scale)
    assert torch.allclose(after.bias.double(), before.bias.double() - norm.mean + norm.beta)


def test_a_dead_channel_is_not_blown_up():
    norm = replace(reconstruct(record()), var=torch.zeros(6).double())
    gain = gain_between(solution(), refuse(solution(), norm))
    assert bool((gain <= LIMIT * 1.01).all())


@given(st.floats(1e-30, 1e30), st.integers(2, 12))
def test_nearest_scale_is_no_further_than_either_neighbour(value, bits):
    scale = torch.tensor([value])
    found = nearest_scale(scale, bits).double()
    distance = torch.log(found / scale.double()).abs()
    for other in (snap(scale, bits), snap(scale, bits, down=True)):
        assert float(distance) <= float(torch.log(other.double() / scale.double()).abs()) + 1e-12
