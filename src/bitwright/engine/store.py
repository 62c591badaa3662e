"""The store: results by the digest of all that they depend on, so that resuming is running again.

One entry is one safetensors file, `DIRECTORY/v1/KE/KEY.safetensors`: tensors, and in its header one
JSON text with the layout, the key, the metadata and a checksum over all of them. A file appears
whole or not at all, whatever kills the process; what is damaged anyway reads as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bitwright.engine.digest import digest
from bitwright.engine.files import is_full, read_plain, write_atomically
from bitwright.engine.layout import dense_strides
from bitwright.errors import FileError, StoreError

LAYOUT = 1
_HEADER = "bitwright"
_KEY = re.compile(r"[0-9a-f]{8,128}")
# No write takes this long: a temporary file that is older was left by a process that was killed.
_ABANDONED_S = 3600.0

StoredEntry = tuple[dict[str, Tensor], dict[str, Any]]
NoteListener = Callable[[str], None]


@dataclass
class Counts:
    """What a store was asked for in this process; `damaged` entries are among the misses."""

    hits: int = 0
    misses: int = 0
    puts: int = 0
    damaged: int = 0


class Entries(Protocol):
    """What callers need of a store."""

    counts: Counts

    def get(self, key: str) -> StoredEntry | None:
        """What is stored under a key, or None."""

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Store tensors and plain JSON values under a key."""


@dataclass
class NullStore:
    """Remembers nothing: for runs without a store."""

    counts: Counts = field(default_factory=Counts)

    def get(self, key: str) -> StoredEntry | None:  # noqa: ARG002 - the interface of a store
        """Nothing is ever there."""
        self.counts.misses += 1
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Nothing is kept."""
        self.counts.puts += 1


class Store:
    """A directory of entries; any number of processes may use it at once.

    Tensors come back bit for bit: type, shape and strides (a copy, on the CPU). A store can be sent
    to a worker, where it counts for itself.

    Args:
        directory: made where it does not exist.
        note: told of every damaged entry.

    Raises:
        StoreError: the directory cannot be made or written.
    """

    def __init__(self, directory: Path | str, note: NoteListener | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.counts = Counts()
        self._note = note
        self._folder = self.directory / f"v{LAYOUT}"
        _check_no_link(self._folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.directory, error) from error
        _sweep(self._folder)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.directory,)

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of the store: give a digest in hexadecimal.")
        return self._folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        """Whether a file is there; `get` also checks it."""
        return self.path(key).is_file()

    def get(self, key: str) -> StoredEntry | None:
        """The tensors and metadata of a key; None where there are none or they are damaged."""
        path = self.path(key)
        try:
            entry = _decode(read_plain(path), key)
        except FileNotFoundError:
            self.counts.misses += 1
            return None
        except (OSError, ValueError, SafetensorError) as error:
            self.counts.misses += 1
            self.counts.damaged += 1
            if self._note is not None:
                self._note(f"{path} is damaged ({error}): it is computed again and replaced.")
            return None
        self.counts.hits += 1
        return entry

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write an entry whole, in place of whatever stands there.

        Raises:
            StoreError: the disk is full or the directory cannot be written.
        """
        path = self.path(key)
        content = _encode(key, tensors, meta)
        _check_no_link(path.parent)
        try:
            write_atomically(path, content)
        except FileError as error:
            cause = error.__cause__
            assert isinstance(cause, OSError)
            raise _unusable(self.directory, cause) from error
        self.counts.puts += 1


def _check_no_link(folder: Path) -> None:
    """What the store makes inside its directory leads nowhere else."""
    if folder.is_symlink():
        raise StoreError(
            f"{folder} is a link, and a store writes into its own directory alone. Remove it, or "
            "name the place that it leads to with --store DIR."
        )


def examine(directory: Path) -> tuple[int, list[str]]:
    """How many entries of a store are whole, and what is wrong with the others; nothing changes."""
    whole, faults = 0, []
    for path in sorted((directory / f"v{LAYOUT}").glob("*/*.safetensors")):
        if path.name.startswith("."):
            continue
        try:
            _decode(read_plain(path), path.stem)
            whole += 1
        except (OSError, ValueError, SafetensorError) as error:
            faults.append(f"{path}: {error}")
    return whole, faults


def _unusable(directory: Path, error: OSError) -> StoreError:
    if is_full(error):
        return StoreError(
            f"the disk of the store {directory} is full ({error.strerror}). Free some space, or "
            "name another place with --store DIR; what is stored stays valid, so the same command "
            "resumes."
        )
    return StoreError(
        f"the store {directory} cannot be written ({error.strerror or error}). Name a directory "
        "that you may write with --store DIR."
    )


def _sweep(folder: Path) -> None:
    """Remove the half-written files of processes that were killed."""
    with contextlib.suppress(OSError):
        for path in folder.glob("*/.*.safetensors.*"):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)


def _encode(key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    # The file holds logical order, which any reader understands; the strides are kept beside it.
    strides = {n: list(dense_strides(t)) for n, t in tensors.items()}
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in sorted(tensors.items())}
    head = {"layout": LAYOUT, "key": key, "strides": strides, "meta": dict(meta)}
    text = json.dumps(head)
    if json.loads(text) != head and "NaN" not in text:
        raise TypeError(f"metadata {dict(meta)!r} would not come back the same from JSON.")
    head["sha256"] = _checksum(head, plain)
    return bytes(save(plain, {_HEADER: json.dumps(head, sort_keys=True)}))


def _decode(content: bytes, key: str) -> StoredEntry:
    """Read the content of a file; any doubt is a ValueError or a SafetensorError."""
    end = 8 + int.from_bytes(content[:8], "little")
    if len(content) < end or end <= 8:
        raise ValueError("it is cut short")
    try:
        head = json.loads(json.loads(content[8:end])["__metadata__"][_HEADER])
        stated = head.pop("sha256")
        strides = head["strides"]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError("its header cannot be read") from error
    try:
        tensors = load(content)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError("its tensors cannot be read") from error
    if head.get("layout") != LAYOUT or head.get("key") != key:
        raise ValueError("it belongs to another key or layout")
    if _checksum(head, tensors) != stated:
        raise ValueError("its content does not match its checksum")
    return {n: _restride(t, strides[n]) for n, t in tensors.items()}, head["meta"]


def _checksum(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    text = json.dumps(head, sort_keys=True).encode()
    return digest(hashlib.sha256(text).hexdigest(), dict(tensors))


def _restride(tensor: Tensor, strides: list[int]) -> Tensor:
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
