"""How a tensor lies in memory: what it takes to make an equal one elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of an equal tensor of its own: as they are where no memory is skipped or shared.

    Equal values in other strides are other kernels and other roundings, so strides are kept to the
    letter, even of dimensions of size one: torch chooses a memory format by them.
    """
    sizes, strides = tuple(tensor.shape), tuple(tensor.stride())
    expected = 1
    for stride, size in sorted(zip(strides, sizes, strict=True)):
        if size > 1:
            if stride != expected:
                return _row_major(sizes)
            expected *= size
    return strides if tensor.numel() else _row_major(sizes)


def _row_major(sizes: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def flat_bytes(tensor: Tensor) -> Tensor:
    """The tensor's bytes in the order of `dense_strides`; a view wherever it can be one."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    strides = dense_strides(plain)
    if strides != tuple(plain.stride()):
        plain = plain.contiguous()
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)


def from_flat_bytes(
    data: Tensor, dtype: torch.dtype, sizes: tuple[int, ...], strides: tuple[int, ...]
) -> Tensor:
    """The tensor whose `flat_bytes` these are; it uses their memory."""
    return data.view(dtype).as_strided(sizes, strides)
