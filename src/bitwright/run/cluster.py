"""Workers on a Ray cluster: as many as it has processors, one job in each."""

from __future__ import annotations

import importlib
import socket
from typing import Any

from bitwright.errors import ClusterError, WorkerError
from bitwright.run.memory import keep_heap
from bitwright.run.task import Outcome, Task, perform
from bitwright.run.wire import Message, decode, encode, from_bytes, to_bytes

_PATIENCE_S = 10.0


class RayCrew:
    """One Ray actor a processor; the shared value goes into Ray's object store once.

    Args:
        task: what all jobs have in common.
        address: of a running cluster; None for one on this machine, which ends with the crew.

    Raises:
        ClusterError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, task: Message, address: str | None) -> None:
        self._ray = _import_ray()
        self._own = not self._ray.is_initialized()
        if self._own:
            _connect(self._ray, address)
        self.size = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._task = self._ray.put(to_bytes(task))
        self._worker = self._ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._all: list[Any] = []
        self._idle: list[Any] = []
        self._jobs: dict[Any, tuple[int, str, Any]] = {}

    def give(self, index: int, name: str, item: Any) -> None:
        """Hand a job to an idle worker, or to a new one."""
        content = to_bytes(encode(item))
        if not self._idle:
            self._idle.append(self._worker.remote(self._task))
            self._all += self._idle
        worker = self._idle.pop()
        self._jobs[worker.perform.remote(content)] = (index, name, worker)

    def take(self) -> tuple[int, Outcome]:
        """Wait for the next job to be done."""
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1)
        index, name, worker = self._jobs.pop(ready[0])
        try:
            content = self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"the Ray worker of {name} died ({type(error).__name__}). Run it again, with "
                "--workers 1 where its memory is short; what is stored is not computed again."
            ) from error
        self._idle.append(worker)
        outcome = decode(from_bytes(content))
        assert isinstance(outcome, Outcome)
        return index, outcome

    def close(self, finished: bool) -> None:  # noqa: ARG002 - actors hold nothing worth waiting for
        """Kill the workers; a cluster of our own ends, and with it its processes."""
        for worker in self._all:
            self._ray.kill(worker)
        if self._own:
            self._ray.shutdown()


class _Worker:
    """What runs in one actor."""

    def __init__(self, task: bytes) -> None:
        keep_heap()
        self._message = from_bytes(task)
        self._task: Task | None = None

    def perform(self, content: bytes) -> bytes:
        """Do one job."""
        return to_bytes(perform(self._ready, from_bytes(content)))

    def _ready(self) -> Task:
        # Not in the constructor: what goes wrong here is told as the outcome of a job.
        if self._task is None:
            self._task = decode(self._message)
            self._task.settings.apply()
        return self._task


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError(
            "--workers asks for Ray, which is not installed. Install it with "
            "pip install 'bitwright[cluster]', or give a number of local processes."
        ) from error


def _connect(ray: Any, address: str | None) -> None:
    try:
        if address is not None and ":" in address:
            # Ray itself tries for minutes.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
        ray.init(
            address=address, log_to_driver=False, include_dashboard=None, logging_level="ERROR"
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address or 'this machine'} ({error}). Start one with "
            "'ray start --head', or give a number of local processes to --workers."
        ) from error
