"""Rows under a budget of bytes: the same rows in the same order, and the budget given back."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.solving.spool import ByteBudget, Spool
from networks import normal

SHAPES = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 5), st.integers(1, 7)), max_size=8)


def filled(shapes, left):
    budget = ByteBudget(left)
    spool = Spool(budget)
    tensors = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    for tensor in tensors:
        spool.add(tensor)
    return budget, spool, tensors


@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, left=st.integers(0, 400))
def test_rows_come_back_in_order_whatever_fits_into_memory(shapes, left):
    budget, spool, tensors = filled(shapes, left)
    assert 0 <= budget.left <= left
    for _ in range(2):  # reading takes nothing away
        found = spool.read()
        assert len(found) == len(tensors)
        assert all(
            a.shape == b.shape and torch.equal(a, b) for a, b in zip(found, tensors, strict=True)
        )
    spool.close()
    assert budget.left == left and spool.read() == []


def test_memory_first_then_disk():
    budget, spool, tensors = filled([(1, 4, 5)] * 5, 170)
    assert budget.left == 10  # two of 80 bytes are held
    assert [isinstance(part, torch.Tensor) for part in spool._parts] == [True, True] + [False] * 3
    # A small one still fits after a large one did not.
    spool.add(torch.ones(1, 1, 2))
    assert budget.left == 2 and isinstance(spool._parts[-1], torch.Tensor)
    assert all(torch.equal(a, b) for a, b in zip(spool.read(), tensors, strict=False))
    assert torch.equal(spool.read()[-1], torch.ones(1, 1, 2))


def test_spools_share_a_budget_and_give_it_back():
    budget = ByteBudget(100)
    first, second = Spool(budget), Spool(budget)
    first.add(torch.ones(1, 1, 20))
    second.add(torch.ones(1, 1, 20))
    assert second._file is not None and budget.left == 20
    first.close()
    third = Spool(budget)
    third.add(torch.ones(1, 1, 25))
    assert third._file is None and budget.left == 0
    assert torch.equal(second.read()[0], torch.ones(1, 1, 20))


def test_the_file_goes_with_the_spool():
    _, spool, _ = filled([(1, 4, 5)], 0)
    file = spool._file
    spool.close()
    assert file.closed and spool._file is None
    spool.close()


def test_rows_that_lie_scattered_in_memory():
    budget = ByteBudget(0)
    spool = Spool(budget)
    wide = normal(2, 6, 8)
    spool.add(wide[:, ::2, 3:5])
    spool.add(wide.transpose(1, 2))
    first, second = spool.read()
    assert torch.equal(first, wide[:, ::2, 3:5]) and torch.equal(second, wide.transpose(1, 2))
