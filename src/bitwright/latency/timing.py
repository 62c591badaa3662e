"""How long ONNX Runtime takes for exported files, whole and unit by unit.

Every file has two sessions: one as it is deployed, one with ONNX Runtime's profiler. The first
tells how long the network takes, the second how that time is spread over its operators; writing
events down takes time of its own, so only the proportions of the second are used. Files take turns
within every repetition, so that a machine's other work, or its clock, falls on all alike.

With one thread the time is the process's own (user and system): what wall time would be on an idle
machine. The figure is the median. Several threads have no such clock: then it is the least wall
time.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime as ort

from bitwright.allocation.latency_table import Conditions
from bitwright.errors import InputError
from bitwright.export.runtime import RUNTIME_ERRORS, first_line
from bitwright.latency.attribution import REST, Owners, attribute

RuntimeFeed = Mapping[str, Any]
TimingKey = TypeVar("TimingKey", bound=Hashable)
# A run shorter than this is repeated: the clock and the call from Python would weigh too much.
LEAST_MS = 2.0
# What all sessions of files that take turns may hold of weights; more files take turns in lots.
LOT_BYTES = 1 << 30
# Below what the profiler can tell (its unit is a microsecond); a unit is never free.
LEAST_UNIT_MS = 1e-4


def conditions_here(target: str, batch: int, threads: int) -> Conditions:
    """The conditions of a measurement on this machine."""
    return Conditions(target, batch, threads, read_processor(), ort.__version__)


def read_processor() -> str:
    """The processor of this machine, as it names itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True, eq=False)
class ExportedFile:
    """A network to time, and whose its operators are."""

    path: Path
    owners: Owners


@dataclass(frozen=True, eq=False)
class Timing:
    """Milliseconds of a network: the whole, and its parts, which sum to the whole."""

    ms: float
    units: Mapping[str, float]
    rest: float


def time_files(
    files: Mapping[TimingKey, ExportedFile],
    feed: RuntimeFeed,
    threads: int = 1,
    repetitions: int = 25,
    tick: Callable[[int], None] = lambda _: None,
) -> dict[TimingKey, Timing]:
    """Time files that are run in turns.

    Args:
        files: what to time, by whatever name.
        feed: the inputs.
        threads: of ONNX Runtime.
        repetitions: of each file; one more goes before them.
        tick: told the repetitions done, over all lots.

    Raises:
        InputError: ONNX Runtime refuses a file.
    """
    found: dict[TimingKey, Timing] = {}
    done = 0
    for lot in _lots(files):
        with tempfile.TemporaryDirectory() as folder:
            runs = {
                key: _Runs(files[key], feed, threads, Path(folder) / str(i))
                for i, key in enumerate(lot)
            }
            for _ in range(repetitions):
                for run in runs.values():
                    run.repeat()
                done += len(lot)
                tick(done)
            found |= {key: run.timing() for key, run in runs.items()}
    return {key: found[key] for key in files}


def _lots(files: Mapping[TimingKey, ExportedFile]) -> Iterator[list[TimingKey]]:
    """Files that are held at once: two sessions each."""
    lot: list[TimingKey] = []
    held = 0
    for key, file in files.items():
        size = 2 * file.path.stat().st_size
        if lot and held + size > LOT_BYTES:
            yield lot
            lot, held = [], 0
        lot.append(key)
        held += size
    if lot:
        yield lot


class _Runs:
    """The two sessions of one file, and what they took so far."""

    def __init__(self, file: ExportedFile, feed: RuntimeFeed, threads: int, folder: Path) -> None:
        folder.mkdir()
        self.file, self.threads, self.folder = file, threads, folder
        self.clock = time.process_time if threads == 1 else time.perf_counter
        self.plain = self._session(profiled=False)
        self.profiled = self._session(profiled=True)
        names = {i.name for i in self.plain.get_inputs()}
        self.feed = {name: array for name, array in feed.items() if name in names}
        self.seconds: list[float] = []
        self.inner = max(1, math.ceil(LEAST_MS / 1000 / max(self._time(2), 1e-7)))

    def _session(self, profiled: bool) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if profiled:
            options.enable_profiling = True
            options.profile_file_prefix = str(self.folder / "profile")
        else:
            options.optimized_model_filepath = str(self.folder / "optimized.onnx")
        try:
            return ort.InferenceSession(
                str(self.file.path), options, providers=["CPUExecutionProvider"]
            )
        except RUNTIME_ERRORS as error:
            raise _refuse(error) from error

    def _time(self, inner: int) -> float:
        """Seconds of one run; one more goes before, to bring its weights into the caches."""
        try:
            self.plain.run(None, self.feed)
            started = self.clock()
            for _ in range(inner):
                self.plain.run(None, self.feed)
        except RUNTIME_ERRORS as error:
            raise _refuse(error) from error
        return (self.clock() - started) / inner

    def repeat(self) -> None:
        """Time the network once, and once with the profiler, warm in both cases."""
        self.seconds.append(self._time(self.inner))
        self.profiled.run(None, self.feed)
        self.profiled.run(None, self.feed)

    def timing(self) -> Timing:
        """What all repetitions tell."""
        chosen = statistics.median(self.seconds) if self.threads == 1 else min(self.seconds)
        events = json.loads(Path(self.profiled.end_profiling()).read_text())
        optimized = onnx.load(str(self.folder / "optimized.onnx"), load_external_data=False)
        owner_of = attribute(optimized, self.file.owners)
        parts: dict[str, float] = defaultdict(float)
        for name, ms in operator_ms(events).items():
            parts[owner_of.get(name, REST)] += ms
        return spread(1000 * chosen, parts)


def _refuse(error: BaseException) -> InputError:
    return InputError(
        f"ONNX Runtime cannot run the exported network: {first_line(error)} Leave the "
        "choice out of --menu, or check the inputs that the network is run on (--data)."
    )


def operator_ms(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds of each operator in one run, by name, from a profile of pairs of runs.

    The first run of each pair brings the weights into the caches and does not count. Of the others
    the mean of the middle half counts: the profiler's unit is a microsecond, too coarse for a
    median of small operators.
    """
    taken: dict[tuple[str, int], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            name = str(event["name"]).removesuffix("_kernel_time")
            taken[name, int(event["args"]["node_index"])].append(float(event["dur"]))
    found: dict[str, float] = defaultdict(float)
    for (name, _), durations in taken.items():
        found[name] += middle_mean(durations[1::2] or durations) / 1000
    return dict(found)


def middle_mean(values: Sequence[float]) -> float:
    """The mean of the middle half.

    >>> middle_mean([1.0, 2.0, 4.0, 90.0])
    3.0
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def spread(whole: float, parts: Mapping[str, float]) -> Timing:
    """The parts of a profile as parts of the whole that was timed without the profiler.

    What the whole takes longer than its operators is the run's own work (the rest). Where the
    operators seem to take longer than the whole, the profiler saw the machine's other work: all
    parts shrink alike.
    """
    total = sum(parts.values())
    factor = min(1.0, whole / total) if total > 0 else 1.0
    units = {name: max(factor * ms, LEAST_UNIT_MS) for name, ms in parts.items() if name != REST}
    return Timing(whole, units, max(0.0, whole - sum(units.values())))
