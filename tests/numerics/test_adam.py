"""Adam in place, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from bitwright.numerics.adam import Adam
from networks import normal


@pytest.mark.parametrize("rate", [0.03, torch.tensor([[0.1, 0.0, 0.02]])], ids=["one", "each"])
def test_it_takes_the_steps_of_pytorchs(rate):
    ours = normal(4, 3, seed=1)
    theirs = [ours[:, i].clone().requires_grad_() for i in range(3)]
    rates = [rate] * 3 if isinstance(rate, float) else rate[0].tolist()
    adam = Adam(ours)
    other = torch.optim.Adam([{"params": [t], "lr": r} for t, r in zip(theirs, rates, strict=True)])
    for step in range(20):
        grad = normal(4, 3, seed=10 + step) * 10.0 ** (step % 4 - 2)
        before = grad.clone()
        adam.step(grad, rate)
        assert torch.equal(grad, before)
        for i, one in enumerate(theirs):
            one.grad = grad[:, i].clone()
        other.step()
    want = torch.stack([t.detach() for t in theirs], 1)
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-6)
