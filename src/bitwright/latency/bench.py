"""Files side by side in the runtimes that are installed: in turns, in one process.

Every file is loaded in every runtime, with every number of threads. Within one of these settings
and one batch size all files take turns, and a turn begins with another file each time, so that a
machine's other work and its clock fall on all alike; what is told of two files is the median of the
ratios of their times within a turn. Each timed run has one before it that does not count: it brings
weights into the caches, and the threads of the file before have gone to sleep.

With one thread the time is the process's own (user and system): what wall time would be on an idle
machine. With several it is wall time.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bitwright.engine.progress import Progress
from bitwright.errors import InputError, RecipeError
from bitwright.export.runtimes import LoadedFile, RuntimeRefusal
from bitwright.latency import probe
from bitwright.latency.feeds import ArrayFeed
from bitwright.latency.profiles import OperatorShare, load_deployed, profile_operators
from bitwright.latency.time_here import LEAST_MS

Clock = Callable[[], float]
# A file that hangs while it loads in a process of its own.
_PROBE_SECONDS = 600
_MOST = {"threads": 1024, "batch": 1_000_000, "repetitions": 100_000}


@dataclass(frozen=True)
class BenchFile:
    """A file to time, by the name it is shown under, and what it is run on by batch size.

    `feeds` lacks the batch sizes that the file does not take.
    """

    label: str
    path: Path
    feeds: Mapping[int, ArrayFeed]


@dataclass(frozen=True)
class BenchSettings:
    """What files are timed under, each with each; `repetitions` of every file, by turns.

    `precise`: floats have 32 bits in runtimes that would narrow them by themselves.
    """

    runtimes: tuple[str, ...]
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    repetitions: int = 25
    precise: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        given = {"threads": self.threads, "batch": self.batches, "repetitions": (self.repetitions,)}
        for name, values in given.items():
            for value in values:
                if not 1 <= value <= _MOST[name]:
                    raise RecipeError(f"--{name} {value} makes no sense. Give 1 to {_MOST[name]}.")


@dataclass(frozen=True)
class Quartiles:
    """The median of several figures and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Of single figures.

        >>> Quartiles.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Quartiles(median=3.0, low=2.0, high=4.0)
        """
        low, median, high = np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    def noise(self, count: int) -> float:
        """About two standard errors of the median of so many figures, by their quartiles.

        Of a normal distribution the quartiles lie 1.349 standard deviations apart, and the median
        has 1.253 times the standard error of the mean.
        """
        return 2 * 1.253 * (self.high - self.low) / 1.349 / math.sqrt(max(count, 1))


@dataclass(frozen=True)
class BenchRow:
    """One file under one setting.

    Attributes:
        file, runtime, threads, batch: what was timed.
        ms: milliseconds of a run.
        times: as many times as fast as the file of reference, turn by turn; None without one.
        error: what the runtime said where it did not run; there are no figures then.
    """

    file: str
    runtime: str
    threads: int
    batch: int
    ms: Quartiles | None = None
    times: Quartiles | None = None
    error: str = ""

    @property
    def throughput(self) -> float | None:
        """Samples a second."""
        return None if self.ms is None else 1000 * self.batch / self.ms.median


@dataclass(frozen=True)
class LoadCost:
    """What loading a file takes, in a process of its own."""

    file: str
    runtime: str
    load_ms: float
    memory_mb: float


@dataclass(frozen=True)
class BenchResult:
    """All that was measured.

    Attributes:
        reference: the file that others are compared with; empty without one.
        rows: of every file under every setting.
        operators: by (file, runtime), of one thread and the first batch size.
        loads: of every file in every runtime.
    """

    reference: str
    settings: BenchSettings
    rows: tuple[BenchRow, ...]
    operators: Mapping[tuple[str, str], tuple[OperatorShare, ...]] = field(default_factory=dict)
    loads: tuple[LoadCost, ...] = ()

    def of(self, file: str, runtime: str, threads: int = 1, batch: int = 1) -> BenchRow:
        """The row of a file under a setting."""
        return next(
            row
            for row in self.rows
            if (row.file, row.runtime, row.threads, row.batch) == (file, runtime, threads, batch)
        )


def bench(
    files: Sequence[BenchFile],
    settings: BenchSettings,
    reference: str = "",
    progress: Progress | None = None,
    profiled: bool = True,
    loads: bool = True,
) -> BenchResult:
    """Time files side by side.

    Args:
        files: what to time; labels are their own.
        settings: runtimes, threads, batch sizes, repetitions.
        reference: the label of the file that others are compared with.
        progress: told of the stages.
        profiled: tell also which operators run in what type.
        loads: tell then what loading takes as well.

    Raises:
        InputError: no file runs in any runtime.
    """
    told = progress or Progress()
    rows: list[BenchRow] = []
    for runtime in settings.runtimes:
        for threads in settings.threads:
            name = f"time in {runtime}, {threads} thread{'s' if threads > 1 else ''}"
            with told.stage(name, len(settings.batches) * settings.repetitions) as tick:
                rows += _under(files, settings, runtime, threads, reference, tick)
    if rows and all(row.error for row in rows):
        raise InputError(f"no file runs: {rows[0].file} in {rows[0].runtime}: {rows[0].error}")
    made = BenchResult(reference, settings, tuple(rows))
    return _with_profiles(made, files, told, loads) if profiled else made


def _under(
    files: Sequence[BenchFile],
    settings: BenchSettings,
    runtime: str,
    threads: int,
    reference: str,
    tick: Callable[[int], None],
) -> list[BenchRow]:
    """All files in one runtime with one number of threads."""
    loaded: dict[str, LoadedFile] = {}
    refused: dict[str, str] = {}
    for file in files:
        try:
            loaded[file.label] = load_deployed(runtime, file.path, threads, settings.precise)
        except RuntimeRefusal as error:
            refused[file.label] = str(error)
    clock = time.process_time if threads == 1 else time.perf_counter
    rows: list[BenchRow] = []
    for index, batch in enumerate(settings.batches):
        able = [f for f in files if f.label in loaded and batch in f.feeds]
        runs, failed = _runs(able, loaded, batch)
        done = index * settings.repetitions
        taken = take_turns(runs, settings.repetitions, clock, partial(_tell, tick, done))
        errors = {**refused, **failed}
        rows += [
            _row(file.label, (runtime, threads, batch), taken, reference, errors)
            for file in files
            if file.label in errors or batch in file.feeds
        ]
    return rows


def _tell(tick: Callable[[int], None], before: int, turn: int) -> None:
    tick(before + turn)


def _runs(
    files: Sequence[BenchFile], loaded: Mapping[str, LoadedFile], batch: int
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """What runs each file, of those that a first run proves able; and what others said."""
    runs: dict[str, Callable[[], object]] = {}
    failed: dict[str, str] = {}
    for file in files:
        own, feed = loaded[file.label], file.feeds[batch]
        try:
            own.run(feed)
        except RuntimeRefusal as error:
            failed[file.label] = str(error)
            continue
        runs[file.label] = partial(own.run, feed)
    return runs, failed


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    turns: int,
    clock: Clock,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Seconds of a run of each, turn by turn; each turn begins with the next."""
    names = list(runs)
    inner = {name: _repeats(runs[name], clock) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns if names else 0):
        start = turn % len(names)
        for name in (*names[start:], *names[:start]):
            found[name].append(_seconds(runs[name], inner[name], clock))
        tick(turn + 1)
    return found


