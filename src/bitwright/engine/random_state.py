"""The caller's global random state, which no call of ours changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random(device: str = "cpu") -> Iterator[None]:
    """Whatever is seeded and drawn inside, torch's global generators are afterwards as before.

    Args:
        device: the run's; of the generators of accelerators only its own is looked at.
    """
    kind, _, number = device.partition(":")
    if kind == "mps" and torch.backends.mps.is_available():
        before = torch.mps.get_rng_state()
        try:
            with torch.random.fork_rng(devices=()):
                yield
        finally:
            torch.mps.set_rng_state(before)
        return
    cuda = kind == "cuda" and torch.cuda.is_available()
    with torch.random.fork_rng(devices=(int(number or 0),) if cuda else ()):
        yield


def seed_all(seed: int, device: str = "cpu") -> None:
    """Seed the generators that a run on a device may draw from, and no others.

    `torch.manual_seed` would seed those of all accelerators, once they are first used.
    """
    torch.default_generator.manual_seed(seed)
    kind, _, number = device.partition(":")
    if kind == "cuda" and torch.cuda.is_available():
        with torch.cuda.device(int(number or 0)):
            torch.cuda.manual_seed(seed)
    elif kind == "mps" and torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
