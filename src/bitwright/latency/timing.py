"""How long ONNX Runtime takes for exported files, whole and unit by unit: see `time_here`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime as ort

from bitwright.allocation.latency_table import Conditions
from bitwright.errors import InputError
from bitwright.export.runtime import RUNTIME_ERRORS, first_line
from bitwright.latency.plain_graph import Owners
from bitwright.latency.time_here import TimedRuns, Timing, read_processor

RuntimeFeed = Mapping[str, Any]
TimingKey = TypeVar("TimingKey", bound=Hashable)
# What all sessions of files that take turns may hold of weights; more files take turns in lots.
LOT_BYTES = 1 << 30


def conditions_here(target: str, batch: int, threads: int) -> Conditions:
    """The conditions of a measurement on this machine."""
    return Conditions(target, batch, threads, read_processor(), ort.__version__)


@dataclass(frozen=True, eq=False)
class ExportedFile:
    """A network to time, and whose its operators are."""

    path: Path
    owners: Owners


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
            places = {key: Path(folder) / str(i) for i, key in enumerate(lot)}
            try:
                runs = {
                    key: TimedRuns(files[key].path, files[key].owners, feed, threads, place)
                    for key, place in places.items()
                }
                for _ in range(repetitions):
                    for run in runs.values():
                        run.repeat()
                    done += len(lot)
                    tick(done)
            except RUNTIME_ERRORS as error:
                raise _refuse(error) from error
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


def _refuse(error: BaseException) -> InputError:
    return InputError(
        f"ONNX Runtime cannot run the exported network: {first_line(error)} Leave the "
        "choice out of --menu, or check the inputs that the network is run on (--data)."
    )
