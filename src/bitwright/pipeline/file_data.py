"""Data for an ONNX file, by the names, shapes and types of its own inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from bitwright.errors import DataError
from bitwright.latency.feeds import ArrayFeed, FileInput, feed_from, make_feed
from bitwright.sources.arrays import named_arrays
from bitwright.sources.batches import BatchInputs, take
from bitwright.sources.data import load_data
from bitwright.sources.images import ImageOptions, list_images
from bitwright.sources.specs import parse_data

RANDOM = "random"
_BATCH = 8
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class FileData:
    """Samples of a file's inputs.

    Attributes:
        batches: inputs by name, all samples of one batch along the first axes.
        names: of the samples, such as those of pictures; numbers where they have none.
        notes: what is to be told of them.
    """

    batches: tuple[ArrayFeed, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples of each batch."""
        return tuple(len(next(iter(batch.values()))) for batch in self.batches)


def read_file_data(
    inputs: Sequence[FileInput],
    data: str,
    count: int,
    image: ImageOptions | None = None,
    free: Mapping[str, int] | None = None,
) -> FileData:
    """The first samples of D as a file takes them.

    Args:
        inputs: of the file.
        data: a D; or `random`, for made inputs.
        count: samples at most.
        image: what is stated of pictures: the size is the input's own where it has one.
        free: sizes of free axes of made inputs, by name.

    Raises:
        DataError: they cannot be read, or are no inputs of this file.
    """
    if data == RANDOM:
        feed, told = make_feed(inputs, count, free or {})
        loud = "made-up inputs (--data random): figures on real samples will be others"
        rows = len(next(iter(feed.values()), np.zeros(0)))
        return _cut([feed], inputs, count, [str(i) for i in range(rows)], (loud, *told))
    names: list[str] = []
    parsed = parse_data(data)
    if parsed.kind == "none":
        raise DataError("--data none: files are compared on samples. Give some, or --data random.")
    if parsed.kind == "npz":
        own = named_arrays(parsed.path, [spec.name for spec in inputs], data)
        if own is not None:
            return _cut(own, inputs, count, names)
    if parsed.kind == "folder":
        names = [path.name for path, _ in list_images(parsed.path)]
        image, nhwc = fit_images(inputs, image or ImageOptions())
    dataset = take(load_data(data, image=image), count)
    given = (batch.inputs for batch in dataset)
    if parsed.kind == "folder" and nhwc:
        given = (tuple(t.permute(0, 2, 3, 1) for t in tensors_of(b)) for b in given)
    feeds = (feed_from(inputs, batch, len(tensors_of(batch)[0])) for batch in given)
    return _cut(feeds, inputs, count, names)


def tensors_of(batch: BatchInputs) -> tuple[Tensor, ...]:
    """The tensors of a batch in order, without their names."""
    return tuple(batch.values()) if isinstance(batch, dict) else batch


def fit_images(inputs: Sequence[FileInput], image: ImageOptions) -> tuple[ImageOptions, bool]:
    """Pictures of an input's own size, and whether it has its channels last.

    Raises:
        DataError: no input is a picture, or one of another number of channels than three.
    """
    spec = next((spec for spec in inputs if len(spec.shape) == 4), None)
    if spec is None or len(inputs) != 1:
        raise DataError(
            "--data is a folder of images, and the file takes "
            f"{', '.join(f'{s.name} {list(s.shape)}' for s in inputs)}. Give X.npz with an array "
            "for each input, or FILE.py:FUNCTION."
        )
    _, first, middle, last = spec.shape
    nhwc = last in _CHANNELS and first not in _CHANNELS
    channels, sizes = (last, (first, middle)) if nhwc else (first, (middle, last))
    if channels != 3:
        raise DataError(
            f"{spec.name} takes {channels} channels, and images are read in three. Give X.npz or "
            "FILE.py:FUNCTION."
        )
    height, width = sizes
    if image.size is None and isinstance(height, int) and isinstance(width, int):
        own = (height, width)
        image = ImageOptions(own, image.mean, image.std, image.crop, image.scale)
    return image, nhwc


def _cut(
    feeds: Iterator[ArrayFeed] | Sequence[ArrayFeed],
    inputs: Sequence[FileInput],
    count: int,
    names: Sequence[str],
    notes: tuple[str, ...] = (),
) -> FileData:
    """Batches of the size that the file takes, up to so many samples.

    Raises:
        DataError: too few samples for one batch.
    """
    fixed = next((s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], int)), 0)
    step = int(fixed) or _BATCH
    batches: list[ArrayFeed] = []
    left: dict[str, np.ndarray] | None = None
    taken = 0
    for feed in feeds:
        joined = dict(feed) if left is None else {
            k: np.concatenate([left[k], v]) for k, v in feed.items()
        }  # fmt: skip
        rows = min(len(v) for v in joined.values())
        while rows >= step and taken + step <= max(count, step):
            batches.append({k: v[:step] for k, v in joined.items()})
            joined, rows = {k: v[step:] for k, v in joined.items()}, rows - step
            taken += step
        left = joined
        if taken + step > count:
            break
    rest = 0 if left is None else min(len(v) for v in left.values())
    if left is not None and not fixed and rest and taken < count:
        own = min(rest, count - taken)
        batches.append({k: v[:own] for k, v in left.items()})
        taken += own
    if not batches:
        raise DataError(f"--data holds {rest} samples, and the file takes {step} at once.")
    shown = names[:taken] if len(names) >= taken else [str(i) for i in range(taken)]
    return FileData(tuple(batches), tuple(shown), notes)


def check_feeds(path: Path, inputs: Sequence[FileInput], data: FileData) -> None:
    """Whether samples have the shapes that a file states.

    Raises:
        DataError: naming the input.
    """
    for spec in inputs:
        array = data.batches[0][spec.name]
        fits = len(array.shape) == len(spec.shape) and all(
            isinstance(want, str) or want == got
            for want, got in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if spec.shape and not fits:
            raise DataError(
                f"{path.name} takes {spec.name} as {list(spec.shape)}, and --data gives "
                f"{list(array.shape)}. Give samples of that shape (axes in the file's order)."
            )