def _repeats(run: Callable[[], object], clock: Clock) -> int:
    """How often a short run is repeated: the clock and the call would weigh too much."""
    least = min(_seconds(run, 1, clock) for _ in range(2))
    return max(1, math.ceil(LEAST_MS / 1000 / max(least, 1e-6)))


def _seconds(run: Callable[[], object], times: int, clock: Clock) -> float:
    run()
    started = clock()
    for _ in range(times):
        run()
    return (clock() - started) / times


def _row(
    label: str,
    setting: tuple[str, int, int],
    taken: Mapping[str, list[float]],
    reference: str,
    errors: Mapping[str, str],
) -> BenchRow:
    if label in errors:
        return BenchRow(label, *setting, error=errors[label])
    own, beside = taken[label], taken.get(reference)
    times = None if beside is None else Quartiles.of(
        [b / o for b, o in zip(beside, own, strict=True)]
    )  # fmt: skip
    return BenchRow(label, *setting, Quartiles.of([1000 * s for s in own]), times)


def _with_profiles(
    made: BenchResult, files: Sequence[BenchFile], told: Progress, loads: bool
) -> BenchResult:
    failed = {(row.file, row.runtime) for row in made.rows if row.error}
    pairs = [
        (file, runtime)
        for runtime in made.settings.runtimes
        for file in files
        if (file.label, runtime) not in failed and file.feeds
    ]
    seen: dict[tuple[str, str], tuple[OperatorShare, ...]] = {}
    costs: list[LoadCost | None] = []
    with told.stage("profile", len(pairs)) as tick:
        for done, (file, runtime) in enumerate(pairs):
            feed = next(iter(file.feeds.values()))
            seen[file.label, runtime] = profile_operators(runtime, file.path, feed)
            costs.append(load_cost(file, runtime, feed) if loads else None)
            tick(done + 1)
    return BenchResult(made.reference, made.settings, made.rows, seen, tuple(filter(None, costs)))


def load_cost(file: BenchFile, runtime: str, feed: ArrayFeed) -> LoadCost | None:
    """What loading takes, one thread, in a process that holds nothing else; None where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "feed.npz"
        arrays = {name: np.asarray(value) for name, value in feed.items()}
        np.savez(stored, allow_pickle=False, **arrays)
        command = [sys.executable, probe.__file__, runtime, "1", str(file.path), str(stored)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    if done.returncode:
        return None
    return LoadCost(file.label, runtime, **json.loads(done.stdout.splitlines()[-1]))
