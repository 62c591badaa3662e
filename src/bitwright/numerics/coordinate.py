"""Coordinate descent over the integers of a grid, for all channels and groups at once.

On the CPU the moves are compiled loops over rows (`numerics.coordinate_loop`). What is written here
in operations of torch does the same for all rows at once: it is what other devices compute, and
what the loops are tested against.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from bitwright.engine.threads import count_threads, share_out
from bitwright.numerics.affine import round_half_even
from bitwright.numerics.coordinate_loop import Index, Rows, fit_scales, round_rows, visit_rows
from bitwright.numerics.gram import Quadratic

# Columns whose residuals are brought up to date one by one: more of them are more work outside of
# matrix products, fewer of them make the products slow.
BLOCK = 32
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


@dataclass(frozen=True)
class Effort:
    """How long to descend: at most so many sweeps, and until one gains less than this part."""

    sweeps: int = 20
    tolerance: float = 1e-4


def best_of(problem: Quadratic, starts: tuple[Steps, Steps], scales: bool, effort: Effort) -> Steps:
    """Descend from two starts at once; of the two ends the lower, channel by channel.

    Descent ends in a local optimum, and no start is always the better one. Side by side they share
    the steps from column to column, which are what a small unit's time goes to.
    """
    half = starts[0].k.shape[1]
    both = Steps(*(torch.cat([getattr(s, f.name) for s in starts], 1) for f in fields(Steps)))
    found, loss = descend(problem.repeated(2), both, scales, effort)
    first = (loss[:, :half] <= loss[:, half:]).unsqueeze(-1)
    values = (getattr(found, f.name) for f in fields(Steps))
    return Steps(*(torch.where(first, v[:, :half], v[:, half:]) for v in values))


def descend(problem: Quadratic, steps: Steps, scales: bool, effort: Effort) -> tuple[Steps, Tensor]:
    """Sweep until the objective stalls; the result and its objective [G, C].

    With `scales` each row's scale is fitted after every sweep. A row whose own objective stalls is
    left out of further sweeps; where there are groups, a group all of whose rows do. The end comes
    when what the rest gains is little of the whole objective: a few rows that go on for long are
    not waited for.
    """
    if steps.k.device.type == "cpu":
        return _descend_rows(problem, steps, scales, effort)
    return descend_at_once(problem, steps, scales, effort)


def _descend_rows(
    problem: Quadratic, steps: Steps, scales: bool, effort: Effort
) -> tuple[Steps, Tensor]:
    """By the compiled loops: rows are shared out between the threads."""
    h, c = problem.h.contiguous(), problem.c.contiguous()
    rest = c - steps.weight @ h
    rows = _as_rows(steps, steps.k.clone(), rest)
    matrices, targets = h.numpy(), c.flatten(0, 1).numpy()
    scales = scales and steps.scale.shape[-1] == 1
    loss = problem.loss(steps.weight)
    total, groups = loss.flatten().numpy(), c.shape[0]

    def sweep(own: Index) -> np.ndarray:
        gains = np.zeros(own.size)
        visit_rows(matrices, rows, own, gains)
        if scales:
            fit_scales(rows, targets, own, gains)
        return gains

    alive = np.arange(total.size, dtype=np.uintp)
    for _ in range(effort.sweeps):
        gain = np.concatenate(share_out(sweep, _split_rows(alive)))
        total[alive] -= gain
        busy = gain > effort.tolerance * total[alive]
        if not busy.any() or gain.sum() < effort.tolerance * total.sum():
            break
        if groups > 1:
            busy = busy.reshape(-1, c.shape[1]).any(1).repeat(c.shape[1])
        alive = alive[busy]
    k, scale = (torch.from_numpy(v) for v in (rows.k, rows.scale))
    found = replace(steps, k=k.view_as(steps.k), scale=scale.view_as(steps.scale))
    return found, loss


def _as_rows(steps: Steps, k: Tensor, rest: Tensor) -> Rows:
    """Steps as the compiled loops take them; `k` and `rest` are written to."""
    values = (k, rest, steps.scale.clone(), steps.low, steps.high)
    return Rows(*(v.contiguous().flatten(0, 1).numpy() for v in values))


def _split_rows(rows: Index) -> list[Index]:
    """One part for each thread; where they are cut changes no bit."""
    return np.array_split(rows, min(count_threads(), max(rows.size, 1)))


def descend_at_once(
    problem: Quadratic, steps: Steps, scales: bool, effort: Effort
) -> tuple[Steps, Tensor]:
    """By operations of torch, on any device."""
    found = state = State.of(problem, steps)
    loss = problem.loss(steps.weight)
    # Channels are the last axis of a state, groups its first.
    axis = 2 if steps.k.shape[0] == 1 else 0
    alive = torch.arange(state.k.shape[axis], device=state.k.device)
    for _ in range(effort.sweeps):
        weight, residual = state.k * state.scale, state.residual.clone()
        state.visit()
        if scales:
            state.fit_scale()
        # Exact without the difference of two losses, which rounding would hide.
        gain = ((state.k * state.scale - weight) * (residual + state.residual)).sum(1).double()
        value = loss.index_select(min(axis, 1), alive) - gain
        loss.index_copy_(min(axis, 1), alive, value)
        busy = gain > effort.tolerance * value
        if not busy.any() or gain.sum() < effort.tolerance * loss.sum():
            break
        going = busy[0] if axis else busy.any(1)
        if not going.all():
            found.put(axis, alive, state)
            chosen = going.nonzero()[:, 0]
            alive, state = alive[chosen], state.only(axis, chosen)
    found.put(axis, alive, state)
    return found.steps(), loss


@dataclass(eq=False)
class State:
    """A descent under way; columns before channels, so that a column lies in one piece.

    h is [G, N, N]; c, k and the residual r = c - w H are [G, N, C]; scale and bounds [G, 1, C] or
    [G, N, C]. The residual is carried along: a sweep needs nothing else.
    """

    h: Tensor
    c: Tensor
    k: Tensor
    residual: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, problem: Quadratic, steps: Steps) -> State:
        """Begin here, with the residual of these steps."""
        values = (steps.k, steps.scale, steps.low, steps.high)
        k, scale, low, high = (v.mT.contiguous() for v in values)
        c = problem.c.mT.contiguous()
        return cls(problem.h, c, k.clone(), c - problem.h @ (k * scale), scale, low, high)

    def steps(self) -> Steps:
        """Where the descent is, rows before columns."""
        k, scale, low, high = (v.mT for v in (self.k, self.scale, self.low, self.high))
        return Steps(*(v.contiguous() for v in (k, scale, low, high)))

    def only(self, axis: int, chosen: Tensor) -> State:
        """These channels (axis 2) or groups (axis 0)."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        if axis:
            own.pop("h")
        return replace(self, **{n: v.index_select(axis, chosen) for n, v in own.items()})

    def put(self, axis: int, at: Tensor, other: State) -> None:
        """Write what another has found for these channels or groups."""
        if other is not self:
            self.k.index_copy_(axis, at, other.k)
            self.scale.index_copy_(axis, at, other.scale)

    def visit(self) -> None:
        """Every coordinate once.

        Equation: k_j <- clamp(round(k_j + r_j / (H_jj s))) with r = c - w H: each is the exact
        minimum over its grid with all others fixed, so the objective never rises. What one half of
        the columns moves reaches the other half's residual in one matrix product, and so on within
        the halves: 2 C N^2 operations a sweep, nearly all of them in products as square as can be.
        """
        h, size = self.h, self.h.shape[-1]
        diagonal = h.diagonal(dim1=-2, dim2=-1).clamp_min(1e-20).unsqueeze(-1)
        every = (self.k, (diagonal * self.scale).reciprocal(), self.scale, self.low, self.high)
        views = [v.expand(-1, size, -1).unbind(1) for v in every]
        columns = list(zip(*views, strict=True))
        moved = torch.empty_like(self.k)

        def reach(start: int, stop: int, low: int, high: int) -> None:
            part = self.residual[:, start:stop]
            part.baddbmm_(h[:, start:stop, low:high], moved[:, low:high], alpha=-1)

        def visit(start: int, stop: int) -> None:
            blocks = -((start - stop) // BLOCK)
            if blocks == 1:
                residual = self.residual[:, start:stop].clone()
                inner = h[:, start:stop, start:stop]
                _visit_block(columns[start:stop], residual, inner, moved[:, start:stop])
                return reach(start, stop, start, stop)
            middle = start + BLOCK * ((blocks + 1) // 2)
            visit(start, middle)
            reach(middle, stop, start, middle)
            visit(middle, stop)
            return reach(start, middle, middle, stop)

        visit(0, size)

    def fit_scale(self) -> None:
        """The best scale of each row: s = k c^T / k H k^T, where H k^T = (c - r)^T / s.

        Of rows with several grids the scales stay as they are.
        """
        if self.scale.shape[1] > 1:
            return
        own = self.c - self.residual
        top = (self.k * self.c).sum(1, keepdim=True)
        bottom = (self.k * own).sum(1, keepdim=True) / self.scale
        fitted = top / bottom.clamp_min(1e-30)
        usable = (bottom > 0) & torch.isfinite(fitted) & (fitted > 0.5 * self.scale)
        fitted = torch.where(usable & (fitted < 2 * self.scale), fitted, self.scale)
        self.residual = torch.addcmul(self.c, own, fitted / self.scale, value=-1)
        self.scale = fitted


def _visit_block(
    columns: list[tuple[Tensor, ...]], residual: Tensor, h: Tensor, moved: Tensor
) -> None:
    """One column after the other; integers change in place, moves are written down."""
    own, moves, inner = residual.unbind(1), moved.unbind(1), h.unsqueeze(-1)
    for i, (k, pull, scale, low, high) in enumerate(columns):
        new = round_half_even(torch.addcmul(k, own[i], pull)).clamp_(low, high)
        torch.sub(new, k, out=moves[i])
        moves[i].mul_(scale)
        k.copy_(new)
        rest = residual[:, i + 1 :]
        rest.addcmul_(inner[:, i + 1 :, i], moves[i].unsqueeze(1), value=-1)


@dataclass(frozen=True, eq=False)
class Successive:
    """Round one column after the other, each error made good by the columns still free.

    Equation: from the unconstrained optimum w* = c H^-1, with H = R R^T (R upper, the Cholesky
    factor of H with its columns in reverse order): k_j = clamp(round(w_j / s)), then
    w_i <- w_i - (s k_j - w*_j) R_ji / R_ii for all i > j, the best that column i can do once those
    before it are settled. GPTQ writes the same with the inverse of R, which is not needed.
    Reference: Frantar et al., arXiv 2210.17323 (GPTQ), here towards the float target of a
    quantised input; Babai 1986, the nearest plane. A good place to start the descent from.

    Attributes:
        optimum: w* [G, C, N].
        reach: R_ji / R_ii [G, N, N], row by row.
    """

    optimum: Tensor
    reach: Tensor

    @classmethod
    def of(cls, problem: Quadratic) -> Successive:
        """Factor the matrix: N^3 / 3 operations."""
        factor = _factor(problem.h.double().flip(-2, -1))
        turned = problem.c.double().mT.flip(-2)
        optimum = torch.cholesky_solve(turned, factor).flip(-2).mT
        reach = factor.flip(-2, -1) / factor.diagonal(dim1=-2, dim2=-1).flip(-1).unsqueeze(-2)
        return cls(optimum.float().contiguous(), reach.float().contiguous())

    def rounded(self, steps: Steps) -> Steps:
        """On the grids of these steps."""
        if steps.k.device.type != "cpu":
            return self.rounded_at_once(steps)
        rows = _as_rows(steps, self.optimum.clone(), self.optimum.clone())
        reach, every = self.reach.numpy(), np.arange(rows.k.shape[0], dtype=np.uintp)
        share_out(lambda own: round_rows(reach, rows, own), _split_rows(every))
        return replace(steps, k=torch.from_numpy(rows.k).view_as(self.optimum))

    def rounded_at_once(self, steps: Steps) -> Steps:
        """By operations of torch, on any device."""
        size, optimum = self.reach.shape[-1], self.optimum.mT.contiguous()
        w = optimum.clone()
        scale, low, high = (
            v.mT.expand(-1, size, -1).contiguous().unbind(1)
            for v in (steps.scale, steps.low, steps.high)
        )
        ratios = self.reach.unsqueeze(-1)
        k = torch.empty_like(w)
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            part, errors = w[:, start:stop], torch.empty_like(w[:, start:stop])
            for i in range(stop - start):
                j = start + i
                own = part[:, i]
                whole = round_half_even(own / scale[j]).clamp_(low[j], high[j])
                error = whole * scale[j] - optimum[:, j]
                part[:, i + 1 :].addcmul_(ratios[:, j, j + 1 : stop], error.unsqueeze(1), value=-1)
                k[:, j], errors[:, i] = whole, error
            w[:, stop:].baddbmm_(ratios[:, start:stop, stop:, 0].mT, errors, alpha=-1)
        return replace(steps, k=k.mT.contiguous())


def _factor(h: Tensor) -> Tensor:
    """Lower Cholesky factor; of a matrix that rounding left indefinite, with a larger diagonal."""
    mean = h.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-20)[:, None, None]
    eye = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
    factor = eye
    for damp in DAMPS:
        factor, failed = torch.linalg.cholesky_ex(h + damp * mean * eye)
        if not failed.any():
            break
    return factor
