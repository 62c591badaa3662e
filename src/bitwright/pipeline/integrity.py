"""Whether a run directory is what its run wrote: every file, every entry of its store, versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bitwright.engine import lock
from bitwright.engine.files import is_temporary
from bitwright.engine.manifest import read_version
from bitwright.engine.store import examine
from bitwright.errors import RunDirectoryError, RunWarning
from bitwright.export import rundir
from bitwright.export.packed import FORMAT_VERSION, load_packed
from bitwright.export.rundir import RunDirectory
from bitwright.pipeline.runs import recipe_of
from bitwright.recipe.values import Recipe

# What stands in a folder beside the files of the manifest.
_BESIDE = {rundir.MANIFEST, rundir.LOCK, rundir.LOG, rundir.STORE, rundir.STAGING}
_RECORDS = (rundir.CENSUS, rundir.ALLOCATION, rundir.METRICS, rundir.VERIFY)


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        run: the folder.
        files: how many files are what the manifest says.
        entries: how many entries of the run's own store are whole.
        faults: what is wrong; a run is sound where there are none.
        notes: what is worth a word and no fault.
        versions: of formats and programs, as the run states them.
    """

    run: str
    files: int
    entries: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    versions: dict[str, Any]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def as_record(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"sound": self.sound, **asdict(self)}


def check(path: Path) -> Checked:
    """Check a run directory; nothing is changed and no network is run.

    Raises:
        RunDirectoryError: no run, or its manifest cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # told here as a fault
        run = rundir.open_existing(path)
    faults: list[str] = [] if run.manifest is not None else [rundir.note_unsealed(path)]
    stated = sorted({*run.manifest.files, *run.manifest.pending}) if run.manifest else []
    good = sum(_passes(faults, partial(run.checked, name)) for name in stated)
    strange, notes = _others(run)
    faults += strange
    entries, damaged = examine(path / rundir.STORE)
    faults += [f"{fault}. The next run computes it again." for fault in damaged]
    versions = _versions(run, faults)
    writing = lock.owner(path / rundir.LOCK)
    notes += [f"{path} is being written by {writing}."] if writing else []
    return Checked(str(path), good, entries, tuple(dict.fromkeys(faults)), tuple(notes), versions)


def _passes(faults: list[str], look: Callable[[], object]) -> bool:
    try:
        look()
    except RunDirectoryError as error:
        faults.append(str(error))
        return False
    return True


def _others(run: RunDirectory) -> tuple[list[str], list[str]]:
    """Faults and notes about what the manifest does not name."""
    faults, notes = [], []
    known = {*_BESIDE, *run.manifest.files, *run.manifest.pending} if run.manifest else None
    for path in sorted(run.path.iterdir()):
        if path.name == rundir.STAGING or is_temporary(path.name):
            notes.append(f"{path} was left by a writer that was stopped; the next one removes it.")
        elif path.is_symlink() and path.name in (rundir.LOG, rundir.STORE):
            faults.append(f"{path} is a link, and a run writes into its own folder alone.")
        elif known is not None and path.name in {*rundir.WRITTEN} - known:
            faults.append(f"{path} is not in {rundir.MANIFEST}: it is no part of this run.")
        elif known is not None and path.name not in known:
            notes.append(f"{path} is none of the run's files.")
    return faults, notes


def _versions(run: RunDirectory, faults: list[str]) -> dict[str, Any]:
    """What wrote the run; and whether this version reads those files that are what they must be."""
    found: dict[str, Any] = {"installed": read_version()}
    if run.manifest is not None:
        found |= {"manifest": run.manifest.version, "bitwright": run.manifest.bitwright}
    readers: dict[str, Callable[[], object]] = {
        rundir.RECIPE: partial(recipe_of, run),
        rundir.MODEL: partial(load_packed, run[rundir.MODEL]),
        **{name: partial(run.read_json, name) for name in _RECORDS},
    }
    known = {rundir.RECIPE: Recipe.version, rundir.MODEL: FORMAT_VERSION}
    for name, look in readers.items():
        # What is missing or another was told before.
        if not (run[name].exists() and _passes([], partial(run.checked, name))):
            continue
        if _passes(faults, look):
            found |= {name: known[name]} if name in known else {}
            found |= _environment(run) if name == rundir.METRICS else {}
    return found


def _environment(run: RunDirectory) -> dict[str, Any]:
    with_versions = run.read_json(rundir.METRICS).get("environment")
    return {"environment": with_versions} if isinstance(with_versions, dict) else {}
