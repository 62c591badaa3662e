"""The integer grid that a quantised tensor lives on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitwright.errors import RecipeError

if TYPE_CHECKING:
    import torch

# What is stored; a sum of several low-bit tensors has a grid of any width up to the widest.
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16)
WIDEST = 16


@dataclass(frozen=True)
class Grid:
    """All integers of `bits` bits, signed (two's complement) or not.

    Equation: [0, 2^bits - 1], or [-2^(bits-1), 2^(bits-1) - 1] when signed; `narrow` leaves out the
    least, so that a signed grid is the same on both sides of zero.
    Reference: Jacob et al., arXiv 1712.05877, section 2.1.
    """

    bits: int
    signed: bool = False
    narrow: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(2, WIDEST + 1):
            raise RecipeError(f"bits={self.bits!r} in Grid: use a whole number from 2 to {WIDEST}.")

    @property
    def qmin(self) -> int:
        """The least integer."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def qmax(self) -> int:
        """The greatest integer."""
        return self.qmin + self.levels - 1

    @property
    def levels(self) -> int:
        """How many integers there are: 2^bits, less the one that a narrow grid leaves out."""
        return (1 << self.bits) - self.narrow

    @property
    def dtype(self) -> torch.dtype:
        """The least torch dtype that holds the grid: one byte up to 8 bits, two bytes beyond."""
        # Here, not above: recipes and targets are checked without torch.
        import torch

        if self.bits > 8:
            return torch.int16 if self.signed else torch.uint16
        return torch.int8 if self.signed else torch.uint8
