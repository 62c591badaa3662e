"""Whether a run directory is what its run wrote: every file, every entry of its store, versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bitwright.engine import lock
from bitwright.engine.files import is_temporary
from bitwright.engine.manifest import read_version
from bitwright.engine.record import OPTIONAL, Record, store_as
from bitwright.engine.store import examine
from bitwright.errors import RunDirectoryError, RunWarning
from bitwright.evaluation.figures import Environment, Metrics
from bitwright.export import rundir
from bitwright.export.packed import FORMAT_VERSION, load_packed
from bitwright.export.rundir import RunDirectory
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census
from bitwright.pipeline.runs import recipe_of
from bitwright.recipe.values import Recipe

# What stands in a folder beside the files of the manifest.
_BESIDE = {rundir.MANIFEST, rundir.LOCK, rundir.LOG, rundir.STORE, rundir.STAGING}
_RECORDS: Mapping[str, type[Record]] = {
    rundir.CENSUS: Census, rundir.METRICS: Metrics, rundir.VERIFY: Verification,
}  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Versions(Record):
    """Of formats and programs, as a run states them and as far as it can be read.

    Attributes:
        installed, manifest, bitwright: this program, the manifest's format, what wrote the run.
        recipe, model: of these two files.
        environment: what the run's figures were measured with.
    """

    installed: str
    manifest: int | None = field(default=None, metadata=OPTIONAL)
    bitwright: str | None = field(default=None, metadata=OPTIONAL)
    recipe: int | None = field(default=None, metadata={**OPTIONAL, **store_as(rundir.RECIPE)})
    model: str | None = field(default=None, metadata={**OPTIONAL, **store_as(rundir.MODEL)})
    environment: Environment | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, eq=False, kw_only=True)
class Checked(Record):
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
    versions: Versions

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"sound": self.sound, **super().to_json()}


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
    return Checked(
        run=str(path),
        files=good,
        entries=entries,
        faults=tuple(dict.fromkeys(faults)),
        notes=tuple(notes),
        versions=versions,
    )


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


def _versions(run: RunDirectory, faults: list[str]) -> Versions:
    """What wrote the run; and whether this version reads those files that are what they must be."""
    readers: dict[str, Callable[[], object]] = {
        rundir.RECIPE: partial(recipe_of, run),
        rundir.MODEL: partial(load_packed, run[rundir.MODEL]),
        rundir.ALLOCATION: partial(run.read_json, rundir.ALLOCATION),
        **{name: partial(run.read, name, kind) for name, kind in _RECORDS.items()},
    }
    # What is missing or another was told before.
    there = [n for n in readers if run[n].exists() and _passes([], partial(run.checked, n))]
    good = {name for name in there if _passes(faults, readers[name])}
    measured = run.read(rundir.METRICS, Metrics) if rundir.METRICS in good else None
    return Versions(
        installed=read_version(),
        manifest=run.manifest.version if run.manifest else None,
        bitwright=run.manifest.bitwright if run.manifest else None,
        recipe=Recipe.version if rundir.RECIPE in good else None,
        model=FORMAT_VERSION if rundir.MODEL in good else None,
        environment=measured.environment if measured else None,
    )
