"""Adam without a graph of operations: the moments and the tensor that it moves, all in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8


class Adam:
    """The optimiser of one tensor, whose gradient the caller has in closed form.

    Equation: m <- b1 m + (1 - b1) g, s <- b2 s + (1 - b2) g^2,
    w <- w - rate (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps), as in `torch.optim.Adam`.
    Reference: Kingma and Ba, arXiv 1412.6980, algorithm 1.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._mean, self._square = torch.zeros_like(value), torch.zeros_like(value)
        self._buffer = torch.empty_like(value)
        self._steps = 0

    def step(self, grad: Tensor, rate: float | Tensor) -> None:
        """One step; a rate of each number, or one for all. The gradient is left as it was."""
        self._steps += 1
        first, second = BETAS
        self._mean.lerp_(grad, 1 - first)
        self._square.mul_(second).addcmul_(grad, grad, value=1 - second)
        size = torch.sqrt(self._square, out=self._buffer)
        size.div_(math.sqrt(1 - second**self._steps)).add_(EPS)
        whole = 1 - first**self._steps
        if isinstance(rate, Tensor):
            self.value.addcdiv_(self._mean * rate, size, value=-1 / whole)
        else:
            self.value.addcdiv_(self._mean, size, value=-rate / whole)
