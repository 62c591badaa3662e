"""Batches and re-iterable streams of them: the only form in which data reach the other layers.

A loader may yield inputs or `(inputs, labels)`; inputs are a tensor, a tuple of tensors or a dict
of keyword tensors. `as_batch` brings all of them to one `Batch`; a `Dataset` can be walked as often
as needed and never holds more than the batch in flight.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import DataError, InputError
from bitwright.sources.arity import Arity, split_items

BatchInputs = tuple[Tensor, ...] | dict[str, Tensor]

LABEL_KEYS = ("labels", "label")
ACCEPTED = (
    "A batch is inputs or (inputs, labels); inputs are a tensor, a tuple of tensors or a dict of "
    "tensors; the first dimension counts the samples"
)
# Tensors without one number a place in memory, and how to make one that has.
_ODD = (
    (lambda t: t.is_meta, "has no values (device 'meta')", "Load or make its values first"),
    (lambda t: t.is_nested, "is a nested tensor", "Pad it by .to_padded_tensor(0.0)"),
    (lambda t: t.is_quantized, "is a quantized tensor", "Pass .dequantize() of it"),
    (lambda t: t.layout is not torch.strided, "is a sparse tensor", "Pass .to_dense() of it"),
)


@dataclass(frozen=True)
class Batch:
    """Some samples: inputs as the network takes them, and labels where there are any.

    Labels are a tensor, a list, a dict of these, or None; they have one entry a sample.
    """

    inputs: BatchInputs
    labels: object | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The input tensors in order, without their names."""
        return tuple(self.inputs.values()) if isinstance(self.inputs, dict) else self.inputs

    @property
    def size(self) -> int:
        """Number of samples: the first dimension of the first input."""
        return int(self.tensors[0].shape[0])

    def cut(self, start: int, stop: int) -> Batch:
        """Samples `start` to `stop`; the tensors are views."""
        if isinstance(self.inputs, dict):
            named = {key: tensor[start:stop] for key, tensor in self.inputs.items()}
            return Batch(named, _cut_labels(self.labels, start, stop))
        plain = tuple(tensor[start:stop] for tensor in self.inputs)
        return Batch(plain, _cut_labels(self.labels, start, stop))


@dataclass(frozen=True)
class Dataset:
    """Batches that can be walked again and again: `open` starts a new pass.

    `is_none` marks the data of `none`: no batch at all, on purpose. `trim` asks for texts without
    their padding (`lengths.batch_by_length`). `classes` are the names of class folders in the
    order of their labels. `notes` fills, as the data are read, with what to tell the user. `each`
    is the one number of samples that the network takes at a time, 0 for any.
    """

    spec: str
    open: Callable[[], Iterator[Batch]]
    is_none: bool = False
    trim: bool = False
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list, compare=False)
    each: int = 0

    def __iter__(self) -> Iterator[Batch]:
        return self.open()


# ---- what a loader yields -> Batch -----------------------------------------------------------


def as_batch(obj: object, place: str, takes: Arity | None = None) -> Batch:
    """Normalise what a loader yields; `place` names it in errors ("batch 3 of data.py:calib").

    `takes` says how many inputs the network has: it tells (image, target) from two inputs
    (`arity.parted`). `((a, b), None)` and `((a,), b)` leave nothing to be told.
    """
    if isinstance(obj, Batch):
        return obj
    given, target = obj, None
    if isinstance(obj, (tuple, list)):
        given, target = split_items(obj, takes, place)
    inputs, own_labels = _split(given, place)
    labels = own_labels if target is None else target
    batch = Batch(inputs, None)
    return Batch(inputs, _as_labels(labels, batch.size, place))


def as_inputs(obj: object, place: str, error: type[InputError] = DataError) -> BatchInputs:
    """Inputs alone: a tensor, a tuple or list of tensors, or a dict of tensors."""
    if isinstance(obj, Mapping):
        inputs: BatchInputs = {
            _key(key, place, error): _as_tensor(value, f"input {key!r} of {place}", error)
            for key, value in obj.items()
        }
    elif isinstance(obj, (tuple, list)):
        inputs = tuple(
            _as_tensor(value, f"input {i} of {place}", error) for i, value in enumerate(obj)
        )
    else:
        inputs = (_as_tensor(obj, place, error),)
    _check_lengths(inputs, place, error)
    return inputs


