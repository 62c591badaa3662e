"""Every error that a user can meet.

    BitwrightError
    |-- InputError            the user's input is wrong: exit code 2
    |   |-- ModelError        a MODEL cannot be found, built or is not a network
    |   |-- CaptureError      a network cannot be captured as a graph
    |   |-- DataError         a D cannot be found, is empty, misshapen or not finite
    |   |-- RecipeError       an unknown or ill-valued option, scheme, target, metric or recipe key
    |   |-- BudgetError       no allocation holds the budgets; the message says what is attainable
    |   |-- RunDirectoryError a run directory is missing, foreign, of another version or damaged
    |   |-- TrustError        a run's recipe names code that the user has not named: it is not run
    |   |-- StoreError        the store's directory cannot be read or written, or its disk is full
    |   |-- FileError         a file cannot be written: no space, no right, a disk that fails
    |   `-- ClusterError      the cluster of --workers cannot be used
    |-- WorkerError           a worker process died: exit code 2
    `-- InterruptedRun        the user stopped it: exit code 130

A message carries the value, the place and the remedy. The command prints the message alone, never
a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BitwrightError(Exception):
    """Base of all errors that Bitwright raises on purpose."""

    exit_code = 2


class InputError(BitwrightError):
    """What the user gave cannot be used as it is."""


class ModelError(InputError):
    """A MODEL cannot be found, built, or is not a network."""


class CaptureError(InputError):
    """A network cannot be captured as a graph."""


class DataError(InputError):
    """Data are missing, empty, misshapen or not finite."""


class RecipeError(InputError):
    """An option or a recipe key is unknown or has a value that makes no sense."""


class BudgetError(InputError):
    """No allocation holds the budgets."""


class RunDirectoryError(InputError):
    """A run directory is missing, holds something else, or is damaged."""


class TrustError(InputError):
    """A run names code that the user has not named, so it is not run."""


class StoreError(InputError):
    """The store's directory cannot be used, or its disk is full."""


class FileError(InputError):
    """A file cannot be written: its disk is full, write-protected or fails."""


class ClusterError(InputError):
    """The cluster of `--workers` cannot be reached, or its package is missing."""


class WorkerError(BitwrightError):
    """A worker process died while it worked."""


class InterruptedRun(BitwrightError):
    """The user stopped the work."""

    exit_code = 130


class RunWarning(UserWarning):
    """A run can be read, but not all that is expected of one can be promised."""


def unknown(kind: str, value: str, known: Iterable[str], where: str = "") -> str:
    """One message for every name that is looked up: value, place, nearest known name."""
    names = sorted(known)
    value = str(value)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    place = f" in {where}" if where else ""
    return f"unknown {kind} {value!r}{place}. {hint}Known: {', '.join(names)}."
