"""The moves of `numerics.coordinate` as compiled loops, row by row (a row is an output channel).

A column that does not move costs one comparison, and a row's residual stays in the cache. Rows are
independent: which of them share a call, and on which thread, changes no bit. They share one so that
the matrix, which may be larger than the cache, is read once for all of them: the moves of a block
of columns are collected, and then all other columns hear of them.

numba compiles at the first call, which takes two seconds, and keeps the machine code beside this
file, in NUMBA_CACHE_DIR or in the user's cache folder: where it may write. Where it may nowhere,
every process compiles anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

# Columns whose moves are collected, and columns that hear of them at once: such a piece of the
# matrix, 256 KB, stays in the second cache.
BLOCK = np.uintp(128)
PANEL = np.uintp(512)
# Rows of a call whose moves are collected together; what they need beside their own is small.
TILE = 512
FOUR, ONE, NONE = np.uintp(4), np.uintp(1), np.uintp(0)

Reals = NDArray[np.float32]
Index = NDArray[np.uint64]
Ends = tuple[Any, Any]
Loop = TypeVar("Loop", bound=Callable[..., Any])


class Rows(NamedTuple):
    """Rows of all groups, one below the other; changed in place.

    k [R, N] are the integers; rest [R, N] is the residual c - w H of a descent, or the real weights
    still to be rounded; scale and bounds are [R, 1], or [R, N] where a row has several grids.
    """

    k: Reals
    rest: Reals
    scale: Reals
    low: Reals
    high: Reals


class Moves(NamedTuple):
    """What rows moved within a block of columns: how many columns, which, and by how much."""

    counts: Index
    column: Index
    by: Reals


def compile_loop(function: Loop) -> Loop:
    """Compile at the first call, without the interpreter's lock, once for all processes.

    A product and its sum are one operation where the processor has it. No sum is reordered, so
    where a row lies in memory changes no bit.
    """
    options = {"nogil": True, "fastmath": {"contract"}}
    try:
        made: Loop = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that may be written
        made = numba.njit(**options)(function)
    return made


@compile_loop
def visit_rows(matrices: Reals, rows: Rows, chosen: Index, gains: NDArray[np.float64]) -> None:
    """Every coordinate of the chosen rows once, and what the objective gained.

    Equation: k_j <- clamp(round(k_j + r_j / (H_jj s))), r <- r - d H_j with d what w_j moved by,
    which gains 2 d r_j - d^2 H_jj.
    """
    size = np.uintp(matrices.shape[1])
    group = rows.k.shape[0] // matrices.shape[0]
    moves = _make_moves(chosen.size, rows.k)
    first = 0
    while first < chosen.size:
        last = _find_end(chosen, first, group)
        matrix = matrices[chosen[first] // np.uintp(group)]
        own = chosen[first:last]
        for start in range(NONE, size, BLOCK):
            stop = min(start + BLOCK, size)
            for t in range(np.uintp(own.size)):
                gains[first + t] += _visit_block(matrix, rows, own[t], (start, stop), moves, t)
            _reach_all(matrix, rows, own, moves, (NONE, start))
            _reach_all(matrix, rows, own, moves, (stop, size))
        first = last


@compile_loop
def round_rows(matrices: Reals, rows: Rows, chosen: Index) -> None:
    """Round one column after the other, each error made good by the columns behind it.

    Equation: k_j = clamp(round(w_j / s)), then w_i <- w_i - (s k_j - w*_j) M_ji for all i > j.
    In place of the integers stands the optimum w* at first.
    """
    size = np.uintp(matrices.shape[1])
    group = rows.k.shape[0] // matrices.shape[0]
    moves = _make_moves(chosen.size, rows.k)
    first = 0
    while first < chosen.size:
        last = _find_end(chosen, first, group)
        matrix = matrices[chosen[first] // np.uintp(group)]
        own = chosen[first:last]
        for start in range(NONE, size, BLOCK):
            stop = min(start + BLOCK, size)
            for t in range(np.uintp(own.size)):
                _round_block(matrix, rows, own[t], (start, stop), moves, t)
            _reach_all(matrix, rows, own, moves, (stop, size))
        first = last


@compile_loop
def fit_scales(rows: Rows, targets: Reals, chosen: Index, gains: NDArray[np.float64]) -> None:
    """The best scale of each chosen row, which has one grid, and what the objective gained.

    Equation: s = k c^T / k H k^T, where H k^T = (c - r)^T / s; the gain is (s' - s)^2 k H k^T.
    """
    for t in range(chosen.size):
        row = chosen[t]
        k, rest, target, scale = rows.k[row], rows.rest[row], targets[row], rows.scale[row, 0]
        top, bottom = 0.0, 0.0
        for j in range(np.uintp(k.size)):
            top += np.float64(k[j]) * target[j]
            bottom += np.float64(k[j]) * (target[j] - rest[j])
        bottom /= scale
        fitted = np.float32(top / max(bottom, 1e-30))
        if bottom > 0 and 0.5 * scale < fitted < 2 * scale:
            factor = fitted / scale
            for j in range(np.uintp(k.size)):
                rest[j] = target[j] - (target[j] - rest[j]) * factor
            rows.scale[row, 0] = fitted
            gains[t] += (np.float64(fitted) - scale) ** 2 * bottom


@compile_loop
def _visit_block(matrix: Reals, rows: Rows, row: int, ends: Ends, moves: Moves, t: int) -> float:
    """The columns of a block, which hear of each other at once; their moves are written down."""
    start, stop = ends
    k, rest, scales = rows.k[row], rows.rest[row], rows.scale[row]
    several = scales.size > 1
    scale, low, high = scales[0], rows.low[row, 0], rows.high[row, 0]
    count, gain = NONE, 0.0
    for j in range(start, stop):
        if several:
            scale, low, high = scales[j], rows.low[row, j], rows.high[row, j]
        # numerics.affine.round_half_even, where that cannot be called.
        pull = np.float32(1) / (max(matrix[j, j], np.float32(1e-20)) * scale)
        new = min(max(np.rint(k[j] + rest[j] * pull), low), high)
        if new != k[j]:
            by = (new - k[j]) * scale
            gain += np.float64(by) * (2 * np.float64(rest[j]) - np.float64(by) * matrix[j, j])
            k[j] = new
            for p in range(start, stop):
                rest[p] -= by * matrix[j, p]
            moves.column[t, count], moves.by[t, count] = j, by
            count += ONE
    moves.counts[t] = count
    return gain


@compile_loop
def _round_block(matrix: Reals, rows: Rows, row: int, ends: Ends, moves: Moves, t: int) -> None:
    """The columns of a block; their errors are written down."""
    start, stop = ends
    k, rest, scales = rows.k[row], rows.rest[row], rows.scale[row]
    several = scales.size > 1
    scale, low, high = scales[0], rows.low[row, 0], rows.high[row, 0]
    for j in range(start, stop):
        if several:
            scale, low, high = scales[j], rows.low[row, j], rows.high[row, j]
        whole = min(max(np.rint(rest[j] / scale), low), high)
        by = whole * scale - k[j]
        k[j] = whole
        for p in range(j + ONE, stop):
            rest[p] -= by * matrix[j, p]
        moves.column[t, j - start], moves.by[t, j - start] = j, by
    moves.counts[t] = stop - start


@compile_loop
def _reach_all(matrix: Reals, rows: Rows, own: Index, moves: Moves, ends: Ends) -> None:
    """The columns between the ends hear of the moves: rest -= by matrix, panel by panel."""
    first, stop = ends
    for start in range(first, stop, PANEL):
        end = min(start + PANEL, stop)
        for t in range(np.uintp(own.size)):
            _reach(matrix, rows.rest[own[t]], moves, t, (start, end))


@compile_loop
def _reach(matrix: Reals, rest: Reals, moves: Moves, t: int, ends: Ends) -> None:
    """One row's; four moves at once, so that the row is read and written less often."""
    start, stop = ends
    count, column, by = moves.counts[t], moves.column[t], moves.by[t]
    fours = count - count % FOUR
    for m in range(NONE, fours, FOUR):
        h, i, j, k = column[m], column[m + ONE], column[m + ONE + ONE], column[m + FOUR - ONE]
        a, b, c, d = by[m], by[m + ONE], by[m + ONE + ONE], by[m + FOUR - ONE]
        for p in range(start, stop):
            near = rest[p] - a * matrix[h, p] - b * matrix[i, p]
            rest[p] = near - c * matrix[j, p] - d * matrix[k, p]
    for m in range(fours, count):
        i, a = column[m], by[m]
        for p in range(start, stop):
            rest[p] -= a * matrix[i, p]


@compile_loop
def _find_end(chosen: Index, first: int, group: int) -> int:
    """Behind the rows from `first` on that have one matrix."""
    last = first + 1
    while last < min(chosen.size, first + TILE) and chosen[last] // group == chosen[first] // group:
        last += 1
    return last


@compile_loop
def _make_moves(rows: int, like: Reals) -> Moves:
    """Room for the moves of so many rows."""
    tile, block = min(rows, TILE), np.int64(BLOCK)
    return Moves(
        np.zeros(tile, np.uintp),
        np.zeros((tile, block), np.uintp),
        np.zeros((tile, block), like.dtype),
    )
