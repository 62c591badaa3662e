from __future__ import annotations

import pytest
import torch

from bitwright.errors import RecipeError
from bitwright.numerics.grid import WIDTHS, Grid


@pytest.mark.parametrize("bits", (*WIDTHS, 9, 12, 15))
@pytest.mark.parametrize("signed", [False, True])
def test_the_container_holds_the_ends(bits, signed):
    grid = Grid(bits, signed)
    assert grid.qmax - grid.qmin + 1 == grid.levels == 2**bits
    info = torch.iinfo(grid.dtype)
    assert info.min <= grid.qmin and grid.qmax <= info.max
    assert (info.bits, info.min < 0) == (16 if bits > 8 else 8, signed)


def test_the_ends_are_those_of_twos_complement():
    assert (Grid(4).qmin, Grid(4).qmax) == (0, 15)
    assert (Grid(4, True).qmin, Grid(4, True).qmax) == (-8, 7)


@pytest.mark.parametrize("bits", [0, 1, 17, 32, -4, True, 4.5])
def test_other_widths_are_refused(bits):
    with pytest.raises(RecipeError, match=rf"bits={bits!r} in Grid: use a whole number from 2 to"):
        Grid(bits)
