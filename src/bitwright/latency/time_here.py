"""Times the networks of a timing bundle on this machine and writes a table of latencies.

    python time_here.py [--out latency.csv] [--threads N] [--repetitions N]

Needs Python, numpy and onnxruntime; neither PyTorch nor Bitwright. Lies in the folder of a bundle
that `bitwright bench MODEL --bundle DIR` wrote. The table goes to `bitwright quantize --latencies
DEVICE=latency.csv --budget "latency[DEVICE]<=0.6"`. Bitwright itself times by what stands here.

Every network has two sessions: one as it is deployed, one with ONNX Runtime's profiler. The first
tells how long the network takes, the second how that time is spread over its operators; writing
events down takes time of its own, so only the proportions of the second are used. Networks take
turns, so that a machine's other work, or its clock, falls on all alike. With one thread the time is
the process's own, as the wall time of an idle machine; with several it is the least wall time.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bitwright.latency.plain_graph import REST, Owners, attribute, read_graph

ENTER, LEAVE = "enter", "leave"
REST_ROW = "(rest)"
# A run shorter than this is repeated: the clock and the call from Python would weigh too much.
LEAST_MS = 2.0
# Below what the profiler can tell (its unit is a microsecond); a unit is never free.
LEAST_UNIT_MS = 1e-4


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a network: the whole, and its parts, which sum to the whole."""

    ms: float
    units: Mapping[str, float]
    rest: float


# ---- times -----------------------------------------------------------------------------------


class TimedRuns:
    """The two sessions of one file, and what they took so far."""

    def __init__(
        self, path: Path, owners: Owners, feed: Mapping[str, Any], threads: int, folder: Path
    ) -> None:
        folder.mkdir()
        self.path, self.owners, self.threads, self.folder = path, owners, threads, folder
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
        return ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def _time(self, inner: int) -> float:
        """Seconds of one run; one more goes before, to bring its weights into the caches."""
        self.plain.run(None, self.feed)
        started = self.clock()
        for _ in range(inner):
            self.plain.run(None, self.feed)
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
        optimized = read_graph((self.folder / "optimized.onnx").read_bytes())
        owner_of = attribute(optimized, self.owners)
        parts: dict[str, float] = defaultdict(float)
        for name, ms in operator_ms(events).items():
            parts[owner_of.get(name, REST)] += ms
        return spread(1000 * chosen, parts)


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


# ---- the table -------------------------------------------------------------------------------


@dataclass(frozen=True)
class TablePlan:
    """What `plan.json` says of a bundle's networks; choices are (w_bits, a_bits, points).

    Attributes:
        menu: the choices of every unit.
        row: the units that have borders.
        kernels: what the runtime sees of each choice.
        uniform: the network of each kernel.
        mixed: networks of one kernel with single units of another, and these units.
        choices: of every unit in every network.
    """

    menu: Mapping[str, Sequence[Any]]
    row: Sequence[str]
    kernels: Mapping[Any, Any]
    uniform: Mapping[Any, str]
    mixed: Sequence[tuple[str, frozenset[str]]]
    choices: Mapping[str, Mapping[str, Any]]

    def alone(self, timings: Mapping[str, Timing], unit: str, choice: Any) -> float:
        """A unit in the network that has its choice everywhere."""
        seen = self.kernels[choice]
        own = [self.uniform[seen]] if seen in self.uniform else []
        every = (*own, *self.uniform.values())
        label = next(d for d in every if self.kernels[self.choices[d][unit]] == seen)
        return timings[label].units.get(unit, LEAST_UNIT_MS)

    def usual_rest(self, timings: Mapping[str, Timing], label: str) -> float:
        """The rest of a mixture, each unit bringing its share of its own kernel's network."""
        known = {seen: timings[uniform].rest for seen, uniform in self.uniform.items()}
        usual = statistics.fmean(known.values())
        seen_of = (self.kernels[choice] for choice in self.choices[label].values())
        return statistics.fmean(known.get(seen, usual) for seen in seen_of)

    def strange_sides(self, label: str) -> dict[str, list[str]]:
        """On which sides each unit has a neighbour whose inputs are of the other kind."""
        found: dict[str, list[str]] = {}
        own = self.choices[label]
        for before, after in pairwise(self.row):
            if bool(own[before][1]) != bool(own[after][1]):
                found.setdefault(before, []).append(LEAVE)
                found.setdefault(after, []).append(ENTER)
        return found

    def borders(self, timings: Mapping[str, Timing]) -> dict[tuple[str, Any, str], float]:
        """What each unit takes longer beside one whose inputs are of the other kind, by side.

        The change of a single unit belongs to both its sides alike, and so does the change of the
        rest; a change of the units beside it is theirs.
        """
        found: dict[tuple[str, Any, str], list[float]] = {}
        for label, apart in self.mixed:
            timing, own = timings[label], self.choices[label]
            rest = (timing.rest - self.usual_rest(timings, label)) / max(len(apart), 1)
            for unit, sides in self.strange_sides(label).items():
                change = timing.units.get(unit, LEAST_UNIT_MS)
                change -= self.alone(timings, unit, own[unit])
                change += rest if unit in apart else 0.0
                for side in sides:
                    key = unit, self.kernels[own[unit]], side
                    found.setdefault(key, []).append(change / len(sides))
        return {key: statistics.fmean(changes) for key, changes in found.items()}

    def cells(self, timings: Mapping[str, Timing]) -> dict[tuple[str, Any], tuple[float, ...]]:
        """Milliseconds of every unit at every choice: alone, and what borders add."""
        borders = self.borders(timings)
        return {
            (unit, choice): (
                self.alone(timings, unit, choice),
                *(borders.get((unit, self.kernels[choice], s), 0.0) for s in (ENTER, LEAVE)),
            )
            for unit, own in self.menu.items()
            for choice in own
        }


