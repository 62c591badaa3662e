"""What a worker does with a job, the same on every kind of worker."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from bitwright.engine.wire import Message, decode, encode
from bitwright.errors import WorkerError


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of torch that change results: a worker computes under its caller's."""

    grad: bool
    dtype: torch.dtype
    matmul: str
    deterministic: bool

    @classmethod
    def current(cls) -> WorkerSettings:
        """Those of this process."""
        return cls(
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
        )

    def apply(self) -> None:
        """Set them in this process, and one thread."""
        torch.set_num_threads(1)
        torch.set_grad_enabled(self.grad)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.matmul)
        # Only where it changes: the call imports torch's compiler, most of a second a worker.
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic)


@dataclass(frozen=True, eq=False)
class WorkerTask:
    """What all jobs of a run have in common."""

    function: Callable[[Any, Any], Any]
    shared: Any
    settings: WorkerSettings


@dataclass(frozen=True, eq=False)
class TaskOutcome:
    """What came of a job: its result, or its error and the worker's traceback."""

    result: Any = None
    error: BaseException | None = None
    trace: str = ""

    def cause(self) -> BaseException | None:
        """The worker's traceback as a cause to raise from."""
        return RemoteTraceback(self.trace) if self.trace else None


class RemoteTraceback(Exception):
    """Where in a worker an error came from."""

    def __str__(self) -> str:
        """The worker's own traceback."""
        return f"\n{self.args[0]}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one torch thread, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def perform(task: Callable[[], WorkerTask], item: Message) -> Message:
    """Do one job; whatever goes wrong becomes an outcome."""
    try:
        ready = task()
        return encode(TaskOutcome(ready.function(ready.shared, decode(item))))
    except Exception as error:  # noqa: BLE001 - told to the caller, who raises it
        return _pack_error(error)


def _pack_error(error: Exception) -> Message:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        # An error whose constructor wants more than its message pickles but does not unpickle, and
        # what then goes wrong is up to that constructor.
        pickle.loads(pickle.dumps(error))  # noqa: S301 - just made here
    except Exception:  # noqa: BLE001 - the failure itself must get through
        error = WorkerError(f"{type(error).__name__}: {error}")
    return encode(TaskOutcome(error=error, trace=trace))