def _split(obj: object, place: str) -> tuple[BatchInputs, object | None]:
    """Inputs, and the labels that a dict of them carries under its own key."""
    if not isinstance(obj, Mapping):
        return as_inputs(obj, place), None
    found = [key for key in LABEL_KEYS if key in obj]
    labels = obj[found[0]] if found else None
    return as_inputs({k: v for k, v in obj.items() if k not in found}, place), labels


def _key(key: object, place: str, error: type[InputError]) -> str:
    if not isinstance(key, str):
        raise error(f"{place} has the key {key!r}: keys of a dict of inputs are argument names.")
    return key


def _as_tensor(value: object, place: str, error: type[InputError]) -> Tensor:
    if isinstance(value, Tensor):
        check_plain(value, place, error)
        return _single(value.detach().cpu())
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        # A copy where numpy's view is read-only or turned round: torch can hold neither.
        return _single(torch.from_numpy(np.require(value, requirements=["C", "W"])))
    what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise error(f"{place} is {what}, not a tensor. {ACCEPTED}.")


def check_plain(tensor: Tensor, place: str, error: type[InputError] = DataError) -> None:
    """Raise where a tensor holds no plain numbers: meta, nested, quantized or sparse."""
    for is_odd, what, remedy in _ODD:
        if is_odd(tensor):
            raise error(f"{place} {what}. {remedy}.")


def _single(tensor: Tensor) -> Tensor:
    """Float numbers in float32, as the network is worked on (`make_working_copy`)."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_lengths(inputs: BatchInputs, place: str, error: type[InputError]) -> None:
    named = inputs.items() if isinstance(inputs, dict) else list(enumerate(inputs))
    if not named:
        raise error(f"{place} holds no input tensor. {ACCEPTED}.")
    sizes: list[int] = []
    for name, tensor in named:
        if tensor.ndim == 0:
            raise error(f"input {name!r} of {place} is a single number. {ACCEPTED}.")
        sizes.append(int(tensor.shape[0]))
    if len(set(sizes)) > 1:
        counts = ", ".join(
            f"{name!r} has {size}" for (name, _), size in zip(named, sizes, strict=True)
        )
        raise error(f"inputs of {place} differ in their number of samples: {counts}. {ACCEPTED}.")


def _as_labels(labels: object | None, size: int, place: str) -> object | None:
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return {str(key): _as_labels(value, size, place) for key, value in labels.items()}
    if isinstance(labels, np.ndarray):
        labels = torch.from_numpy(labels.copy()) if labels.dtype.kind in "fiub" else list(labels)
    if isinstance(labels, Tensor):
        check_plain(labels, f"the target of {place}")
        labels = labels.detach()
        labels = labels.reshape(1) if labels.ndim == 0 else labels
    elif isinstance(labels, (tuple, list)):
        labels = list(labels)
    else:
        raise DataError(
            f"labels of {place} are of type {type(labels).__name__}. "
            "Give a tensor or a list with one entry a sample, or None."
        )
    if len(labels) != size:
        raise DataError(
            f"{place} has {size} samples but {len(labels)} labels. Give one label a sample; "
            "for two inputs and no labels write ((a, b), None)."
        )
    return labels


def _cut_labels(labels: object | None, start: int, stop: int) -> object | None:
    if isinstance(labels, dict):
        return {key: _cut_labels(value, start, stop) for key, value in labels.items()}
    if isinstance(labels, (Tensor, list)):
        return labels[start:stop]
    return labels


# ---- streams ---------------------------------------------------------------------------------


def take(dataset: Dataset, n: int) -> Dataset:
    """The first `n` samples of `dataset`, the last batch cut where needed."""
    if n < 1:
        raise DataError(f"cannot take {n} samples of {dataset.spec}: give a number of at least 1.")

    def walk() -> Iterator[Batch]:
        left = n
        for batch in dataset:
            yield batch if batch.size <= left else batch.cut(0, left)
            left -= batch.size
            if left <= 0:  # before asking for a batch more: reading it may be dear
                return

    return replace(dataset, open=walk)


def rebatch(dataset: Dataset, size: int) -> Dataset:
    """The same samples in order, in batches of `size`; fewer where shapes change and at the end.

    Batches are joined only when structure, types and trailing shapes agree. Texts padded to
    different lengths therefore stay apart, and are only split when larger than `size`. Never more
    than `size` samples beyond the batch in flight are held.
    """
    if size < 1:
        raise DataError(f"cannot batch {dataset.spec} by {size}: give a size of at least 1.")
    size, whole = dataset.each or size, bool(dataset.each)

    def walk() -> Iterator[Batch]:
        held: list[Batch] = []
        count = 0
        for batch in dataset:
            if held and _signature(held[0]) != _signature(batch):
                if not whole:
                    yield join(held)
                held, count = [], 0
            start = 0
            while start < batch.size:
                stop = min(batch.size, start + size - count)
                held.append(batch.cut(start, stop))
                count += stop - start
                start = stop
                if count == size:
                    yield join(held)
                    held, count = [], 0
        if held and not whole:
            yield join(held)

    return replace(dataset, open=walk)


def _signature(batch: Batch) -> tuple[object, ...]:
    names = tuple(batch.inputs) if isinstance(batch.inputs, dict) else len(batch.inputs)
    return names, *((t.dtype, tuple(t.shape[1:])) for t in batch.tensors), _kind(batch.labels)


def _kind(labels: object | None) -> object:
    if isinstance(labels, dict):
        return tuple((key, _kind(value)) for key, value in labels.items())
    if isinstance(labels, Tensor):
        return labels.dtype, tuple(labels.shape[1:])
    return type(labels)


def join(batches: list[Batch]) -> Batch:
    """One batch of several that agree in structure, types and trailing shapes."""
    if len(batches) == 1:
        return batches[0]
    labels = _join_labels([batch.labels for batch in batches])
    first = batches[0].inputs
    if isinstance(first, dict):
        rows = [batch.tensors for batch in batches]
        joined = [torch.cat(column) for column in zip(*rows, strict=True)]
        return Batch(dict(zip(first, joined, strict=True)), labels)
    columns = zip(*(batch.tensors for batch in batches), strict=True)
    return Batch(tuple(torch.cat(column) for column in columns), labels)


def _join_labels(parts: list[Any]) -> object | None:
    first = parts[0]
    if isinstance(first, dict):
        return {key: _join_labels([part[key] for part in parts]) for key in first}
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, list):
        return [label for part in parts for label in part]
    return None


# ---- checks ----------------------------------------------------------------------------------


def digest(dataset: Dataset) -> str:
    """SHA-256 over names, types, shapes and bytes of all inputs; labels do not enter.

    It goes sample by sample, so the same samples have the same digest however they are batched.
    """
    sha = hashlib.sha256(b"bitwright-data-1")
    for batch in dataset:
        _feed(sha, batch)
    return sha.hexdigest()


def mark(batch: Batch) -> int:
    """A checksum of one batch's inputs, cheap enough for every batch of every pass."""
    found = zlib.crc32(repr((tuple(_names(batch)), batch.size)).encode())
    for tensor in batch.tensors:
        found = zlib.crc32(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode(), found)
        flat = tensor.cpu().contiguous().reshape(-1)
        if flat.numel():
            found = zlib.crc32(flat.view(torch.uint8).numpy().data, found)
    return found


