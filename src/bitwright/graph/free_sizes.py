"""Heights and widths that stay free: tried on other sizes, not believed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils import _pytree as pytree

from bitwright.graph.model_graph import InputSpec

# By how much an image is made larger; a network that halves it five times may need the last.
STEPS = (1, 2, 4, 8, 16, 32)
TOLERANCE = 1e-3
# What torch raises where a network cannot run on images of a size.
WRONG_SIZE = (RuntimeError, IndexError, ValueError, AssertionError, TypeError)


def is_image(value: object) -> bool:
    """Whether a tensor may be images: floats in four dimensions, the last two height and width."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.dtype.is_floating_point


def takes_free_images(inputs: Sequence[InputSpec]) -> bool:
    """Whether height or width of some image input is free."""
    return any(
        len(s.shape) == 4 and s.dtype.is_floating_point and None in s.shape[2:] for s in inputs
    )


def resize_free(inputs: Sequence[InputSpec], leaves: Sequence[Any], step: int) -> list[Any]:
    """The leaves of an example, every image larger by so many rows and columns that are free."""
    specs = iter(inputs)
    return [_larger(t, next(specs), step) if isinstance(t, Tensor) else t for t in leaves]


def _larger(tensor: Tensor, spec: InputSpec, step: int) -> Tensor:
    if not is_image(tensor) or None not in spec.shape[2:]:
        return tensor
    free = [step if wanted is None else 0 for wanted in spec.shape[2:]]
    size = [have + more for have, more in zip(tensor.shape[2:], free, strict=True)]
    return interpolate(tensor, size=size, mode="bilinear", align_corners=False)


def least_step(
    run: Callable[[list[Any]], Any], inputs: Sequence[InputSpec], leaves: Sequence[Any]
) -> int:
    """The least step that a network takes; 0 where it takes none of those tried."""
    for step in STEPS:
        with contextlib.suppress(*WRONG_SIZE), torch.no_grad():
            run(resize_free(inputs, leaves, step))
            return step
    return 0


def differ(expected: Any, got: Any) -> bool:
    """Whether two results have other shapes, or values beyond float rounding."""
    first, second = _tensors(expected), _tensors(got)
    return len(first) != len(second) or any(map(_apart, first, second))


def _tensors(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _apart(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return True
    if not a.dtype.is_floating_point or not a.numel():
        return not torch.equal(a, b)
    return not bool((a - b).abs().max() <= TOLERANCE * a.abs().max().clamp_min(1e-6))
