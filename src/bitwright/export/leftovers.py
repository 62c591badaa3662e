"""A run that failed before anything was solved leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bitwright.engine.files import remove_tree
from bitwright.export.rundir import LOCK, LOG, MANIFEST, RECIPE, STAGING, STORE, RunDirectory

# What a run writes before it has solved anything. The recipe goes before the manifest: alone it
# would look like a run of an earlier version.
_BEGUN = (LOG, RECIPE, MANIFEST)


@contextlib.contextmanager
def remove_folders_on_failure(out: Path) -> Iterator[None]:
    """Remove the folders that were made for a run which then failed, where they are empty.

    A folder that the user made stays; one that holds what an earlier attempt left is a run's.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    if (out / RECIPE).is_file():
        made.insert(0, out)
    try:
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # it is not empty: something is worth keeping
                folder.rmdir()
        raise


@contextlib.contextmanager
def remove_files_on_failure(run: RunDirectory) -> Iterator[None]:
    """Remove what a failed run has written into a folder, unless running again can take it up.

    Inside the claim on the folder: nobody else writes there. Solved units and every file of a whole
    run are worth keeping.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if not _is_worth_keeping(run):
                remove_tree(run[STORE])
                for name in _BEGUN:
                    run[name].unlink(missing_ok=True)
        raise


def _is_worth_keeping(run: RunDirectory) -> bool:
    names = {path.name for path in run.path.iterdir()}
    if names - {*_BEGUN, LOCK, STAGING, STORE}:
        return True
    return any(path.is_file() or path.is_symlink() for path in run[STORE].rglob("*"))
