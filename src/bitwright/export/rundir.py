"""The run directory: what is where, written whole, read with errors that say what to do."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.errors import RunDirectoryError
from bitwright.run.files import write_atomically
from bitwright.run.progress import Event
from bitwright.run.texts import parse_json, read_text

RECIPE, CENSUS, TABLE, ALLOCATION = "recipe.toml", "census.json", "table.csv", "allocation.json"
METRICS, MODEL, ONNX, VERIFY = "metrics.json", "model.safetensors", "model.onnx", "verify.json"
REPORT, LOG, STORE = "report.html", "log.jsonl", "store"
# Only where a budget bounds the latency.
LATENCY = "latency.csv"
# Written by 'bitwright frontier'.
FRONTIER_CSV, FRONTIER_SVG = "frontier.csv", "frontier.svg"
_OF_A_RUN = (
    CENSUS, TABLE, ALLOCATION, METRICS, MODEL, ONNX, VERIFY, REPORT, LOG, LATENCY, FRONTIER_CSV,
    FRONTIER_SVG,
)  # fmt: skip


@dataclass(frozen=True)
class RunDirectory:
    """A folder that holds one run."""

    path: Path

    def __getitem__(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file; numbers that JSON does not know become null."""
        text = json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n"
        write_atomically(self[name], text.encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run."""
        remedy = "Quantise again into a new --out."
        found = parse_json(self.read_text(name), str(self[name]), RunDirectoryError, remedy)
        if not isinstance(found, dict):
            raise RunDirectoryError(f"{self[name]} is damaged: it holds no object.")
        return found

    def read_text(self, name: str) -> str:
        """Read a text file of the run."""
        remedy = f"Is {self.path} the folder that 'bitwright quantize' wrote (--out)?"
        return read_text(self[name], RunDirectoryError, remedy)

    def sizes(self) -> dict[str, int]:
        """The files of the run and their sizes on disk."""
        return {p.name: p.stat().st_size for p in sorted(self.path.iterdir()) if p.is_file()}


def create(path: Path, recipe: str, force: bool = False) -> RunDirectory:
    """Make a folder ready for a run, or take up the same run again.

    With `force` another run that is there is replaced: its files are removed, its store, which any
    run can use, is kept, and what is not of a run stays.

    Raises:
        RunDirectoryError: it cannot be written, or holds another run or other files.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        present = [p.name for p in path.iterdir()]
    except OSError as error:
        raise RunDirectoryError(
            f"--out {path} cannot be written ({error.strerror}). Name a folder that can be made."
        ) from error
    run = RunDirectory(path)
    if RECIPE in present:
        # A run that failed leaves its recipe, its log and a store that any run can use.
        if set(present) - {RECIPE, LOG, STORE} and run.read_text(RECIPE) != recipe:
            if not force:
                raise RunDirectoryError(
                    f"--out {path} already holds another run (its recipe.toml differs from what is "
                    "asked for). Name another folder, or replace this run with --force."
                )
            _remove_run(run)
    elif present:
        raise RunDirectoryError(
            f"--out {path} is not empty and holds no run (it has {present[0]!r}). Name an empty or "
            "a new folder."
        )
    if not os.access(path, os.W_OK):
        raise RunDirectoryError(f"--out {path} cannot be written. Name another folder.")
    try:
        write_atomically(run[RECIPE], recipe.encode())
    except OSError as error:
        raise RunDirectoryError(
            f"--out {path} cannot be written ({error.strerror}). Name another folder."
        ) from error
    return run


def _remove_run(run: RunDirectory) -> None:
    """Remove the files of a run, its recipe last: what remains after a fault is still a run."""
    for name in (*_OF_A_RUN, RECIPE):
        try:
            run[name].unlink(missing_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"--out {run.path}: {name} of the run that is there cannot be removed "
                f"({error.strerror}). Name another folder."
            ) from error


def existing(path: Path) -> RunDirectory:
    """The run directory at a path.

    Raises:
        RunDirectoryError: no such folder, or not one of ours.
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
    return RunDirectory(path)


def log_listener(run: RunDirectory) -> Any:
    """A listener that appends every event but ticks to log.jsonl."""

    def listen(event: Event) -> None:
        if event.kind == "tick":
            return
        entry = {
            "time": time.time(),
            **{k: v for k, v in vars(event).items() if v not in ("", None)},
        }
        with run[LOG].open("a") as file:
            file.write(json.dumps(entry) + "\n")

    return listen


def finite(value: Any) -> Any:
    """The value with null for every number that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(v) for v in value]
    return value
