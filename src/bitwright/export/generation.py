"""Writing a run directory: by one process at a time, and all files of a change together.

What is new is made ready in a folder of its own. Then the manifest says which names are to change,
the files take their places, and the manifest says what they are. So a full disk is met before
anything has changed; and whatever ends the process between two files, the manifest tells which of
them belong to no whole run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bitwright.engine.files import (
    is_temporary,
    remove_tree,
    say_failures,
    sweep,
    sync_file,
    sync_folder,
    write_atomically,
)
from bitwright.engine.lock import hold
from bitwright.engine.manifest import Manifest, seal
from bitwright.engine.record import Record
from bitwright.errors import RunDirectoryError
from bitwright.export import rundir
from bitwright.export.rundir import LOCK, LOG, MANIFEST, RECIPE, STAGING, STORE, R, RunDirectory
from bitwright.recipe.names import AUTO
from bitwright.recipe.values import SETTLED_BY_TIME

# How a recipe writes what the network decides.
_OPEN = f' = "{AUTO}"'
# What is there before a run has anything to show.
_BEFORE = {RECIPE, LOG, STORE, MANIFEST, LOCK, STAGING}


@contextlib.contextmanager
def claim_run(path: Path, recipe: str, force: bool = False) -> Iterator[RunDirectory]:
    """A folder for a run of this recipe, new or taken up again, which nobody else writes inside.

    With `force` another run that is there is replaced: its files are removed, its store, which any
    run can use, is kept, and what is not of a run stays.

    Raises:
        RunDirectoryError: somebody writes it now, or it holds another run or other files.
        FileError: it cannot be written.
    """
    present = _make(path)
    if not _is_ours(present):
        raise RunDirectoryError(
            f"--out {path} is not empty and holds no run (it has {min(present)!r}). Name an empty "
            "or a new folder."
        )
    with hold(path / LOCK):
        _clean(path)
        if _is_another(path, recipe):
            if not force:
                raise RunDirectoryError(
                    f"--out {path} already holds another run (its recipe.toml differs from what is "
                    "asked for). Name another folder, or replace this run with --force."
                )
            _remove_run(path)
        run = rundir.open_folder(path)
        if not set(_names(path)) - _BEFORE:
            # First of all: a recipe alone would look like a run of an earlier version.
            _write(run, Manifest(pending=tuple(sorted(rundir.WRITTEN))))
            write_atomically(run[RECIPE], recipe.encode())
        yield rundir.open_folder(path)


@contextlib.contextmanager
def update_run(path: Path) -> Iterator[RunDirectory]:
    """An existing run that nobody else writes inside.

    Raises:
        RunDirectoryError: no run, or somebody writes it now.
        FileError: it cannot be written.
    """
    rundir.open_existing(path)
    with hold(path / LOCK):
        _clean(path)
        yield rundir.open_folder(path)


@dataclass
class Staged:
    """Files that are made ready, in a folder of their own."""

    run: RunDirectory
    whole: bool
    removed: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Path:
        """Where a file is made ready."""
        return self.run[STAGING] / name

    def write(self, name: str, content: bytes) -> None:
        """Make a file ready."""
        write_atomically(self[name], content)

    def write_json(self, name: str, value: Record) -> None:
        """Make a JSON file ready; numbers that JSON does not know become null."""
        self.write(name, rundir.as_json(value))

    def remove(self, name: str) -> None:
        """Let a file of the run go."""
        self.removed.add(name)

    def read(self, name: str, kind: type[R]) -> R | None:
        """A JSON file of the run as it will be; None where there will be none."""
        if self[name].is_file():
            return RunDirectory(self.run[STAGING]).read(name, kind)
        if name in self.removed or self.whole or not self.run.has(name):
            return None
        return self.run.read(name, kind)

    def names(self) -> list[str]:
        """What is ready."""
        return [name for name in _names(self.run[STAGING]) if not is_temporary(name)]

    def sizes(self) -> dict[str, int]:
        """The files of the run as it will be, and their sizes."""
        gone = {*self.removed, *(rundir.WRITTEN if self.whole else ())}
        kept = {n: size for n, size in self.run.sizes().items() if n not in gone}
        return kept | {name: self[name].stat().st_size for name in self.names()}


@contextlib.contextmanager
def change(run: RunDirectory, whole: bool = False) -> Iterator[Staged]:
    """Files of a run that take their places together, when the block ends without an error.

    Args:
        run: claimed or updating, as its manifest is now.
        whole: everything is written anew; what is not written is no longer there.

    Raises:
        FileError: the disk is full, write-protected or fails.
    """
    staged = Staged(run, whole)
    with say_failures(run[STAGING]):
        remove_tree(run[STAGING])
        run[STAGING].mkdir()
    try:
        yield staged
        with say_failures(run.path):
            _put_in_place(run, staged)
    finally:
        # What stays behind is swept by the next writer.
        with contextlib.suppress(OSError):
            remove_tree(run[STAGING])


def _put_in_place(run: RunDirectory, staged: Staged) -> None:
    names = staged.names()
    seals = {}
    for name in names:
        sync_file(staged[name])
        seals[name] = seal(staged[name])
    before = run.manifest or Manifest()
    leaving = staged.removed - set(names)
    if staged.whole:
        leaving |= {*before.files, *rundir.WRITTEN} - {RECIPE, LOG, *names}
    touched = {*names, *leaving}
    kept = {name: s for name, s in before.files.items() if name not in touched}
    sealed = run.manifest is not None or staged.whole
    if sealed:
        _write(run, Manifest(kept, tuple({*before.pending, *touched})))
    for name in names:
        staged[name].replace(run[name])
    for name in leaving:
        run[name].unlink(missing_ok=True)
    sync_folder(run.path)
    if sealed:
        if staged.whole:
            kept |= {name: seal(run[name]) for name in (RECIPE, LOG) if run[name].is_file()}
        pending = () if staged.whole else tuple(set(before.pending) - touched)
        _write(run, Manifest(kept | seals, pending))


def _write(run: RunDirectory, manifest: Manifest) -> None:
    write_atomically(run[MANIFEST], manifest.text())


def _make(path: Path) -> list[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return _names(path)
    except OSError as error:
        raise RunDirectoryError(
            f"--out {path} cannot be written ({error.strerror}). Name a folder that can be made."
        ) from error


def _names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def _is_ours(present: list[str]) -> bool:
    """Whether a folder holds a run, or what a run that was killed at its very start has left."""
    names = {name for name in present if not is_temporary(name)}
    return RECIPE in names or names <= {LOCK, MANIFEST}


def _clean(path: Path) -> None:
    """Remove what a killed writer left; refuse what would lead out of the folder."""
    for name in (STORE, STAGING, LOG):
        if (path / name).is_symlink():
            raise RunDirectoryError(
                f"{path / name} is a link, and a run writes into its own folder alone. Remove it"
                + (", or name that place with --store DIR." if name == STORE else ".")
            )
    with say_failures(path):
        sweep(path)
        remove_tree(path / STAGING)


def _is_another(path: Path, recipe: str) -> bool:
    run = RunDirectory(path)
    # A run that failed leaves its recipe, its log and a store that any run can use.
    if not run[RECIPE].is_file() or not set(_names(path)) - _BEFORE:
        return False
    return not settles(run.read_text(RECIPE), recipe)


def settles(there: str, asked: str) -> bool:
    """Whether a recipe is the one that was asked for, its open words perhaps decided since."""
    lines = there.splitlines(), asked.splitlines()
    timed = not any(line == 'time = ""' for line in lines[1])
    free = SETTLED_BY_TIME if timed else ()

    def same(a: str, b: str) -> bool:
        key = a.split(" = ")[0]
        decided = b.endswith(_OPEN) and key == b.removesuffix(_OPEN)
        return a == b or decided or (key in free and key == b.split(" = ")[0])

    return len(lines[0]) == len(lines[1]) and all(map(same, *lines))


def _remove_run(path: Path) -> None:
    """Remove the files of a run but its recipe: what remains after a fault is no stranger's."""
    run = RunDirectory(path)
    _write(run, Manifest(pending=tuple(sorted(rundir.WRITTEN))))
    with say_failures(path):
        for name in (*rundir.WRITTEN, LOG):
            run[name].unlink(missing_ok=True)