def _names(batch: Batch) -> list[str] | range:
    return list(batch.inputs) if isinstance(batch.inputs, dict) else range(len(batch.inputs))


def _feed(sha: hashlib._Hash, batch: Batch) -> None:
    columns = []
    for name, tensor in zip(_names(batch), batch.tensors, strict=True):
        header = f"{name}|{tensor.dtype}|{tuple(tensor.shape[1:])}|".encode()
        flat = tensor.cpu().contiguous().reshape(batch.size, math.prod(tensor.shape[1:]))
        # bfloat16 has no numpy type: hash the bytes, whatever the type is.
        columns.append((header, flat.view(torch.uint8).numpy() if flat.numel() else None))
    for sample in range(batch.size):
        for header, data in columns:
            sha.update(header)
            if data is not None:
                sha.update(data[sample].data)


def check_finite(batch: Batch, place: str, first: int = 0) -> None:
    """Raise DataError when a float input holds NaN or infinity; `first` is its first sample."""
    for name, tensor in zip(_names(batch), batch.tensors, strict=True):
        if not tensor.is_floating_point():
            continue
        finite = torch.isfinite(tensor)
        if bool(finite.all()):
            continue
        bad = ~finite.reshape(batch.size, math.prod(tensor.shape[1:]))
        sample = int(bad.any(dim=1).nonzero()[0])
        raise DataError(
            f"sample {first + sample} of {place}: {int(bad[sample].sum())} values of input "
            f"{name!r} are NaN or infinite. Mend or leave out this sample."
        )
