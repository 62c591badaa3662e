"""Coordinate descent over the integers of a grid, for all channels and groups at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.numerics.affine import round_half_even
from bitwright.numerics.gram import Quadratic

BLOCK = 64
# Of the mean of the diagonal, until a matrix has a factor.
DAMPS = (1e-6, 1e-4, 1e-2, 1.0)


@dataclass(frozen=True, eq=False)
class Steps:
    """Weights as w = scale k: integers k in [low, high].

    Scale and bounds are [G, C, 1], or [G, C, N] where a row has several grids.
    """

    k: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    @property
    def weight(self) -> Tensor:
        """The real weights."""
        return self.k * self.scale


def columns(values: Tensor, size: int) -> Tensor:
    """Values for each of so many columns; a view."""
    return values.expand(*values.shape[:-1], size)


def sweep(problem: Quadratic, steps: Steps) -> tuple[Steps, int]:
    """Visit every coordinate once; returns the new integers and how many changed.

    Equation: k_j <- clamp(round((w_j + r_j / H_jj) / s)) with the residual r = c - w H: each is the
    exact minimum over its grid with all others fixed, so the objective never rises.
    A block of columns is finished before the rest of the residual is brought up to date by one
    matrix product: 2 C N^2 operations a sweep, nearly all of them in products.
    """
    h = problem.h
    scale, low, high = (columns(v, h.shape[-1]) for v in (steps.scale, steps.low, steps.high))
    diagonal = h.diagonal(dim1=-2, dim2=-1).clamp_min(1e-20)
    k = steps.k.clone()
    residual = problem.c - steps.weight @ h
    changed = 0
    size = h.shape[-1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        part = residual[..., start:stop]
        inner = h[:, start:stop, start:stop]
        before = k[..., start:stop].clone()
        for j in range(stop - start):
            pull = part[..., j] / diagonal[:, start + j, None]
            old = k[..., start + j]
            at = start + j
            new = round_half_even(old + pull / scale[..., at]).clamp_(low[..., at], high[..., at])
            delta = (new - old) * scale[..., at]
            part = part - delta.unsqueeze(-1) * inner[:, None, j, :]
            k[..., start + j] = new
        moved = (k[..., start:stop] - before) * scale[..., start:stop]
        changed += int((moved != 0).sum())
        residual -= moved @ h[:, start:stop, :]
    return Steps(k, steps.scale, steps.low, steps.high), changed


def best_scale(problem: Quadratic, steps: Steps) -> Tensor:
    """The scale of each row that is best for its integers: s = k c^T / k H k^T [G, C, 1].

    Of rows with several grids the scales stay as they are.
    """
    if steps.scale.shape[-1] > 1:
        return steps.scale
    top = (steps.k * problem.c).sum(-1, keepdim=True)
    bottom = ((steps.k @ problem.h) * steps.k).sum(-1, keepdim=True)
    fitted = top / bottom.clamp_min(1e-30)
    usable = (bottom > 0) & torch.isfinite(fitted) & (fitted > 0.5 * steps.scale)
    return torch.where(usable & (fitted < 2 * steps.scale), fitted, steps.scale)


def successive(problem: Quadratic, steps: Steps) -> Steps:
    """Round one column after the other, each error made good by the columns still free.

    Equation: from the unconstrained optimum w* = c H^-1, with H^-1 = U^T U (upper Cholesky):
    k_j = clamp(round(w_j / s)), then w_i <- w_i - (w_j - s k_j) U_ji / U_jj for all i > j.
    Reference: Frantar et al., arXiv 2210.17323 (GPTQ), here towards the float target of a
    quantised input. A good place to start the descent from.
    """
    h = problem.h.double()
    size = h.shape[-1]
    inverse = torch.cholesky_inverse(_factor(h))
    w = (problem.c.double() @ inverse).float()
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    scale, low, high = (columns(v, size) for v in (steps.scale, steps.low, steps.high))
    k = torch.empty_like(steps.k)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = torch.empty_like(w[..., start:stop])
        for j in range(start, stop):
            own = scale[..., j]
            k[..., j] = round_half_even(w[..., j] / own).clamp_(low[..., j], high[..., j])
            error = (w[..., j] - k[..., j] * own) / upper[:, j, j, None]
            w[..., j:stop] -= error.unsqueeze(-1) * upper[:, None, j, j:stop]
            errors[..., j - start] = error
        w[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return Steps(k, steps.scale, steps.low, steps.high)


def _factor(h: Tensor) -> Tensor:
    """Lower Cholesky factor; of a matrix that rounding left indefinite, with a larger diagonal."""
    mean = h.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-20)[:, None, None]
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    for damp in DAMPS:
        factor, failed = torch.linalg.cholesky_ex(h + damp * mean * eye)
        if not failed.any():
            break
    return factor


def better(problem: Quadratic, one: Steps, other: Steps) -> Steps:
    """Of two solutions the one with the lower objective, channel by channel."""
    first = (problem.loss(one.weight) <= problem.loss(other.weight)).unsqueeze(-1)
    return Steps(
        torch.where(first, one.k, other.k),
        torch.where(first, one.scale, other.scale),
        torch.where(first, one.low, other.low),
        torch.where(first, one.high, other.high),
    )
