"""The manifest of a run directory: what each of its files must be, so that they are of one run.

It is the last thing that is written, and before files are replaced it says which: `pending`. A name
that is pending, or is not there, is no part of the run, whatever stands in the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bitwright.errors import RunDirectoryError

VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Seal:
    """The size of a file and the SHA-256 of so many bytes from its beginning."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What the files of a run are.

    Attributes:
        files: name to seal, of every file that is whole.
        pending: names that were being written or removed; empty where the run is whole.
        bitwright: the version that wrote it.
        version: of this format.
    """

    files: Mapping[str, Seal] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    bitwright: str = ""
    version: int = VERSION

    @property
    def whole(self) -> bool:
        """Whether nothing was left undone."""
        return not self.pending

    def text(self) -> bytes:
        """As it stands on disk."""
        record = {
            "version": self.version,
            "bitwright": self.bitwright or read_version(),
            "whole": self.whole,
            "pending": sorted(self.pending),
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
        }
        return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()


def read_version() -> str:
    """The version of this package; `?` where it was not installed."""
    try:
        return version("bitwright")
    except PackageNotFoundError:
        return "?"


def parse_manifest(content: bytes, place: str) -> Manifest:
    """A manifest from its text; `place` names it in errors.

    Raises:
        RunDirectoryError: damaged, or of another version.
    """
    try:
        record = json.loads(content)
        if record["version"] != VERSION:
            raise RunDirectoryError(
                f"{place} has version {record['version']!r}; this bitwright reads {VERSION}. Read "
                f"the run with bitwright {record.get('bitwright')!r}, which wrote it."
            )
        files = {_name(name): _seal(entry) for name, entry in record["files"].items()}
        pending = tuple(_name(name) for name in record["pending"])
        if record["whole"] is not (not pending):
            raise ValueError("'whole' and 'pending' contradict each other")
        return Manifest(files, pending, str(record["bitwright"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunDirectoryError(
            f"{place} is damaged ({type(error).__name__}: {error}), so that nothing is known of "
            "the run's files. Quantise again into a new --out."
        ) from error


def _name(name: Any) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file")
    name.encode()  # half a pair of surrogates is none either
    return name


def _seal(entry: Mapping[str, Any]) -> Seal:
    size, sha256 = entry["size"], entry["sha256"]
    if type(size) is not int or size < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{entry!r} is no size and digest")
    return Seal(size, sha256)


def seal(path: Path, size: int | None = None) -> Seal:
    """The seal of a plain file, or of its first `size` bytes.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(21, "it is no plain file", str(path))
        left = found.st_size if size is None else min(size, found.st_size)
        sha, counted = hashlib.sha256(), 0
        while left and (chunk := file.read(min(left, _CHUNK))):
            sha.update(chunk)
            counted += len(chunk)
            left -= len(chunk)
    return Seal(counted, sha.hexdigest())


def seal_of(content: bytes) -> Seal:
    """The seal of a file's content."""
    return Seal(len(content), hashlib.sha256(content).hexdigest())


def difference(found: Seal, stated: Seal) -> str:
    """How a file differs from what it must be; empty where it does not."""
    if found.size != stated.size:
        return f"{found.size:,} bytes instead of {stated.size:,}"
    return "" if found == stated else f"other content in the same {stated.size:,} bytes"
