"""`bitwright bench`: files side by side in the runtimes that are installed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.export.runtimes import find_runtime, list_installed, require_runtime
from bitwright.graph.execute import Inputs
from bitwright.latency.bench import BenchResult, BenchSettings, bench
from bitwright.latency.beside import quantize_beside, require_float
from bitwright.latency.feeds import make_feed, parse_free, read_inputs, split_feeds
from bitwright.latency.subjects import NamedFile, find_subjects, with_feeds, with_float
from bitwright.latency.time_here import read_processor
from bitwright.report.bench_page import render_bench
from bitwright.sources.batches import take
from bitwright.sources.data import load_data

# Samples of the runtime's own quantiser; its speed does not depend on them.
_BESIDE = 16
# Less of the time than this is no trait of a runtime.
_NARROW = 0.1


@dataclass(frozen=True)
class BenchRequest:
    """What `bench` is asked for.

    `runtimes` empty stands for those installed; `data` empty for inputs of the files' own shapes;
    `free` are NAME=SIZE; `beside`: the runtime's own quantiser too;
    `precise`: floats of 32 bits in runtimes that narrow them by themselves.
    """

    runtimes: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    repetitions: int = 25
    data: str = ""
    free: tuple[str, ...] = ()
    beside: bool = False
    precise: bool = False


def run_bench(
    names: Sequence[Path], asked: BenchRequest, out: Path | None, progress: Progress
) -> dict[str, Any]:
    """Time files side by side; the record of all that was measured, and its page.

    Raises:
        InputError: a file that is none, or none that runs.
        RecipeError: an option that makes no sense.
    """
    settings = BenchSettings(
        tuple(require_runtime(name).name for name in asked.runtimes or list_installed()),
        asked.threads, asked.batches, asked.repetitions, asked.precise,
    )  # fmt: skip
    free = parse_free(asked.free)
    subjects = find_subjects(names)
    given = samples_of(asked.data, max(asked.batches)) if asked.data else None
    with tempfile.TemporaryDirectory() as folder:
        with progress.stage("make ready"):
            every, reference, told = with_float(subjects, Path(folder))
            if asked.beside:
                every, more = _beside(every, reference, given, free, Path(folder))
                told = (*told, *more)
            files, chosen = with_feeds(every, settings.batches, free, given)
        found = bench(files, settings, reference, progress)
        sizes = {file.label: file.path.stat().st_size for file in files}
    record = bench_record(found, sizes, (*told, *chosen))
    if out is not None:
        write_atomically(out, render_bench(record).encode())
        record["page"] = str(out)
    return record


def samples_of(data: str, count: int) -> Inputs:
    """The first samples of given data, in one batch where they come in several."""
    return next(iter(take(load_data(data), max(count, 1)))).inputs


def _beside(
    subjects: Sequence[NamedFile],
    reference: str,
    given: Inputs | None,
    free: dict[str, int],
    folder: Path,
) -> tuple[tuple[NamedFile, ...], tuple[str, ...]]:
    """The files with those of ONNX Runtime's own quantiser."""
    source = require_float(next((s.path for s in subjects if s.label == reference), None))
    inputs = read_inputs(source)
    made = make_feed(inputs, 1, free)[0]
    feeds = [made] if given is None else itertools.islice(split_feeds(inputs, [given]), _BESIDE)
    files, told = quantize_beside(source, feeds, folder)
    return (*subjects, *(NamedFile(name, path) for name, path in files.items())), told


def bench_record(found: BenchResult, sizes: dict[str, int], notes: Sequence[str]) -> dict[str, Any]:
    """All that was measured as plain values."""
    return {
        "reference": found.reference,
        "rows": [_row(row) for row in found.rows],
        "operators": [
            {"file": file, "runtime": runtime, **asdict(share)}
            for (file, runtime), shares in found.operators.items()
            for share in shares
        ],
        "loads": [{**asdict(load), "bytes": sizes[load.file]} for load in found.loads],
        "files": sizes,
        "notes": [*notes, *([] if found.settings.precise else _note_narrow_floats(found))],
        "environment": {
            "processor": read_processor(),
            "runtimes": {name: find_runtime(name).version() for name in found.settings.runtimes},
            "repetitions": found.settings.repetitions,
        },
    }


def _note_narrow_floats(found: BenchResult) -> list[str]:
    """Runtimes that compute floats in fewer than 32 bits here, a part of their speed."""
    shares = found.operators.items()
    narrow = {
        runtime
        for (_, runtime), own in shares
        for share in own
        if share.type in ("bf16", "f16") and share.share > _NARROW
    }
    return [f"{name} computes floats of 16 bits on this processor, by itself" for name in narrow]


def _row(row: Any) -> dict[str, Any]:
    ms, times = row.ms, row.times
    return {
        "file": row.file,
        "runtime": row.runtime,
        "threads": row.threads,
        "batch": row.batch,
        "ms": ms and ms.median,
        "low_ms": ms and ms.low,
        "high_ms": ms and ms.high,
        "throughput": row.throughput,
        "times": times and times.median,
        "low_times": times and times.low,
        "high_times": times and times.high,
        "error": row.error,
    }
