"""ACIQ: bits for each channel, ranges in closed form, and what rounding shifted put right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitwright.methods.problem import Needs, UnitProblem, UnitSolution
from bitwright.numerics.affine import QParams, dequantize, quantize
from bitwright.numerics.channel_bits import allocate_bits
from bitwright.numerics.exact import significant_bits, snap
from bitwright.numerics.grid import Grid
from bitwright.numerics.ranges import RangeRule, range_rule, weight_qparams

MOST_BITS = 8
# A channel whose rounded weights hardly vary would be blown up without a limit.
LIMIT = 2.0


@dataclass(frozen=True)
class Aciq:
    """Per-channel bits with the asked-for average, nearest rounding, and bias correction.

    Equations: bits_c of least total a_c^2 / (3 (2^bits_c - 1)^2) at sum bits_c = C B, a_c the
    channel's half-range; then mu_c = E[W_c] - E[Wq_c], xi_c = ||W_c - E W_c|| / ||Wq_c - E Wq_c||
    and Wq_c <- xi_c (Wq_c + mu_c). xi goes into the scale; mu, whose share of the output is
    xi mu times the sum of the inputs, into the bias by the inputs' observed mean. Integer zero
    points cannot hold mu, which is a part of a step. Nothing is left at run time.
    Banner et al., arXiv 1810.05723, sections 3 and 4.

    Attributes:
        weight_range: how the range of each channel is chosen; the paper clips no weights.
        channel_bits: whether channels get bits of their own; of a sum of points each channel has
            points of its own, with the asked-for number on average.
        bias_correction: whether mean and norm of each channel are put right.
    """

    weight_range: str | RangeRule = "minmax"
    channel_bits: bool = True
    bias_correction: bool = True
    name: str = "aciq"

    @property
    def needs(self) -> Needs:
        """Nothing but the weights, and the mean of each input."""
        return Needs(
            data=False,
            labels=False,
            backward=False,
            paper="arXiv 1810.05723",
            cost="milliseconds",
        )

    def configured(self, weight_range: str | RangeRule) -> Aciq:
        """With the recipe's rule for the ranges of weights."""
        return replace(self, weight_range=weight_range)

    def solve(self, problem: UnitProblem) -> UnitSolution:
        """Allocate, round, correct."""
        rule = range_rule(self.weight_range)
        weight = problem.weight.detach().float()
        axis = problem.channel_axis if problem.per_channel else None
        plain = weight_qparams(weight, problem.grid, axis, rule, problem.symmetric)
        rounded = Rounded(quantize(weight, plain), plain, ())
        if self.channel_bits and axis is not None and problem.grid.bits < most_bits(problem):
            own = by_channel(problem, weight, rule)
            if _error(weight, own) < _error(weight, rounded):
                rounded = own
        qparams, bias = rounded.qparams, problem.bias
        if self.bias_correction:
            qparams, shift = correct_scale(problem, weight, rounded)
            bias = _shift_bias(problem, bias, shift)
        error = _error(weight, Rounded(rounded.q, qparams, ()))
        energy = float(weight.double().square().sum().clamp_min(1e-30))
        return UnitSolution(
            rounded.q,
            qparams,
            bias,
            problem.inputs,
            self.name,
            error / energy,
            channel_bits=rounded.bits,
        )


def most_bits(problem: UnitProblem) -> int:
    """The most bits that a channel gets: whole points, where the weight is a sum of several."""
    choice = problem.choice
    return MOST_BITS if choice.points == 1 else MOST_BITS // choice.w_bits * choice.w_bits


@dataclass(frozen=True, eq=False)
class Rounded:
    """Integers, what they mean, and the bits of each channel where they differ."""

    q: Tensor
    qparams: QParams
    bits: tuple[int, ...]


