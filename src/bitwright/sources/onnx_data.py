"""Data for a network from an ONNX file: inputs by the file's names, in its types and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bitwright.errors import DataError
from bitwright.numerics.affine import round_half_even
from bitwright.sources.batches import Batch, BatchInputs, Dataset
from bitwright.sources.images import ImageOptions, ImagePreprocess
from bitwright.sources.onnx_in.example import InputPlan, make_inputs
from bitwright.sources.onnx_in.names import identifiers

_COLOURS = (1, 3)
SAMPLES = 64


@dataclass(frozen=True)
class FileInputs:
    """What a file takes, as data have to be given to it.

    Attributes:
        plans: each input.
        batch: how many samples at a time, 0 for any number.
        known: the preprocessing that a producer left in the file's metadata.
    """

    plans: tuple[InputPlan, ...]
    batch: int = 0
    known: ImagePreprocess | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The file's names of its inputs."""
        return tuple(plan.name for plan in self.plans)

    def fit(self, dataset: Dataset) -> Dataset:
        """The same samples as the network takes them: by its names and in its types."""
        if dataset.is_none:
            return dataset

        def walk() -> Iterator[Batch]:
            for batch in dataset:
                yield Batch(self.arrange(batch.inputs, dataset.spec), batch.labels)

        return replace(dataset, open=walk, each=self.batch)

    def arrange(self, inputs: BatchInputs, place: str) -> BatchInputs:
        """A batch's inputs in the file's order, by keyword where there are several.

        Raises:
            DataError: an input is missing, or there are more than the file takes.
        """
        known = identifiers(self.names)
        if isinstance(inputs, Mapping):
            by_either = {**inputs}
            for name, own in zip(self.names, known, strict=True):
                if name in inputs:
                    by_either[own] = inputs[name]
            missing = next(
                (n for n, own in zip(self.names, known, strict=True) if own not in by_either), None
            )
            if missing is not None:
                raise DataError(
                    f"{place}: a batch lacks the input {missing!r} (it has {sorted(inputs)}). The "
                    f"file takes {', '.join(map(repr, self.names))}."
                )
            tensors = [by_either[own] for own in known]
        else:
            tensors = list(inputs)
        if len(tensors) != len(self.plans):
            raise DataError(
                f"{place}: a batch has {len(tensors)} inputs, the file takes {len(self.plans)}: "
                f"{', '.join(map(repr, self.names))}. Give them in this order, or by name."
            )
        fitted = [_as_type(t, p, place) for t, p in zip(tensors, self.plans, strict=True)]
        return tuple(fitted) if len(fitted) == 1 else dict(zip(known, fitted, strict=True))

    def images(self, options: ImageOptions | None) -> Callable[[Any], Tensor]:
        """What makes the file's input of a picture.

        Raises:
            DataError: its input takes no pictures, or the preprocessing is not stated.
        """
        plan = self.plans[0]
        if len(self.plans) > 1 or not plan.layout:
            raise DataError(
                f"the file takes {', '.join(map(repr, self.names))}, which is not a single batch "
                "of images. Give data as X.npz or FILE.py:FUNCTION."
            )
        channels = plan.shape[1 if plan.layout == "NCHW" else 3]
        if channels not in _COLOURS:
            raise DataError(
                f"the input {plan.name!r} has {channels} channels, and pictures have 1 or 3. Give "
                "data as X.npz or FILE.py:FUNCTION."
            )
        given = options or ImageOptions()
        sizes = (2, 3) if plan.layout == "NCHW" else (1, 2)
        free = set(sizes) & set(plan.guessed)
        if given.size is None and not free:
            given = replace(given, size=(plan.shape[sizes[0]], plan.shape[sizes[1]]))
        if plan.dtype == torch.uint8 and given.mean is None and given.std is None:
            given = replace(given, mean=0.0, std=1.0, scale=1.0)
        return PictureInput(given.over(self.known), plan.layout, channels, plan.dtype)


def random_dataset(file: FileInputs | None) -> Dataset:
    """Random numbers of a file's shapes, for a first look: no figure of them says anything.

    Raises:
        DataError: the network comes from no file, so its shapes are not declared.
    """
    if file is None:
        raise DataError(
            "--data random goes with an ONNX file, which declares the shapes of its inputs. Give "
            "samples, or none for methods that need no data."
        )
    tensors = make_inputs(file.plans, SAMPLES - SAMPLES % (file.batch or 1))
    batch = Batch(dict(zip(file.names, tensors, strict=True)))
    said = (
        "RANDOM numbers stand for the calibration data, as asked for: ranges, rounding and every "
        "figure of agreement are those of noise. Give real samples before the file is used."
    )
    return Dataset("random", lambda: iter((batch,)), notes=[said])


@dataclass(frozen=True)
class PictureInput:
    """A picture as a file's input: preprocessed, then in the file's layout and type."""

    preprocess: ImagePreprocess
    layout: str
    channels: int
    dtype: torch.dtype

    def __call__(self, image: Image.Image) -> Tensor:
        """The picture as a tensor without a batch axis."""
        tensor = self.preprocess(image.convert("L") if self.channels == 1 else image)
        tensor = tensor[: self.channels]
        if self.dtype == torch.uint8:
            tensor = round_half_even(tensor).clamp(0, 255).to(torch.uint8)
        return tensor.permute(1, 2, 0).contiguous() if self.layout == "NHWC" else tensor


def _as_type(tensor: Tensor, plan: InputPlan, place: str) -> Tensor:
    """The tensor in the file's type where the numbers are those of that type."""
    wanted = plan.dtype
    if tensor.dtype == wanted:
        return tensor
    if wanted.is_floating_point and tensor.is_floating_point():
        return tensor.to(wanted)
    if wanted.is_floating_point or wanted.is_complex:
        return tensor  # whole numbers for real ones are a mistake that is told of where they meet
    made = tensor.to(wanted)
    if not torch.equal(made.to(tensor.dtype), tensor):
        raise DataError(
            f"{place}: the input {plan.name!r} is of type {str(wanted).removeprefix('torch.')}, "
            f"and a batch holds numbers that this type does not ({tensor.min().item():.6g} to "
            f"{tensor.max().item():.6g}). Convert them first."
        )
    return made
