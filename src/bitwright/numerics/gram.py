"""Second moments of a unit's inputs and targets: all that a quadratic objective needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# A product in float32 over more rows than this rounds its sums too often: over 1e5 rows that are
# never negative small products lost 1e-5 of them, in parts of this length 1e-7.
ROWS = 1024
# x^T x is symmetric: it is computed in strips of so many rows at least, each from the diagonal on,
# and mirrored. Narrower strips save no more, their products being slower.
STRIP, STRIPS = 192, 8
_SUMS = ("xx", "yx", "x", "y", "yy")


@dataclass(frozen=True, eq=False)
class Gram:
    """Sums over rows x (the quantised input) and y (the float target), group by group.

    Equation: xx = sum x x^T [G, N, N], yx = sum y x^T [G, C, N], and the sums of x, y and y^2,
    from which || y - W x - b ||^2 follows for every W and b. Merging adds.
    """

    count: int
    xx: Tensor
    yx: Tensor
    x: Tensor
    y: Tensor
    yy: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Gram:
        """From rows x [G, R, N] and y [G, R, C].

        R N (N + 2 C) operations: matrix products in float32 of so many rows that their sums lose
        little, added in float64. Sums over batches are of float32 again; what is taken from them,
        the bias above all, is computed in float64.
        """
        rows, size = x.shape[1:]
        kind = x.dtype if rows <= ROWS else torch.float64
        xx = x.new_zeros(x.shape[0], size, size, dtype=kind)
        others = [x.new_zeros((), dtype=kind)] * 4
        for here, there in zip(torch.split(x, ROWS, 1), torch.split(y, ROWS, 1), strict=True):
            turned = here.transpose(1, 2)
            for start, stop in _strips(size):
                xx[:, start:stop, start:] += turned[:, start:stop] @ here[:, :, start:]
            others = [total + part for total, part in zip(others, _sums(here, there), strict=True)]
        for start, stop in _strips(size):
            xx[:, stop:, start:stop] = xx[:, start:stop, stop:].transpose(1, 2)
        return cls(rows, *(value.to(x.dtype) for value in (xx, *others)))

    def add_(self, other: Gram) -> Gram:
        """This and another, written into this one's tensors: a Gram of a wide unit is large."""
        for name in _SUMS:
            getattr(self, name).add_(getattr(other, name))
        return Gram(self.count + other.count, self.xx, self.yx, self.x, self.y, self.yy)


def _strips(size: int) -> list[tuple[int, int]]:
    height = max(STRIP, -(-size // STRIPS))
    return [(start, min(start + height, size)) for start in range(0, size, height)]


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The sums of few rows, but for x x^T."""
    # A product with ones: the library's own sum over rows is slow where a row is short.
    ones = x.new_ones(1, 1, x.shape[1]).expand(x.shape[0], -1, -1)
    products = (y.transpose(1, 2) @ x, ones @ x, ones @ y, ones @ y.square())
    return products[0], *(value.squeeze(1) for value in products[1:])


@dataclass(frozen=True, eq=False)
class Quadratic:
    """min over w of w H w^T - 2 w c^T + constant, the bias already at its optimum.

    Equation: H = xx - x x^T / R, c = yx - y x^T / R, constant = yy - y^2 / R; b = (y - W x) / R.
    """

    h: Tensor
    c: Tensor
    constant: Tensor
    x_mean: Tensor
    y_mean: Tensor
    count: int

    def loss(self, w: Tensor) -> Tensor:
        """Squared output error of every channel [G, C] with the best bias."""
        w = w.double()
        cross = (w * self.c.double()).sum(-1)
        own = ((w @ self.h.double()) * w).sum(-1)
        return (own - 2 * cross + self.constant.double()).clamp_min(0)

    def repeated(self, times: int) -> Quadratic:
        """Every channel so many times, one copy after the other."""
        return replace(
            self,
            c=self.c.repeat(1, times, 1),
            constant=self.constant.repeat(1, times),
            y_mean=self.y_mean.repeat(1, times),
        )

    def bias(self, w: Tensor) -> Tensor:
        """The bias [G, C] that is best for these weights."""
        return self.y_mean - (w @ self.x_mean.unsqueeze(-1)).squeeze(-1)


def centre_gram(gram: Gram) -> Quadratic:
    """Eliminate the bias from a Gram."""
    count = max(gram.count, 1)
    x_mean, y_mean = gram.x.double() / count, gram.y.double() / count
    h = gram.xx.double() - count * x_mean.unsqueeze(-1) * x_mean.unsqueeze(-2)
    c = gram.yx.double() - count * y_mean.unsqueeze(-1) * x_mean.unsqueeze(-2)
    constant = gram.yy.double() - count * y_mean.square()
    return Quadratic(
        h.float(), c.float(), constant.clamp_min(0), x_mean.float(), y_mean.float(), gram.count
    )


def without_bias(gram: Gram, bias: Tensor) -> Quadratic:
    """The same for a unit that cannot have a bias, or keeps the one it has [G, C]."""
    shift = bias.double()
    c = gram.yx.double() - shift.unsqueeze(-1) * gram.x.double().unsqueeze(-2)
    constant = gram.yy.double() - 2 * shift * gram.y.double() + gram.count * shift.square()
    zero = torch.zeros_like(gram.x)
    return Quadratic(
        gram.xx.float(), c.float(), constant.clamp_min(0), zero, bias.float(), gram.count
    )


def regularise_problem(problem: Quadratic, w: Tensor, strength: float) -> Quadratic:
    """Pull towards the float weights: + strength tr(H)/N ||w - w0||^2, for inputs hardly seen."""
    size = problem.h.shape[-1]
    diagonal = problem.h.diagonal(dim1=-2, dim2=-1)
    weight = (strength * diagonal.mean(-1)).clamp_min(1e-12)
    eye = torch.eye(size, dtype=problem.h.dtype, device=problem.h.device)
    return Quadratic(
        problem.h + weight[:, None, None] * eye,
        problem.c + weight[:, None, None] * w,
        problem.constant + weight.double()[:, None] * w.double().square().sum(-1),
        problem.x_mean,
        problem.y_mean,
        problem.count,
    )
