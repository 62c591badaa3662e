"""Workers on a Ray cluster: as many as it has processors, one job in each.

Nodes may go while they work: what they were at is given to the others, and to this process where
the cluster has no processor left. A job is a pure function of what it is given, so who does it in
the end changes no bit. The driver unpickles what the cluster hands it: a cluster is trusted as this
machine is (docs/trust.md).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from dataclasses import dataclass, replace
from typing import Any

from bitwright.engine.address import check_address
from bitwright.engine.memory import keep_heap
from bitwright.engine.task import TaskOutcome, WorkerTask, one_thread, perform
from bitwright.engine.wire import Message, decode, encode, from_bytes, to_bytes
from bitwright.errors import ClusterError, WorkerError

_PATIENCE_S = 10.0
# A job that takes its worker along every time is at fault itself: most likely memory is short.
_MOST_DEATHS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """A job on its way: its number, what to call it, its item as bytes, workers it has outlived."""

    index: int
    name: str
    content: bytes
    deaths: int = 0


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
        self.size = max(1, _processors(self._ray))
        self._message = task
        self._task = self._ray.put(to_bytes(task))
        self._worker = self._ray.remote(num_cpus=1, max_restarts=0)(_Worker)
        self._idle: list[Any] = []
        self._jobs: dict[Any, tuple[_Job, Any]] = {}
        self._lost: list[_Job] = []

    def give(self, index: int, name: str, item: Any) -> None:
        """Hand a job to an idle worker, or to a new one."""
        self._start(_Job(index, name, to_bytes(encode(item))))

    def take(self) -> tuple[int, TaskOutcome]:
        """Wait for the next job to be done; jobs of workers that died are done again.

        Raises:
            WorkerError: a job has taken several workers along.
        """
        while True:
            self._start_lost()
            if not self._jobs:
                return _do_here(self._message, self._lost.pop())
            ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=_PATIENCE_S)
            if not ready:
                self._make_room()
                continue
            job, worker = self._jobs.pop(ready[0])
            try:
                content = self._ray.get(ready[0])
            except self._ray.exceptions.RayError as error:
                self._lose(job, worker, error)
                continue
            self._idle.append(worker)
            outcome = decode(from_bytes(content))
            assert isinstance(outcome, TaskOutcome)
            return job.index, outcome

    def close(self, finished: bool) -> None:  # noqa: ARG002 - actors hold nothing worth waiting for
        """Kill the workers; a cluster of our own ends, and with it its processes."""
        for worker in (*self._idle, *(worker for _, worker in self._jobs.values())):
            _dismiss(self._ray, worker)
        if self._own:
            self._ray.shutdown()

    def _start(self, job: _Job) -> None:
        worker = self._idle.pop() if self._idle else self._worker.remote(self._task)
        self._jobs[worker.perform.remote(job.content)] = (job, worker)

    def _start_lost(self) -> None:
        """Give lost jobs to whoever is free, or to new workers where there is a processor."""
        while self._lost and (self._idle or len(self._jobs) < _processors(self._ray)):
            self._start(self._lost.pop())

    def _lose(self, job: _Job, worker: Any, error: Exception) -> None:
        """A worker is gone: keep its job for another, unless it has outlived too many."""
        _dismiss(self._ray, worker)
        self._dismiss_idle()  # they may have been on the same node, and take the job along again
        deaths = job.deaths + 1
        if deaths >= _MOST_DEATHS:
            raise WorkerError(
                f"the Ray worker of {job.name} died ({type(error).__name__}), and so did "
                f"{deaths - 1} others that took it over. Run it again, with --workers 1 where "
                "memory is short; what is stored is not computed again."
            ) from error
        _log.warning(
            "bitwright: the Ray worker of %s died (%s); it is done again elsewhere.",
            job.name,
            type(error).__name__,
        )
        self._lost.append(replace(job, deaths=deaths))
        self.size = max(1, _processors(self._ray))

    def _dismiss_idle(self) -> None:
        while self._idle:
            _dismiss(self._ray, self._idle.pop())

    def _make_room(self) -> None:
        """Nothing came for a while: let no worker wait for a processor that is not there.

        Workers hold their processors while they are idle, and where nodes have gone, one that was
        started on them may be waiting for just these.
        """
        processors = _processors(self._ray)
        if len(self._idle) + len(self._jobs) <= processors:
            return
        self._dismiss_idle()
        if processors < 1:
            for job, worker in self._jobs.values():
                _dismiss(self._ray, worker)
                self._lost.append(job)
            self._jobs.clear()


def _do_here(task: Message, job: _Job) -> tuple[int, TaskOutcome]:
    """Do a job in this process: the cluster has no processor left."""
    _log.warning("bitwright: the cluster has no processor left; %s is done here.", job.name)
    with one_thread():
        done = decode(perform(lambda: decode(task), from_bytes(job.content)))
    assert isinstance(done, TaskOutcome)
    return job.index, done


def _processors(ray: Any) -> int:
    """How many the cluster has now: those of a node that died are not counted."""
    return int(ray.cluster_resources().get("CPU", 0))


def _dismiss(ray: Any, worker: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(worker)


class _Worker:
    """What runs in one actor."""

    def __init__(self, task: bytes) -> None:
        keep_heap()
        self._message = from_bytes(task)
        self._task: WorkerTask | None = None

    def perform(self, content: bytes) -> bytes:
        """Do one job."""
        return to_bytes(perform(self._ready, from_bytes(content)))

    def _ready(self) -> WorkerTask:
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
        if address is not None:
            check_address(address)
        ray.init(
            address=address, log_to_driver=False, include_dashboard=None, logging_level="ERROR"
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address or 'this machine'} ({error}). Start one with "
            "'ray start --head', or give a number of local processes to --workers."
        ) from error
