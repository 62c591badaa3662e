"""D -> Dataset: a user's function, a folder of images, arrays, lines of text, or none."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from bitwright.errors import DataError
from bitwright.recipe.registered import load_registered
from bitwright.sources.arity import Arity
from bitwright.sources.arrays import npz_dataset
from bitwright.sources.batches import (
    ACCEPTED,
    Batch,
    Dataset,
    as_batch,
    check_finite,
    mark,
    take,
)
from bitwright.sources.guard import Foreign
from bitwright.sources.images import ImageOptions, ImagePreprocess, folder_dataset, list_images
from bitwright.sources.onnx_data import FileInputs, random_dataset
from bitwright.sources.repeated import Passes, repeat_passes
from bitwright.sources.specs import RANDOM, Spec, load_function, parse_data
from bitwright.sources.text import TextPreprocess, jsonl_dataset

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
    takes: Arity | None = None,
    file: FileInputs | None = None,
) -> Dataset:
    """Open D; every batch of every pass is checked to be well formed and finite.

    `preprocess` is the network's own (`LoadedModel.preprocess`); `image` overrides it for folders;
    `limit` keeps the first samples; `takes` is how many inputs the network has, which tells its
    inputs from a target; `file` says what an ONNX file takes. A pass without a sample is an error,
    except for `none`.
    """
    parsed = parse_data(spec)
    if parsed.kind == "none":
        return no_data()
    if parsed.kind == "source":
        name, _, rest = spec.partition(":")
        source = load_registered("source", name)
        dataset = _walk(lambda: source(rest), spec, _plain_guard, takes)
    elif parsed.kind in ("file", "module"):
        dataset = _function_dataset(parsed, takes)
    elif parsed.kind == "npz":
        names = file.names if file else ()
        dataset = _check(npz_dataset(parsed.path, spec, names))
    elif parsed.kind == RANDOM:
        dataset = _check(random_dataset(file))
    elif parsed.kind == "jsonl":
        dataset = _check(jsonl_dataset(parsed.path, preprocess, spec=spec))
    else:
        picture = _image_preprocess(preprocess, image, parsed)
        dataset = _check(folder_dataset(parsed.path, picture, spec=spec))
    dataset = file.fit(dataset) if file else dataset
    return dataset if limit is None else take(dataset, limit)


def no_data() -> Dataset:
    """The data of `none`: for methods that need no data."""
    return Dataset("none", lambda: iter(()), is_none=True)


def as_dataset(
    obj: object,
    *,
    name: str = "the data",
    takes: Arity | None = None,
    image: ImageOptions | None = None,
    file: FileInputs | None = None,
) -> Dataset:
    """What a Python caller passes as data -> Dataset, with the checks of `load_data`.

    Accepted: a Dataset, None (no data), a spec (str), a torch DataLoader, one batch (a tensor, an
    array, a dict of them, or a tuple as `as_batch` takes it), a list of batches, any other
    re-iterable of batches, or a function without arguments that returns one of these.
    """
    if isinstance(obj, str):
        return load_data(obj, preprocess=file, image=image, takes=takes, file=file)
    found = _dataset_of(obj, name, takes)
    return file.fit(found) if file else found


def _dataset_of(obj: object, name: str, takes: Arity | None) -> Dataset:
    if isinstance(obj, Dataset):
        return obj
    if obj is None:
        return no_data()
    if isinstance(obj, nn.Module):
        raise DataError(f"{name} is a network ({type(obj).__name__}). Pass batches of its inputs.")
    if isinstance(obj, ONE_BATCH):
        return _stream(name, lambda: iter((obj,)), _plain_guard, takes)
    if isinstance(obj, Iterable):
        if isinstance(obj, Iterator):
            raise DataError(
                f"{name} is an iterator ({type(obj).__name__}): it can be walked only once, and "
                "several passes are needed. Pass the list of its batches or the function that "
                "makes it."
            )
        return _walk(lambda: obj, name, _plain_guard, takes)
    if callable(obj):
        return _walk(obj, name, _plain_guard, takes)
    raise DataError(
        f"{name} is of type {type(obj).__name__}. Pass a DataLoader, a list of batches, a tensor "
        f"or a function that returns batches. {ACCEPTED}."
    )


def _plain_guard(doing: str) -> Foreign:
    return Foreign(DataError, doing)


# ---- functions and iterables -----------------------------------------------------------------


def _function_dataset(spec: Spec, takes: Arity | None) -> Dataset:
    function = load_function(spec, DataError)

    def guard(doing: str) -> Foreign:
        return function.guard(DataError, doing)

    return _walk(function.call, spec.text, guard, takes)


def _walk(
    call: Callable[[], object], name: str, guard: GuardFactory, takes: Arity | None
) -> Dataset:
    """A Dataset over what `call` returns."""
    notes: list[str] = []
    dataset = _stream(name, _passes(call, name, guard, notes), guard, takes)
    return replace(dataset, notes=notes)


def _passes(
    call: Callable[[], object], name: str, guard: GuardFactory, notes: list[str]
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
        if not isinstance(result, Iterator) and not kept:
            result, said = repeat_passes(result)
            kept[:] = [result]
            notes.extend(filter(None, (said,)))
        with guard(f"starting a pass over {name}"):
            return iter(cast("Iterable[object]", result))

    return start


def _check(dataset: Dataset) -> Dataset:
    return replace(dataset, open=_stream(dataset.spec, dataset.open, _plain_guard).open)


def _stream(
    name: str,
    start: Callable[[], Iterator[object]],
    guard: GuardFactory,
    takes: Arity | None = None,
) -> Dataset:
    """A Dataset over raw passes: each item is normalised and checked as it is read.

    Every batch must be that of the first pass: a loader that shuffles, augments at random or is
    used up by its first pass would silently compare different samples.
    """
    passes = Passes(name)

    def walk() -> Iterator[Batch]:
        items = start()
        samples = batches = 0
        for number in itertools.count():
            place = f"batch {number} of {name}"
            with guard(f"reading {place}"):
                item = next(items, _END)
            if item is _END:
                break
            batch = as_batch(item, place, takes)
            if not batch.size:
                continue
            check_finite(batch, name, samples)
            passes.check(batches, mark(batch))
            samples += batch.size
            batches += 1
            yield batch
        passes.end(batches)
        if not batches:
            raise DataError(
                f"{name} holds no sample. Give at least one batch; a few hundred samples are usual."
            )

    return Dataset(name, walk)


# ---- files -----------------------------------------------------------------------------------


def _image_preprocess(
    preprocess: object | None, image: ImageOptions | None, spec: Spec
) -> Callable[[Any], Tensor]:
    if isinstance(preprocess, FileInputs):
        try:
            return preprocess.images(image)
        except DataError as exc:
            list_images(spec.path)
            raise DataError(f"folder {spec.text!r}: {exc}") from exc
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
