"""Jobs that workers import by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from bitwright.errors import DataError


def product(shared, item):
    """Sums whose last bits depend on the number of threads."""
    return {"out": shared["a"] @ item["b"], "at": item["at"], "threads": torch.get_num_threads()}


def slow_first(shared, item):
    time.sleep(0.3 if item == 0 else 0.01)
    return item


def ours(shared, item):
    if item == 2:
        raise DataError("the rows are not finite")
    return item


def named_ours(shared, item):
    raise DataError(f"unit {item} is no good")


class Awkward(Exception):
    """Pickles, but cannot be made again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def theirs(shared, item):
    if item == 1:
        raise ZeroDivisionError("one by nought")
    return item


def awkward(shared, item):
    raise Awkward(1, 2)


def killed(shared, item):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return item


def leaves(shared, item):
    os._exit(3)


def sleeps(shared, item):
    """Leave the worker's id, then work for ever."""
    (Path(shared) / f"{os.getpid()}.pid").touch()
    time.sleep(600)


def alters(shared, item):
    """Write to the shared tensor: no other worker must see it."""
    shared.add_(1)
    time.sleep(0.1)
    return float(shared[0])


def settings(shared, item):
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()


def echo(shared, item):
    return item


def unpicklable(shared, item):
    return lambda: None


def process(shared, item):
    time.sleep(0.05)
    return os.getpid()


def waits_for_all(shared, item):
    """Done only when as many jobs run at once as `shared` says."""
    folder, count = shared
    (Path(folder) / f"{item}.here").touch()
    end = time.monotonic() + 20
    while len(list(Path(folder).glob("*.here"))) < count:
        assert time.monotonic() < end
        time.sleep(0.005)
    return item


def slow_product(shared, item):
    time.sleep(1.0)
    return product(shared, item)
