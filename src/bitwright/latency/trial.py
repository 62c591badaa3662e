"""How fast a network's files will be, before any work: files of each target, rounded to nearest.

Speed depends on the bits and not on the numbers, so what is told is measured and no forecast: the
float network and its quantised twin of every target, ranges and rounding the cheapest, are timed in
turns in every runtime that is installed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.engine.record import Record
from bitwright.errors import BitwrightError
from bitwright.export.runtimes import list_installed
from bitwright.graph.choice import FLOAT, Choice
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target
from bitwright.latency.bench import BenchFile, BenchResult, BenchRow, BenchSettings, bench
from bitwright.latency.measure import feed_of, file_writer, menu_for

FLOAT_LABEL = "float"
REPETITIONS = 15
# A doctor answers within seconds: no further target is tried after these, and no network of more
# multiply-accumulates than these.
PATIENCE_S, MOST_MACS = 45.0, 20e9
# Below this a file does not gain, whatever noise is left.
GAIN = 1.05
_TOO_LARGE = (
    "speed is not tried: the network is too large for an answer in seconds. Quantise it, then let "
    "'bitwright bench RUN' time the file"
)


@dataclass(frozen=True, eq=False)
class SpeedTrial(Record):
    """The file of one target in one runtime beside float.

    Attributes:
        target, runtime: what was tried.
        times: as many times as fast as float, with quartiles; None where it does not run.
        in_float: share of its time in operators that ran in floats.
        error: why it does not run.
    """

    target: str
    runtime: str
    times: tuple[float, float, float] | None
    in_float: float | None
    error: str = ""

    @property
    def gains(self) -> bool:
        """Whether the file is faster than float beyond doubt."""
        return self.times is not None and self.times[1] >= GAIN

    def to_json(self) -> dict[str, Any]:
        """As `doctor --json` prints it."""
        return {**super().to_json(), "gains": self.gains}


def try_targets(
    graph: ModelGraph, targets: Sequence[Target], scheme: Choice, example: tuple[Tensor, ...]
) -> tuple[tuple[SpeedTrial, ...], tuple[str, ...]]:
    """Time a file of each target beside float, one thread, one sample.

    Args:
        graph: the captured network.
        targets: what to try, the most promising first.
        scheme: bits of all units.
        example: a few samples of the inputs.

    Returns:
        What was measured, and a sentence for each target that was not.
    """
    if sum(unit.macs for unit in graph.units) > MOST_MACS:
        return (), (_TOO_LARGE,)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        files = _write_files(graph, targets, scheme, example, Path(folder), told)
        if len(files) < 2:
            return (), tuple(told)
        settings = BenchSettings(tuple(list_installed()), repetitions=REPETITIONS)
        found = bench(files, settings, FLOAT_LABEL, loads=False)
    return tuple(_trial(found, row) for row in found.rows if row.file != FLOAT_LABEL), tuple(told)


def _write_files(
    graph: ModelGraph,
    targets: Sequence[Target],
    scheme: Choice,
    example: tuple[Tensor, ...],
    folder: Path,
    told: list[str],
) -> list[BenchFile]:
    """The float file and one of each target, as far as they can be written in time."""
    started = time.monotonic()
    feeds = {1: feed_of(graph, example, 1)}
    files: list[BenchFile] = []
    for target in targets:
        if time.monotonic() - started > PATIENCE_S:
            told.append(f"target {target.name} is not tried: the others took long enough")
            continue
        write = file_writer(graph, target, example)
        menu = menu_for(graph, target, (scheme,))
        wanted: dict[str, dict[str, Choice]] = {
            target.name: {unit: own[0] for unit, own in menu.items()}
        }
        if not files:
            wanted = {FLOAT_LABEL: dict.fromkeys(menu, FLOAT), **wanted}
        for label, choices in wanted.items():
            path = folder / f"{label}.onnx"
            try:
                write(choices, path)
            except BitwrightError as error:
                told.append(f"{label} is not tried: {error}")
                continue
            files.append(BenchFile(label, path, feeds))
    return files


def _trial(found: BenchResult, row: BenchRow) -> SpeedTrial:
    times = None if row.times is None else (row.times.median, row.times.low, row.times.high)
    shares = found.operators.get((row.file, row.runtime))
    in_float = sum(s.share for s in shares if s.type in ("float", "bf16")) if shares else None
    return SpeedTrial(row.file, row.runtime, times, in_float, row.error)
