"""`X.npz` -> batches, a few rows at a time: what a file expands to is never held as a whole.

An npz is a zip of arrays and may expand a thousandfold. The headers say what is in it before
anything is expanded; rows are then read from the stream as they are needed.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from bitwright.errors import DataError
from bitwright.sources.batches import Batch, Dataset, as_batch
from bitwright.sources.guard import reason, say_absent

BATCH = 50
# Bounds on what is expanded at once. Values become four or eight bytes each.
BATCH_VALUES = 1 << 24
SAMPLE_VALUES = 1 << 26
WHOLE_BYTES = 1 << 30

_MAGIC = b"\x93NUMPY"
_SAVE = "Save plain numbers by np.savez(FILE, x=...)"
# What zipfile, zlib and numpy raise on a damaged, encrypted or foreign file.
_UNREADABLE = (
    OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError,
    NotImplementedError,
)  # fmt: skip

ArrayRows = np.ndarray[Any, Any]


def npz_dataset(path: Path, name: str, inputs: tuple[str, ...] = ()) -> Dataset:
    """The inputs, and the labels `y` where they are there.

    Inputs are an array for each of `inputs`, where the file has them all by name, else `x`. Floats
    and uint8 become float32, values unchanged. uint8 pictures stay as they are stored (0..255, and
    height, width, channels if so written): an array says nothing of the preprocessing that a
    network wants. Other integers stay integers.
    """
    if not path.is_file():
        raise DataError(f"{say_absent('file', name)}. Check the path.")
    arrays, y = _read_headers(path, name, inputs)
    for array in arrays:
        _check_numbers(array, name)
    count = arrays[0].shape[0]
    for array in arrays[1:]:
        if array.shape[0] != count:
            raise DataError(
                f"{name} has {count} samples in {arrays[0].key!r} but {array.shape[0]} in "
                f"{array.key!r}. Give one entry a sample in each."
            )
    if y is not None and (not y.shape or y.shape[0] != count):
        counts = (
            f"{count} samples in {arrays[0].key!r} but "
            f"{y.shape[0] if y.shape else 'a single'} label(s)"
        )
        raise DataError(f"{name} has {counts} in 'y'. Give one label a sample, or leave 'y' out.")
    step = min(s.rows_at_once(name) for s in (*arrays, y) if s is not None)

    def walk() -> Iterator[Batch]:
        labels = None if y is None else y.parts(step, name)
        for parts in zip(*(array.parts(step, name) for array in arrays), strict=True):
            tensors = [_as_tensor(part) for part in parts]
            own = None if labels is None else next(labels)
            if own is not None and own.dtype.kind in "iu":
                own = own.astype(np.int64)  # class indices as bytes: torch cannot index by those
            named = arrays[0].key in inputs
            keys = [array.key for array in arrays]
            given = dict(zip(keys, tensors, strict=True)) if named else tuple(tensors)
            yield as_batch((given, own), name)

    return Dataset(name, walk)


def named_arrays(
    path: Path, names: Sequence[str], name: str
) -> Iterator[dict[str, ArrayRows]] | None:
    """The arrays of a file's inputs by name, a few rows at a time; None where it holds `x` alone.

    Raises:
        DataError: an input is missing, or the arrays have other numbers of rows.
    """
    if not path.is_file():
        raise DataError(f"{say_absent('file', name)}. Check the path.")
    try:
        with zipfile.ZipFile(path) as archive:
            held = [entry.removesuffix(".npy") for entry in archive.namelist()]
            if not set(held) & set(names):
                return None
            lacking = [own for own in names if own not in held]
            if lacking:
                raise DataError(
                    f"{name} has no array for the input {lacking[0]!r} (it has {held[:20]}). Save "
                    "one for each input, by its name."
                )
            stored = [_find_stored(archive, path, own) for own in names]
    except _UNREADABLE as exc:
        raise DataError(f"cannot read {name}: {reason(exc)}. {_SAVE}.") from exc
    for one in stored:
        if one.dtype.kind not in "fiub" or not one.shape or one.shape[0] != stored[0].shape[0]:
            raise DataError(
                f"{one.key!r} of {name} has shape {one.shape} of {one.dtype}: the first dimension "
                f"of every input is samples, of which {stored[0].key!r} has {stored[0].shape[:1]}."
            )
    step = min(one.rows_at_once(name) for one in stored)
    rows = [one.parts(step, name) for one in stored]
    return (dict(zip(names, parts, strict=True)) for parts in zip(*rows, strict=True))


def _as_tensor(part: ArrayRows) -> torch.Tensor:
    as_float = part.dtype.kind == "f" or part.dtype == np.uint8
    return torch.from_numpy(part.astype(np.float32 if as_float else np.int64))


def _check_numbers(array: StoredArray, name: str) -> None:
    if array.dtype.kind not in "fiub":
        raise DataError(f"{array.key!r} of {name} is an array of {array.dtype}, not of numbers.")
    if not array.shape:
        raise DataError(
            f"{array.key!r} of {name} is a single number. Its first dimension is samples."
        )


@dataclass(frozen=True)
class StoredArray:
    """An array in an npz file, not read yet."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def _row(self) -> tuple[int, int]:
        values = math.prod(self.shape[1:])
        return values, values * self.dtype.itemsize

    @property
    def in_memory(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows_at_once(self, name: str) -> int:
        """How many rows a batch may have; DataError where a single one is beyond the bounds."""
        values, _ = self._row
        if not values:
            raise DataError(f"{self.key!r} of {name} has shape {self.shape}: a sample is empty.")
        if values > SAMPLE_VALUES:
            raise DataError(
                f"a sample of {self.key!r} of {name} holds {values:,} values; up to "
                f"{SAMPLE_VALUES:,} are read. Give smaller samples, or batches of your own by "
                "FILE.py:FUNCTION."
            )
        if self.fortran and self.in_memory > WHOLE_BYTES:
            raise DataError(
                f"{self.key!r} of {name} is stored in Fortran order and expands to "
                f"{self.in_memory:,} bytes; such an array is read as a whole, up to "
                f"{WHOLE_BYTES:,}. Save np.ascontiguousarray of it, which is read a few samples at "
                "a time."
            )
        return max(1, min(BATCH, BATCH_VALUES // values))

    def parts(self, step: int, name: str) -> Iterator[ArrayRows]:
        """The array `step` rows at a time; each pass opens the file anew."""
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(f"{self.key}.npy") as file,
            ):
                _header(file)
                yield from self._whole(file, step) if self.fortran else self._rows(file, step)
        except _UNREADABLE as exc:
            raise DataError(f"cannot read {name}: {reason(exc)}. {_SAVE}.") from exc

    def _rows(self, file: IO[bytes], step: int) -> Iterator[ArrayRows]:
        for start in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - start)
            data = _read_exactly(file, count * self._row[1])
            yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def _whole(self, file: IO[bytes], step: int) -> Iterator[ArrayRows]:
        data = np.frombuffer(_read_exactly(file, self.in_memory), self.dtype)
        whole = data.reshape(self.shape, order="F")
        for start in range(0, self.shape[0], step):
            yield np.ascontiguousarray(whole[start : start + step])


def _read_exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError("an array ends before its last row")
    return data


def _read_headers(
    path: Path, name: str, inputs: tuple[str, ...]
) -> tuple[list[StoredArray], StoredArray | None]:
    try:
        with path.open("rb") as file:
            single = file.read(len(_MAGIC)) == _MAGIC
        if single:
            raise DataError(f"{name} is a single array. Save it by np.savez(FILE, x=...).")
        with zipfile.ZipFile(path) as archive:
            names = [entry.removesuffix(".npy") for entry in archive.namelist()]
            keys = _keys_of(names, inputs, name)
            arrays = [_find_stored(archive, path, key) for key in keys]
            labelled = "y" in names and "y" not in keys
            return arrays, _find_stored(archive, path, "y") if labelled else None
    except _UNREADABLE as exc:
        raise DataError(f"cannot read {name}: {reason(exc)}. {_SAVE}.") from exc


def _keys_of(names: list[str], inputs: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Which arrays are the inputs: those that the network names, else `x`."""
    if inputs and all(key in names for key in inputs):
        return inputs
    if len(inputs) > 1:
        missing = next(key for key in inputs if key not in names)
        raise DataError(
            f"{name} has no array {missing!r} (it has {names[:20]}). Save each input by its name: "
            f"{', '.join(inputs)}."
        )
    if "x" not in names:
        also = f"{inputs[0]!r} or " if inputs else ""
        raise DataError(
            f"{name} has no array {also}'x' (it has {names[:20]}). Save the inputs as 'x' and, "
            "optional, the labels as 'y'."
        )
    return ("x",)


def _find_stored(archive: zipfile.ZipFile, path: Path, key: str) -> StoredArray:
    entry = f"{key}.npy"
    with archive.open(entry) as file:
        shape, fortran, dtype = _header(file)
        if dtype.kind not in "fiubcUS":
            raise ValueError(f"{key!r} is an array of {dtype}, which is no plain number or text")
        found = StoredArray(path, key, shape, dtype, fortran)
        held = archive.getinfo(entry).file_size - file.tell()
        if held < found.in_memory:
            raise ValueError(f"{key!r} should hold {found.in_memory:,} bytes and holds {held:,}")
    return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"an array of the format's version {version[0]}.{version[1]}")