def by_channel(problem: UnitProblem, weight: Tensor, rule: RangeRule) -> Rounded:
    """Nearest rounding with bits of its own for each channel, in the container of the widest.

    A channel of m bits uses the integers of the m-bit grid, which is a part of every wider one;
    its scale has the significant bits that m bits allow.
    """
    axis, signed = problem.channel_axis, problem.grid.signed
    rows = weight.movedim(axis, 0)
    rows = rows.reshape(rows.shape[0], -1)
    half = 0.5 * (rows.amax(1).clamp_min(0.0) - rows.amin(1).clamp_max(0.0))
    choice, most = problem.choice, most_bits(problem)
    least, step = (2, 1) if choice.points == 1 else (choice.w_bits, choice.w_bits)
    bits = allocate_bits(half.tolist(), problem.grid.bits, least, most, step=step)
    grid = Grid(max(bits), signed)
    shape = [1] * weight.dim()
    shape[axis] = -1
    scale = rows.new_ones(rows.shape[0])
    zero = torch.zeros_like(scale, dtype=torch.int32)
    q = torch.zeros(rows.shape, dtype=grid.dtype, device=rows.device)
    widths = torch.tensor(bits, device=rows.device)
    for width in sorted(set(bits)):
        at = torch.nonzero(widths == width).reshape(-1)
        own = weight_qparams(rows[at], Grid(width, signed), 0, rule, problem.symmetric)
        q[at] = quantize(rows[at], own).to(grid.dtype)
        scale[at], zero[at] = own.scale.reshape(-1), own.zero_point.reshape(-1)
    moved = q.reshape(weight.movedim(axis, 0).shape).movedim(0, axis)
    layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
    params = QParams(grid, scale.reshape(shape), zero.reshape(shape))
    return Rounded(moved.contiguous(memory_format=layout), params, bits)


def correct_scale(problem: UnitProblem, weight: Tensor, rounded: Rounded) -> tuple[QParams, Tensor]:
    """The scale times xi, and xi mu of each channel; one of both for a tensor of one scale.

    The scale that can be deployed is the one of few significant bits nearest to xi s; where that is
    s itself, xi is 1.
    """
    qparams = rounded.qparams
    axis = problem.channel_axis if problem.per_channel else None
    true, got = (_rows(v, axis).double() for v in (weight, dequantize(rounded.q, rounded.qparams)))
    spread = (got - got.mean(1, keepdim=True)).norm(dim=1)
    wanted = (true - true.mean(1, keepdim=True)).norm(dim=1)
    xi = torch.where(spread > 0.0, wanted / spread.clamp_min(1e-300), 1.0)
    xi = xi.clamp(1.0 / LIMIT, LIMIT).float()
    scale = qparams.scale.reshape(-1)
    new = _nearest(scale * xi, _significant(rounded, scale))
    xi = new.double() / scale.double()
    shift = xi * (true.mean(1) - got.mean(1))
    return QParams(qparams.grid, new.reshape(qparams.scale.shape), qparams.zero_point), shift


def _significant(rounded: Rounded, scale: Tensor) -> Tensor:
    """The significant bits of each channel's scale."""
    grid = rounded.qparams.grid
    bits = rounded.bits or (grid.bits,) * scale.numel()
    counts = [significant_bits(Grid(b, grid.signed)) for b in bits]
    return torch.tensor(counts, device=scale.device).double()


def _nearest(scale: Tensor, bits: Tensor) -> Tensor:
    """The scales of so many significant bits that are nearest."""
    below, above = snap(scale, bits, down=True), snap(scale, bits)
    return torch.where(scale - below < above - scale, below, above)


def _rows(value: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return value.reshape(1, -1)
    moved = value.movedim(axis, 0)
    return moved.reshape(moved.shape[0], -1)


def _error(weight: Tensor, rounded: Rounded) -> float:
    return float((dequantize(rounded.q, rounded.qparams) - weight).double().square().sum())


def _shift_bias(problem: UnitProblem, bias: Tensor | None, shift: Tensor) -> Tensor | None:
    """The bias with xi mu E[sum of the inputs]; as it was where that is not known.

    The sum of a dense unit's inputs has the mean of the whole tensor times their number. Of a
    group's inputs that mean is not known, nor does every weight of a transposed convolution meet
    every output.
    """
    means = problem.input_means
    dense = problem.groups == 1 and not problem.kind.startswith("conv_transpose")
    if not dense or problem.kind in ("matmul", "embedding"):
        return bias
    if len(means) != 1 or means[0] is None:
        return bias
    channels = problem.weight.shape[problem.channel_axis]
    count = problem.weight.numel() // channels
    added = (shift * count * means[0]).float().expand(channels)
    return added.clone() if bias is None else bias.detach().float() + added
