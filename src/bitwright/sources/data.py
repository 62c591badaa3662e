"""D -> Dataset: a user's function, a folder of images, arrays, lines of text, or none."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from bitwright.errors import DataError
from bitwright.sources.batches import (
    ACCEPTED,
    Batch,
    Dataset,
    as_batch,
    check_finite,
    first_digest,
    take,
)
from bitwright.sources.guard import Foreign, absent, reason
from bitwright.sources.images import ImageOptions, ImagePreprocess, folder_dataset, list_images
from bitwright.sources.specs import Spec, load_function, parse_data
from bitwright.sources.text import TextPreprocess, jsonl_dataset

NPZ_BATCH = 50
# A list is a list of batches, but a tuple is one batch: (inputs, labels) or several inputs.
ONE_BATCH = (Batch, Tensor, np.ndarray, Mapping, tuple)
_END = object()

GuardFactory = Callable[[str], Foreign]


def load_data(
    spec: str,
    *,
    preprocess: object | None = None,
    image: ImageOptions | None = None,
    limit: int | None = None,
) -> Dataset:
    """Open D; every batch of every pass is checked to be well formed and finite.

    `preprocess` is the network's own (`LoadedModel.preprocess`); `image` overrides it for folders;
    `limit` keeps the first samples. A pass without a sample is an error, except for `none`.
    """
    parsed = parse_data(spec)
    if parsed.kind == "none":
        return no_data()
    if parsed.kind in ("file", "module"):
        dataset = _function_dataset(parsed)
    elif parsed.kind == "npz":
        dataset = _checked(_npz_dataset(parsed))
    elif parsed.kind == "jsonl":
        dataset = _checked(jsonl_dataset(parsed.path, preprocess, spec=spec))
    else:
        picture = _image_preprocess(preprocess, image, parsed)
        dataset = _checked(folder_dataset(parsed.path, picture, spec=spec))
    return dataset if limit is None else take(dataset, limit)


def no_data() -> Dataset:
    """The data of `none`: for methods that need no data."""
    return Dataset("none", lambda: iter(()), is_none=True)


def as_dataset(obj: object, *, name: str = "the data") -> Dataset:
    """What a Python caller passes as data -> Dataset, with the checks of `load_data`.

    Accepted: a Dataset, None (no data), a spec (str), a torch DataLoader, one batch (a tensor, an
    array, a dict of them, or a tuple as `as_batch` takes it), a list of batches, any other
    re-iterable of batches, or a function without arguments that returns one of these.
    """
    if isinstance(obj, Dataset):
        return obj
    if obj is None:
        return no_data()
    if isinstance(obj, str):
        return load_data(obj)
    if isinstance(obj, nn.Module):
        raise DataError(f"{name} is a network ({type(obj).__name__}). Pass batches of its inputs.")
    if isinstance(obj, ONE_BATCH):
        return _stream(name, lambda: iter((obj,)), _plain_guard)
    if isinstance(obj, Iterable):
        if isinstance(obj, Iterator):
            raise DataError(
                f"{name} is an iterator ({type(obj).__name__}): it can be walked only once, and "
                "several passes are needed. Pass the list of its batches or the function that "
                "makes it."
            )
        _check_order(obj, name)
        return _stream(name, _passes(lambda: obj, name, _plain_guard), _plain_guard)
    if callable(obj):
        return _stream(name, _passes(obj, name, _plain_guard), _plain_guard)
    raise DataError(
        f"{name} is of type {type(obj).__name__}. Pass a DataLoader, a list of batches, a tensor "
        f"or a function that returns batches. {ACCEPTED}."
    )


def _plain_guard(doing: str) -> Foreign:
    return Foreign(DataError, doing)


# ---- functions and iterables -----------------------------------------------------------------


def _function_dataset(spec: Spec) -> Dataset:
    function = load_function(spec, DataError)

    def guard(doing: str) -> Foreign:
        return function.guard(DataError, doing)

    return _stream(spec.text, _passes(function.call, spec.text, guard), guard)


def _passes(
    call: Callable[[], object], name: str, guard: GuardFactory
) -> Callable[[], Iterator[object]]:
    """A function that starts a new pass over what `call` returns.

    A loader object is made once and walked again; a generator is made anew for each pass.
    """
    kept: list[object] = []

    def start() -> Iterator[object]:
        if kept:
            result = kept[0]
        else:
            with guard(f"calling {name}"):
                result = call()
        if isinstance(result, Dataset):
            return iter(result)
        if isinstance(result, ONE_BATCH):
            kept[:] = [result]
            return iter((result,))
        if not isinstance(result, Iterable):
            raise DataError(
                f"{name} returned {type(result).__name__}, which is not a re-iterable of batches. "
                f"{ACCEPTED}."
            )
        if not isinstance(result, Iterator):
            kept[:] = [result]
            _check_order(result, name)
        with guard(f"starting a pass over {name}"):
            return iter(result)

    return start


def _check_order(loader: object, name: str) -> None:
    """Refuse shuffling up front: passes are compared sample by sample."""
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler):
        raise DataError(
            f"{name} is a DataLoader that shuffles: every pass must give the same samples in the "
            "same order. Make it with shuffle=False."
        )


def _checked(dataset: Dataset) -> Dataset:
    return _stream(dataset.spec, dataset.open, lambda doing: Foreign(DataError, doing))


def _stream(name: str, start: Callable[[], Iterator[object]], guard: GuardFactory) -> Dataset:
    """A Dataset over raw passes: each item is normalised and checked as it is read.

    The first batch of every pass must be that of the first pass: a loader that shuffles, augments
    at random or is used up by its first pass would silently compare different samples.
    """
    seen: list[str] = []

    def walk() -> Iterator[Batch]:
        items = start()
        count = 0
        for number in itertools.count():
            place = f"batch {number} of {name}"
            with guard(f"reading {place}"):
                item = next(items, _END)
            if item is _END:
                break
            batch = as_batch(item, place)
            if not batch.size:
                continue
            check_finite(batch, name, count)
            if not count:
                _check_same(batch, seen, name)
            count += batch.size
            yield batch
        if not count:
            raise DataError(_empty(name, bool(seen)))

    return Dataset(name, walk)


def _check_same(batch: Batch, seen: list[str], name: str) -> None:
    mark = first_digest(batch)
    if not seen:
        seen.append(mark)
    elif seen[0] != mark:
        raise DataError(
            f"{name} gives other samples on its second pass than on its first. Turn off shuffling "
            "and random augmentation, or fix their seed in every pass."
        )


def _empty(name: str, again: bool) -> str:
    if again:
        return (
            f"{name} gave samples on its first pass but none on a later one. Return something "
            "that can be walked again: a list, a DataLoader or an object whose __iter__ starts "
            "afresh."
        )
    return f"{name} holds no sample. Give at least one batch; a few hundred samples are usual."


# ---- files -----------------------------------------------------------------------------------


def _npz_dataset(spec: Spec) -> Dataset:
    """`x`, and `y` where it is there. Floats and uint8 of `x` become float32, values unchanged.

    uint8 pictures stay as they are stored (0..255, and height, width, channels if so written): an
    array says nothing of the preprocessing that a network wants. Other integers stay integers.
    """
    if not spec.path.is_file():
        raise DataError(f"{absent('file', spec.text)}. Check the path.")
    arrays = _read_npz(spec)
    x = arrays["x"]
    if x.ndim == 0:
        raise DataError(f"'x' of {spec.text} is a single number. Its first dimension is samples.")
    y = arrays.get("y")
    if y is not None and (y.ndim == 0 or len(y) != len(x)):
        counts = f"{len(x)} samples in 'x' but {len(y) if y.ndim else 'a single'} label(s) in 'y'"
        raise DataError(f"{spec.text} has {counts}. Give one label a sample, or leave 'y' out.")

    if y is not None and y.dtype.kind in "iu":
        y = y.astype(np.int64)  # class indices are often stored as bytes, which torch cannot index

    def walk() -> Iterator[Batch]:
        for start in range(0, len(x), NPZ_BATCH):
            part = x[start : start + NPZ_BATCH]
            as_float = part.dtype.kind == "f" or part.dtype == np.uint8
            tensor = torch.from_numpy(part.astype(np.float32 if as_float else np.int64))
            labels = None if y is None else y[start : start + NPZ_BATCH]
            yield as_batch(((tensor,), labels), spec.text)

    return Dataset(spec.text, walk)


def _read_npz(spec: Spec) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with np.load(spec.path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{spec.text} is a single array. Save it by np.savez(FILE, x=...).")
            names = list(file.files)
            if "x" not in names:
                raise DataError(
                    f"{spec.text} has no array 'x' (it has {names}). Save the inputs as 'x' and, "
                    "optional, the labels as 'y'."
                )
            arrays: dict[str, np.ndarray[Any, Any]] = {
                key: file[key] for key in ("x", "y") if key in names
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise DataError(
            f"cannot read {spec.text}: {reason(exc)}. Save plain numbers by np.savez(FILE, x=...)."
        ) from exc
    if arrays["x"].dtype.kind not in "fiub":
        raise DataError(f"'x' of {spec.text} is an array of {arrays['x'].dtype}, not of numbers.")
    return arrays


def _image_preprocess(
    preprocess: object | None, image: ImageOptions | None, spec: Spec
) -> Callable[[Any], Tensor]:
    known = preprocess if isinstance(preprocess, ImagePreprocess) else None
    asked = image is not None and image != ImageOptions()
    # A tokenizer wrapper is callable too, but makes nothing of a picture.
    own = callable(preprocess) and not isinstance(preprocess, (ImagePreprocess, TextPreprocess))
    if own and not asked:
        return cast("Callable[[Any], Tensor]", preprocess)
    try:
        return (image or ImageOptions()).over(known)
    except DataError as exc:
        list_images(spec.path)  # a folder without pictures is the more telling mistake
        raise DataError(f"folder {spec.text!r}: {exc}") from exc
