"""The compiled loops against the same moves in operations of torch, and row against row."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.engine.threads import use_threads
from bitwright.numerics import coordinate_loop as loop
from bitwright.numerics.coordinate import Effort, Steps, Successive, descend, descend_at_once
from bitwright.numerics.gram import Gram, Quadratic, centre_gram
from networks import normal


def whole_problem(seed, groups, outputs, inputs):
    """Sums of small integers: float32 holds all that a descent computes, in any order of sums."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (groups, 3 * inputs, inputs), generator=generator).float()
    w = torch.randint(-9, 10, (groups, outputs, inputs), generator=generator).float()
    h = x.mT @ x
    zero = torch.zeros(groups, outputs)
    constant = ((w @ h) * w).sum(-1).double()
    return Quadratic(h, w @ h, constant, torch.zeros(groups, inputs), zero, 1), w


def steps_of(w, scale, bits, grids=1):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    s = torch.full((*w.shape[:2], grids), scale)
    k = (w / scale).round().clamp(low, high)
    return Steps(k, s, torch.full_like(s, low), torch.full_like(s, high))


def real_problem(seed=0, groups=1, outputs=6, inputs=40):
    x = normal(groups, 4 * inputs, inputs, seed=seed) @ normal(inputs, inputs, seed=seed + 1)
    w = normal(groups, outputs, inputs, seed=seed + 2)
    return centre_gram(Gram.of(x, x @ w.mT)), w


def same(one, other):
    return torch.equal(one.k, other.k) and torch.equal(one.scale, other.scale)


@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 40),
    st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    st.sampled_from([2, 3, 4]),
)
def test_the_loops_give_the_integers_of_torch(seed, groups, outputs, inputs, scale, bits):
    """Where every sum is exact the order of sums is no excuse: equal, bit for bit."""
    problem, w = whole_problem(seed, groups, outputs, inputs)
    start = steps_of(w, scale, bits)
    found, loss = descend(problem, start, False, Effort(30, 0.0))
    other, stated = descend_at_once(problem, start, False, Effort(30, 0.0))
    assert same(found, other)
    assert torch.equal(loss, stated)


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 7, 300), (3, 2, 40), (40, 1, 9)])
@pytest.mark.parametrize("grids", [1, None])
def test_the_loops_give_what_torch_gives_on_real_sums(groups, outputs, inputs, grids):
    """Over the edges of blocks and panels, scales fitted, or several grids in a row."""
    problem, w = real_problem(1, groups, outputs, inputs)
    start = steps_of(w, 0.37, 3, grids or inputs)
    found, loss = descend(problem, start, True, Effort(30, 1e-4))
    other, stated = descend_at_once(problem, start, True, Effort(30, 1e-4))
    assert torch.equal(found.k, other.k)
    assert torch.allclose(found.scale, other.scale, rtol=1e-5)
    assert torch.allclose(loss, stated, rtol=1e-3, atol=1e-5 * float(stated.max()))
    rounding = Successive.of(problem)
    assert same(rounding.rounded(start), rounding.rounded_at_once(start))


def test_nothing_that_is_given_is_written_to():
    problem, w = real_problem(4)
    start, rounding = steps_of(w, 0.4, 3), Successive.of(problem)
    values = [start.k, start.scale, problem.h, problem.c, rounding.optimum, rounding.reach]
    before = [v.clone() for v in values]
    descend(problem, start, True, Effort())
    rounding.rounded(start)
    assert all(torch.equal(v, b) for v, b in zip(values, before, strict=True))


@pytest.mark.parametrize(("groups", "outputs"), [(1, 600), (5, 3)])
def test_a_row_alone_is_that_row_among_others(groups, outputs):
    """More rows than a tile has, and groups: the same bits as each row by itself."""
    problem, w = real_problem(2, groups, outputs, 20)
    start = steps_of(w, 0.4, 4)
    matrices, every = problem.h.numpy(), np.arange(groups * outputs, dtype=np.uintp)

    def visited(parts):
        values = (start.k, problem.c - start.weight @ problem.h, start.scale, start.low, start.high)
        rows = loop.Rows(*(v.clone().flatten(0, 1).numpy() for v in values))
        gains = np.zeros(every.size)
        for part in parts:
            own = np.zeros(part.size)
            loop.visit_rows(matrices, rows, part, own)
            gains[part] = own
        return rows.k.tobytes(), rows.rest.tobytes(), gains.tobytes()

    whole = visited([every])
    assert whole == visited([every[i : i + 1] for i in every[::-1]])
    assert whole == visited([every[::2], every[1::2]])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_threads_change_no_bit(count):
    problem, w = real_problem(3, 1, 50, 30)
    start = steps_of(w, 0.4, 4)
    with use_threads(count):
        found, loss = descend(problem, start, True, Effort())
        rounded = Successive.of(problem).rounded(start)
    alone, stated = descend(problem, start, True, Effort())
    assert same(found, alone) and torch.equal(loss, stated)
    assert same(rounded, Successive.of(problem).rounded(start))


READS = """
import numpy as np
from bitwright.numerics import coordinate_loop as loop
one = np.ones((1, 1), np.float32)
rows = loop.Rows(0 * one, 5 * one, one, -8 * one, 7 * one)
gains = np.zeros(1)
loop.visit_rows(one[None], rows, np.zeros(1, np.uintp), gains)
print(int(rows.k[0, 0]), float(gains[0]), sum(loop.visit_rows.stats.cache_hits.values()))
"""


def test_what_was_compiled_is_read_by_the_next_process(tmp_path):
    def run(**more):
        done = subprocess.run(
            [sys.executable, "-c", READS],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    folder = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run(**folder) == ["5", "25.0", "0"]
    assert run(**folder) == ["5", "25.0", "1"]
    # Nowhere to write: only a folder in a zip file would do, which this is not.
    assert run(NUMBA_CACHE_LOCATOR_CLASSES="ZipCacheLocator") == ["5", "25.0", "0"]
