"""Independent jobs on N local processes, on a Ray cluster, or right here: the same bits each way.

A job is `function(shared, item)`: an importable function of one value that all jobs read and one
that is its own. Every job computes with one torch thread under the caller's numeric settings,
wherever it runs, because the number of threads changes the order of sums and so the last bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Protocol

from bitwright.engine.cluster import RayCrew
from bitwright.engine.local import LocalCrew
from bitwright.engine.task import TaskOutcome, WorkerSettings, WorkerTask, one_thread
from bitwright.engine.threads import count_threads, stream_out
from bitwright.engine.wire import encode
from bitwright.engine.workers import RAY
from bitwright.errors import BitwrightError

Function = Callable[[Any, Any], Any]


class Crew(Protocol):
    """Workers that take a job each and hand back what came of it."""

    size: int

    def give(self, index: int, name: str, item: Any) -> None:
        """Hand a job to an idle worker; fewer than `size` jobs are out."""

    def take(self) -> tuple[int, TaskOutcome]:
        """Wait for the next job to be done, whichever it is.

        Raises:
            WorkerError: a worker died; the message names its job.
        """

    def close(self, finished: bool) -> None:
        """Let all workers go; at once where the work is not finished."""


def run_jobs(
    function: Function,
    items: Iterable[Any],
    workers: int | str = 1,
    *,
    shared: Any = None,
    name: Callable[[Any], str] | None = None,
    tick: Callable[[int], None] | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Yield (index, result) of every item as each is done: in order with one worker, else not.

    Items are drawn only when a worker is free for them, so at most as many as there are workers
    exist at once. Closing the generator, an error or Ctrl-C ends all workers.

    Args:
        function: importable, and pure: it draws from no global generator and keeps nothing.
        items: values that can be pickled; their tensors travel as bytes.
        workers: see `workers.read_workers`; 1 works in this process, on as many of its threads as
            `threads.use_threads` has said.
        shared: what all jobs read; sent once, and its tensors are held once for all processes.
        name: what to call an item in messages, such as its unit.
        tick: called with the number of jobs done.

    Raises:
        WorkerError: a worker was killed.
        BitwrightError: what a job raised, with the name of its item.
    """
    called = ((i, name(x) if name else f"job {i}", x) for i, x in enumerate(items))
    # Closing, so that workers end with this generator even where the collector is late.
    with contextlib.closing(_results(function, called, workers, shared)) as results:
        for done, result in enumerate(results, 1):
            if tick is not None:
                tick(done)
            yield result


def collect(results: Iterable[tuple[int, Any]]) -> list[Any]:
    """The results of `run_jobs` in the order of the items."""
    found = dict(results)
    return [found[index] for index in range(len(found))]


NamedItems = Iterator[tuple[int, str, Any]]


def _results(
    function: Function, items: NamedItems, workers: int | str, shared: Any
) -> Generator[tuple[int, Any], None, None]:
    if workers == 1:
        yield from _run_here(function, items, shared)
        return
    task = encode(WorkerTask(function, shared, WorkerSettings.current()))
    crew: Crew = (
        LocalCrew(task, workers, _keeps_main(function))
        if isinstance(workers, int)
        else RayCrew(task, None if workers == RAY else workers)
    )
    finished = False
    try:
        yield from _run_with(crew, items)
        finished = True
    finally:
        crew.close(finished)


def _run_with(crew: Crew, items: NamedItems) -> Iterator[tuple[int, Any]]:
    names: dict[int, str] = {}
    waiting = True
    while waiting or names:
        while waiting and len(names) < crew.size:
            job = next(items, None)
            if job is None:
                waiting = False
            else:
                crew.give(*job)
                names[job[0]] = job[1]
        if names:
            index, outcome = crew.take()
            called = names.pop(index)
            if outcome.error is not None:
                raise _add_name(outcome.error, called) from outcome.cause()
            yield index, outcome.result


def _run_here(function: Function, items: NamedItems, shared: Any) -> Iterator[tuple[int, Any]]:
    def work(job: tuple[int, str, Any]) -> tuple[int, Any]:
        index, called, item = job
        try:
            return index, function(shared, item)
        except BitwrightError as error:
            raise _add_name(error, called) from error

    alone = count_threads() == 1
    made = (work(job) for job in items) if alone else stream_out(work, items)
    with contextlib.closing(made) as results:
        while True:
            with one_thread():
                found = next(results, None)
            if found is None:
                return
            yield found


def _add_name(error: BaseException, called: str) -> BaseException:
    """The same error, its message with the name of the job where it is one of ours."""
    if not isinstance(error, BitwrightError) or called in str(error):
        return error
    return type(error)(f"{called}: {error}")


def _keeps_main(function: Function) -> bool:
    return function.__module__ == "__main__"
