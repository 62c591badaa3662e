"""Solutions through the store: bit for bit."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from bitwright.engine.store import Store
from bitwright.methods.problem import UnitSolution
from bitwright.methods.stored import from_entry, to_entry
from bitwright.numerics.affine import QParams
from bitwright.numerics.grid import Grid

LAST = torch.channels_last


def qparams(shape, bits=4, signed=False):
    zero = torch.randint(0, 7, shape, dtype=torch.int32)
    return QParams(Grid(bits, signed), torch.rand(shape) + 0.1, zero)


def weight(*shape, dtype=torch.uint8):
    return torch.randint(0, 7, shape).to(dtype)


SOLUTIONS = {
    "linear": UnitSolution(weight(3, 4), qparams((3, 1)), torch.randn(3), (qparams((), 8),),
                           "quadratic", 0.1, None, 0.3, 1e-300),
    "channels last": UnitSolution(weight(8, 3, 3, 3).to(memory_format=LAST), qparams((8, 1, 1, 1)),
                                  None, (None,), "nearest", 0.0),
    "depthwise": UnitSolution(weight(4, 1, 3, 3).to(memory_format=LAST), qparams(()),
                              torch.randn(4), (qparams((), 8), None, qparams((), 4)), "adaquant",
                              float("inf"), "no data", 0.1 + 0.2, 5e-324),
    "1x1": UnitSolution(weight(4, 8, 1, 1).to(memory_format=LAST), qparams((4, 1, 1, 1)), None,
                        (), "nearest", 1.0),
    "16 bits": UnitSolution(weight(2, 2, dtype=torch.uint16), qparams((2, 1), 16), None,
                            (qparams((), 16, True),), "nearest", 0.5, ""),
}  # fmt: skip


def alike(a, b):
    if isinstance(a, torch.Tensor):
        bits = a.contiguous().view(torch.uint8) if a.dim() else a.reshape(1).view(torch.uint8)
        other = b.contiguous().view(torch.uint8) if b.dim() else b.reshape(1).view(torch.uint8)
        return (a.dtype, a.stride()) == (b.dtype, b.stride()) and torch.equal(bits, other)
    if isinstance(a, QParams):
        return a.grid == b.grid and alike(a.scale, b.scale) and alike(a.zero_point, b.zero_point)
    if isinstance(a, tuple):
        return type(b) is tuple and len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("name", SOLUTIONS)
def test_solutions_come_back_bit_for_bit(tmp_path, name):
    solution = SOLUTIONS[name]
    store = Store(tmp_path)
    store.put("ab" * 8, *to_entry(solution))
    entry = store.get("ab" * 8)
    assert entry is not None
    found = from_entry(*entry)
    for field in fields(UnitSolution):
        assert alike(getattr(solution, field.name), getattr(found, field.name)), field.name
    if solution.q.dim() == 4:
        assert found.q.is_contiguous(memory_format=LAST)


def test_what_cannot_be_stored_is_named():
    with pytest.raises(TypeError, match=r"solution.method is a object, which the store cannot"):
        to_entry(replace(SOLUTIONS["linear"], method=object()))
