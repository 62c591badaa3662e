"""Passes over a loader that are all the same: fixed where that can be done, else noticed.

A run goes over its data several times and compares what it finds. Every training script has a
DataLoader that shuffles; its order is drawn from a fixed seed here, anew in every pass, so nothing
is held in memory but the order itself. What still changes between passes is found batch by batch.
"""

from __future__ import annotations

import copy
import random
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from bitwright.errors import DataError

SEED = 0
_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_END = object()


# ---- the same order --------------------------------------------------------------------------


class FixedOrder(Sampler[Any]):
    """A random sampler that draws the same order in every pass."""

    def __init__(self, sampler: Sampler[Any]) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        """The order that the sampler draws from the fixed seed."""
        again: Any = copy.copy(self.sampler)
        again.generator = torch.Generator().manual_seed(SEED)
        return iter(again)

    def __len__(self) -> int:
        """As many as the sampler draws."""
        return len(self.sampler)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Repeated:
    """A DataLoader that shuffles, walked so that every pass gives the same samples.

    The user's loader is left as it is, and so are the global generators of random numbers, which
    shuffling and augmentation draw from: a pass has a state of its own, from the same seed.
    """

    loader: DataLoader[Any]

    def __iter__(self) -> Iterator[object]:
        """A new pass."""
        return _draw(lambda: iter(self._fix()))

    def _fix(self) -> DataLoader[Any]:
        again = copy.copy(self.loader)
        batches: Any = copy.copy(again.batch_sampler)
        if batches is not None and shuffles(getattr(batches, "sampler", None)):
            batches.sampler = FixedOrder(batches.sampler)
        own: Any = again.sampler
        own = FixedOrder(own) if shuffles(own) else own
        # A DataLoader refuses new samplers by its own __setattr__; this is a copy of ours.
        vars(again).update(
            sampler=own,
            batch_sampler=batches,
            generator=torch.Generator().manual_seed(SEED),
            _iterator=None,
        )
        return again


def shuffles(sampler: object) -> bool:
    """Whether a sampler draws its order at random from a generator."""
    return isinstance(sampler, _RANDOM)


def repeat_passes(loader: object) -> tuple[object, str]:
    """A loader whose passes are the same, and what the user should know; "" for nothing."""
    if not isinstance(loader, DataLoader):
        return loader, ""
    within = getattr(loader.batch_sampler, "sampler", None)
    if not shuffles(loader.sampler) and not shuffles(within):
        return loader, ""
    return Repeated(loader), (
        "a DataLoader that shuffles: every pass takes the order, and the augmentation, of the seed "
        f"{SEED}, so that all passes see the same samples. Make it with shuffle=False to take the "
        "first samples as they lie."
    )


def _draw(start: Callable[[], Iterator[object]]) -> Iterator[object]:
    """The items of a pass, drawn under random states of its own that start from the seed."""
    items: Iterator[object] | None = None
    inside: Any = None
    while True:
        outside = _states()
        try:
            if items is None:
                _seed()
                items = start()
            else:
                _restore(inside)
            item = next(items, _END)
            inside = _states()
        finally:
            _restore(outside)
        if item is _END:
            return
        yield item


def _seed() -> None:
    torch.default_generator.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


def _states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


# ---- what changes all the same ---------------------------------------------------------------


class Passes:
    """What every batch of the passes so far was, at four bytes a batch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._marks = array("I")
        self._total = -1  # not known before a pass went to the end

    def check(self, number: int, mark: int) -> None:
        """Take note of a batch, or compare it with the batch of that number before.

        Raises:
            DataError: it is another one.
        """
        if number == len(self._marks) and self._total < 0:
            self._marks.append(mark)
        elif number >= len(self._marks) or self._marks[number] != mark:
            raise DataError(
                f"{self.name} gives other samples on a later pass than on its first, from batch "
                f"{number} on. Turn off shuffling and random augmentation, or fix their seed in "
                "every pass."
            )

    def end(self, count: int) -> None:
        """Take note of the end of a pass.

        Raises:
            DataError: an earlier pass gave more.
        """
        if count < len(self._marks) and not count:
            raise DataError(
                f"{self.name} gave samples on its first pass but none on a later one. Return "
                "something that can be walked again: a list, a DataLoader or an object whose "
                "__iter__ starts afresh."
            )
        if count < len(self._marks):
            raise DataError(
                f"{self.name} gave {len(self._marks)} batches on an earlier pass but {count} on a "
                "later one. Every pass must give the same samples."
            )
        self._total = count
