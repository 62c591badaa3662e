"""A call of the library leaves the process as it was: random state, settings of malloc."""

import random
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import bitwright as bw
from bitwright.cli import edge
from bitwright.engine import memory
from bitwright.engine.random_state import own_random, seed_all
from networks import seeded


def network():
    return seeded(lambda: torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 4))).eval()


def states():
    numbers = np.random.get_state()[1].tolist()
    return torch.get_rng_state().tolist(), numbers, random.getstate()


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_random_state_is_as_before(shuffle, tmp_path):
    """A DataLoader draws from the global generator in every pass."""
    loader = DataLoader(TensorDataset(torch.randn(24, 8)), batch_size=8, shuffle=shuffle)
    torch.manual_seed(5)
    random.seed(6)
    np.random.seed(7)
    before = states()
    result = bw.quantize(network(), loader, recipe="fixed", scheme="w4a8", tune="bias-empirical")
    assert states() == before
    run = result.save(tmp_path / "run")
    assert states() == before
    result.with_bits({"0": "w8a8"})
    assert states() == before
    bw.load(run.path, model=network())
    assert states() == before


def test_an_error_leaves_it_too():
    before = torch.get_rng_state()
    with pytest.raises(bw.InputError, match=r"empty|no sample"):
        bw.quantize(network(), [], recipe="fixed", scheme="w4a8")
    assert torch.equal(torch.get_rng_state(), before)


def test_inside_draws_follow_the_seed():
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with own_random():
            seed_all(3)
            drawn.append(torch.rand(4))
    assert torch.equal(*drawn) and torch.equal(torch.get_rng_state(), before)


def test_malloc_is_set_by_the_command_alone(monkeypatch):
    asked = []

    class Library:
        def mallopt(self, *setting):
            asked.append(setting)
            return 1

    monkeypatch.setattr(memory, "_library", Library)
    monkeypatch.setattr(memory, "ask_large_pages", lambda: True)
    monkeypatch.setattr(memory, "trim_heap", lambda: None)
    bw.quantize(network(), [torch.randn(8, 8)], recipe="fixed", scheme="w4a8")
    assert not asked
    monkeypatch.setattr(sys, "argv", ["bitwright", "list", "targets"])
    with pytest.raises(SystemExit):
        edge.run()
    assert asked
