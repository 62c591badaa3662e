"""The run directory: what is where, and how it is read, with errors that say what to do."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bitwright.engine import lock
from bitwright.engine.files import append, is_temporary, read_plain
from bitwright.engine.manifest import Manifest, Seal, difference, parse_manifest, seal, seal_of
from bitwright.engine.progress import Event
from bitwright.engine.record import Record
from bitwright.engine.texts import parse_json
from bitwright.errors import RunDirectoryError, RunWarning

R = TypeVar("R", bound=Record)

RECIPE, CENSUS, TABLE, ALLOCATION = "recipe.toml", "census.json", "table.csv", "allocation.json"
METRICS, MODEL, ONNX, VERIFY = "metrics.json", "model.safetensors", "model.onnx", "verify.json"
REPORT, LOG, STORE, MANIFEST = "report.html", "log.jsonl", "store", "manifest.json"
# Only where a budget bounds the latency: of this machine, and of other devices.
LATENCY, DEVICES = "latency.csv", "latencies.csv"
FRONTIER_CSV, FRONTIER_SVG = "frontier.csv", "frontier.svg"
# What stands in the place of model.onnx where that answers at random, by --force alone.
REJECTED = "model.rejected.onnx"
# Only after `bitwright diagnose`.
DIAGNOSIS = "diagnosis.json"
# Who is writing, and where what is not whole yet is put.
LOCK, STAGING = "run.lock", ".new"
# All that a run and the commands on it write, but for the log, which only grows.
WRITTEN = (
    CENSUS, TABLE, ALLOCATION, METRICS, MODEL, ONNX, VERIFY, REPORT, LATENCY, DEVICES,
    FRONTIER_CSV, FRONTIER_SVG, REJECTED, DIAGNOSIS,
)  # fmt: skip
# What writes a single file again; anything else takes a whole run.
_AGAIN = {
    ALLOCATION: "bitwright allocate", ONNX: "bitwright export", VERIFY: "bitwright verify",
    REPORT: "bitwright report", FRONTIER_CSV: "bitwright frontier",
    FRONTIER_SVG: "bitwright frontier", DIAGNOSIS: "bitwright diagnose",
}  # fmt: skip


@dataclass(frozen=True)
class RunDirectory:
    """A folder that holds one run, as its manifest said when it was opened.

    Attributes:
        path: the folder.
        manifest: what its files must be; None for a run that was written before there were any.
    """

    path: Path
    manifest: Manifest | None = None

    def __getitem__(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether a file belongs to the run, or did until it was to be written again."""
        if self.manifest is None:
            return self[name].is_file()
        return name in self.manifest.files or name in self.manifest.pending

    def checked(self, name: str) -> Path:
        """The path of a file that is what the manifest says.

        Raises:
            RunDirectoryError: it is missing, is another, or was not written to its end.
        """
        stated = self._stated(name)
        try:
            found = seal(self[name], None if stated is None or name != LOG else stated.size)
        except OSError as error:
            raise _unreadable(self, name, error) from error
        self._compare(name, found, stated)
        return self[name]

    def read_bytes(self, name: str) -> bytes:
        """The content of a file, checked as in `checked`."""
        stated = self._stated(name)
        try:
            content = read_plain(self[name])
        except OSError as error:
            raise _unreadable(self, name, error) from error
        self._compare(name, seal_of(content), stated)
        return content

    def read_text(self, name: str) -> str:
        """Read a text file of the run."""
        try:
            return self.read_bytes(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise RunDirectoryError(
                f"{self[name]} is damaged: {error}. Quantise again into a new --out."
            ) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run."""
        remedy = "Quantise again into a new --out."
        found = parse_json(self.read_text(name), str(self[name]), RunDirectoryError, remedy)
        if not isinstance(found, dict):
            raise RunDirectoryError(f"{self[name]} is damaged: it holds no object.")
        return found

    def read(self, name: str, kind: type[R]) -> R:
        """Read a JSON file of the run as what it holds.

        Raises:
            RunDirectoryError: damaged, or not what any run writes.
        """
        try:
            return kind.from_json(self.read_json(name), name)
        except ValueError as error:
            raise RunDirectoryError(
                f"{self[name]} holds what no run writes: {error}. Quantise again into a new --out."
            ) from error

    def sizes(self) -> dict[str, int]:
        """The files of the run and their sizes on disk."""
        return {
            path.name: path.stat().st_size
            for path in sorted(self.path.iterdir())
            if path.is_file() and path.name not in (MANIFEST, LOCK) and not is_temporary(path.name)
        }

    def _stated(self, name: str) -> Seal | None:
        if self.manifest is None:
            return None
        if name in self.manifest.files:
            return self.manifest.files[name]
        raise RunDirectoryError(_not_of_the_run(self, name, self.manifest))

    def _compare(self, name: str, found: Seal, stated: Seal | None) -> None:
        differs = difference(found, stated) if stated is not None else ""
        if differs:
            raise RunDirectoryError(
                f"{self[name]} is not the file that {MANIFEST} states ({differs}): it was changed "
                f"after the run was written. {_remedy(self, name)} To work on a file of your own, "
                f"copy it into another folder, with {RECIPE} and {TABLE} where a table is needed."
            )


def _unreadable(run: RunDirectory, name: str, error: OSError) -> RunDirectoryError:
    again = f" {_remedy(run, name)}" if name in _AGAIN else ""
    return RunDirectoryError(
        f"{run[name]} cannot be read ({error.strerror}).{again} Is {run.path} the folder "
        "that 'bitwright quantize' wrote (--out)?"
    )


def _not_of_the_run(run: RunDirectory, name: str, manifest: Manifest) -> str:
    if MODEL in manifest.pending:
        writing = lock.owner(run[LOCK])
        if writing:
            return f"{run.path} is still being written by {writing}. Wait until that has ended."
        return (
            f"{run.path} holds no whole run: the last one was stopped before its end. Run the same "
            f"command again, or: bitwright quantize --recipe {run[RECIPE]} --out {run.path}"
        )
    if name in manifest.pending:
        return f"{run[name]} was not written to its end. {_remedy(run, name)}"
    if run[name].exists():
        return f"{run[name]} is not in {MANIFEST}: it is no part of this run. Remove it."
    return f"{run.path} holds no {name}: this run wrote none. {_remedy(run, name)}"


def _remedy(run: RunDirectory, name: str) -> str:
    if name in _AGAIN:
        return f"'{_AGAIN[name]} {run.path}' writes it again."
    return "Quantise again into a new --out."


def open_existing(path: Path) -> RunDirectory:
    """The run directory at a path.

    Raises:
        RunDirectoryError: no such folder, not one of ours, or its manifest is damaged.
    """
    if not path.is_dir():
        raise RunDirectoryError(
            f"no run directory {str(path)!r}. Name the folder that 'bitwright quantize' wrote."
        )
    if not (path / RECIPE).is_file():
        raise RunDirectoryError(
            f"{str(path)!r} holds no {RECIPE}, so it is not a run directory. Name the folder that "
            "'bitwright quantize' wrote (--out)."
        )
    run = open_folder(path)
    if run.manifest is None:
        warnings.warn(note_unsealed(path), RunWarning, stacklevel=2)
    return run


def open_folder(path: Path) -> RunDirectory:
    """A folder with the manifest that it has, if any.

    Raises:
        RunDirectoryError: the manifest is damaged.
    """
    try:
        content = read_plain(path / MANIFEST)
    except FileNotFoundError:
        return RunDirectory(path)
    except OSError as error:
        raise RunDirectoryError(
            f"{path / MANIFEST} cannot be read ({error.strerror}). Quantise again into a new --out."
        ) from error
    return RunDirectory(path, parse_manifest(content, str(path / MANIFEST)))


def note_unsealed(path: Path) -> str:
    """What is to be said of a run without a manifest."""
    return (
        f"{path} has no {MANIFEST}: an earlier version wrote it, so nothing tells whether its "
        "files are of one run. Quantise again to have that."
    )


def log_listener(run: RunDirectory) -> Callable[[Event], None]:
    """A listener that appends every event but ticks to log.jsonl."""

    def listen(event: Event) -> None:
        if event.kind == "tick":
            return
        entry = {
            "time": time.time(),
            **{k: v for k, v in vars(event).items() if v not in ("", None)},
        }
        append(run[LOG], (json.dumps(entry) + "\n").encode())

    return listen


def as_json(value: Mapping[str, Any]) -> bytes:
    """A JSON file of the run; numbers that JSON does not know become null."""
    return (json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n").encode()


def finite(value: Any) -> Any:
    """The value with null for every number that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(v) for v in value]
    return value