def read_processor() -> str:
    """The processor of this machine, as it names itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# ---- the bundle ------------------------------------------------------------------------------


def read_plan(plan: Mapping[str, Any]) -> TablePlan:
    """The plan that a bundle's `plan.json` holds."""
    designs = plan["designs"]
    return TablePlan(
        {unit: [tuple(c) for c in own] for unit, own in plan["menu"].items()},
        plan["row"],
        {tuple(choice): tuple(seen) for choice, seen in plan["kernels"]},
        {tuple(seen): label for seen, label in plan["uniform"]},
        [(label, frozenset(apart)) for label, apart in plan["mixed"]],
        {d["label"]: {u: tuple(c) for u, c in d["choices"].items()} for d in designs},
    )


def time_bundle(folder: Path, threads: int, repetitions: int) -> dict[str, Timing]:
    """Every network of a bundle, by its label."""
    plan = json.loads((folder / "plan.json").read_text())
    with np.load(folder / "feed.npz") as stored:
        feed = {name: stored[name] for name in stored.files}
    with tempfile.TemporaryDirectory() as scratch:
        runs = {}
        for index, design in enumerate(plan["designs"]):
            path = Path(scratch) / f"{index}.onnx"
            path.write_bytes(gzip.decompress((folder / design["file"]).read_bytes()))
            owners = Owners(**design["owners"])
            own = Path(scratch) / str(index)
            runs[design["label"]] = TimedRuns(path, owners, feed, threads, own)
        for turn in range(repetitions):
            for run in runs.values():
                run.repeat()
            sys.stderr.write(f"\r{turn + 1} of {repetitions}")
        sys.stderr.write("\n")
        return {label: run.timing() for label, run in runs.items()}


def write_table(folder: Path, timings: Mapping[str, Timing], threads: int, out: Path) -> None:
    """The table of latencies, one line a unit and choice, the conditions on every line."""
    record = json.loads((folder / "plan.json").read_text())
    plan = read_plan(record)
    about = (record["target"], record["batch"], threads, read_processor(), ort.__version__)
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(record["columns"])
        for (unit, choice), figures in plan.cells(timings).items():
            writer.writerow([record["shown"][unit], *choice, *map(repr, figures), *about])
        for choice, label in record["rest"]:
            figures = (timings[label].rest, 0.0, 0.0)
            writer.writerow([REST_ROW, *choice, *map(repr, figures), *about])


def main() -> None:
    """Time the bundle that this file lies in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("latency.csv"))
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    parser.add_argument("--repetitions", type=int, default=25, help="of every network, by turns")
    given = parser.parse_args()
    folder = Path(__file__).resolve().parent
    timings = time_bundle(folder, given.threads, given.repetitions)
    write_table(folder, timings, given.threads, given.out)
    sys.stdout.write(f"wrote {given.out}\n")


if __name__ == "__main__":
    main()
