"""Inputs to try a file with: of the shapes that it declares, guessed where it leaves them free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx
import torch
from torch import Tensor

from bitwright.errors import ModelError
from bitwright.sources.onnx_in.plain_form import PlainForm, shape_of
from bitwright.sources.onnx_in.values import DTYPES

BATCH = 2
_OTHER_SIDES = ((48, 320), (32, 320), (640, 640), (64, 64))
_SIDE, _LENGTH, _WAVE, _CHANNELS = 224, 16, 1024, 3


@dataclass(frozen=True)
class InputPlan:
    """One input of a file: what is known of its shape, and what was guessed.

    Attributes:
        name: in the file.
        shape: for one batch, guesses put in.
        batch: the number of samples that the file fixes, 0 where it is free.
        guessed: the axes that the file leaves free, but for the batch.
        layout: `NCHW` or `NHWC` of an image, else empty.
        dtype: as the network takes it.
    """

    name: str
    shape: tuple[int, ...]
    batch: int
    guessed: tuple[int, ...]
    layout: str
    dtype: torch.dtype


def plan_inputs(form: PlainForm, file: str) -> tuple[InputPlan, ...]:
    """What each input of a file is like.

    Raises:
        ModelError: an input without a shape or a type, or one that is no batch of samples.
    """
    return tuple(_plan(value, file) for value in form.inputs)


def _plan(value: onnx.ValueInfoProto, file: str) -> InputPlan:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        raise ModelError(
            f"MODEL {file!r}: its input {value.name!r} is no tensor of numbers, so no samples can "
            "be given to it. Export the network with tensors as inputs."
        )
    if not kind.HasField("shape"):
        raise ModelError(
            f"MODEL {file!r}: its input {value.name!r} has no shape, not even a number of axes. "
            "Export it again with shapes, or set it by onnx.helper.make_tensor_value_info."
        )
    declared = shape_of(value)
    dtype = DTYPES[kind.elem_type]
    if not declared:
        raise ModelError(
            f"MODEL {file!r}: its input {value.name!r} is a single number, which is the same for "
            "all samples. Make it a constant of the file (an initialiser of that name)."
        )
    layout = _layout(declared) if dtype.is_floating_point or dtype == torch.uint8 else ""
    free = tuple(axis for axis, size in enumerate(declared) if size is None and axis)
    sizes = [_guess(declared, axis, layout, dtype) for axis in range(len(declared))]
    return InputPlan(value.name, tuple(sizes), declared[0] or 0, free, layout, dtype)


def _layout(declared: tuple[int | None, ...]) -> str:
    """Where an image has its colours: on axis 1, as PyTorch writes them, or on the last."""
    if len(declared) != 4:
        return ""
    first, last = declared[1], declared[3]
    if last in (1, 3, 4) and first not in (1, 3, 4):
        return "NHWC"
    return "NCHW"


def _guess(declared: tuple[int | None, ...], axis: int, layout: str, dtype: torch.dtype) -> int:
    size = declared[axis]
    if size is not None:
        return size
    if axis == 0:
        return BATCH
    if layout:
        return _CHANNELS if axis == (1 if layout == "NCHW" else 3) else _SIDE
    if len(declared) == 2:
        return _WAVE if dtype.is_floating_point else _LENGTH
    return _LENGTH * 4


def guess_otherwise(plans: tuple[InputPlan, ...]) -> Iterator[tuple[InputPlan, ...]]:
    """Other sizes of images, where the file leaves them free: lines of text, larger pictures."""
    for sides in _OTHER_SIDES:
        made = tuple(replace(p, shape=_with_sides(p, sides)) for p in plans)
        if made != plans:
            yield made


def _with_sides(plan: InputPlan, sides: tuple[int, int]) -> tuple[int, ...]:
    if not plan.layout:
        return plan.shape
    shape = list(plan.shape)
    for axis, side in zip((2, 3) if plan.layout == "NCHW" else (1, 2), sides, strict=True):
        shape[axis] = side if axis in plan.guessed else shape[axis]
    return tuple(shape)


def make_inputs(plans: tuple[InputPlan, ...], batch: int = 0) -> tuple[Tensor, ...]:
    """Numbers of those shapes, the same each time; with another batch where one is given."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for plan in plans:
        shape = [batch or plan.shape[0], *plan.shape[1:]]
        if plan.dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(plan.dtype))
        else:
            made.append(torch.ones(shape, dtype=plan.dtype))
    return tuple(made)
