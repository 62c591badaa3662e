"""Values while a network is run or traced: tensors, numbers known on the host, and constants.

ONNX computes shapes by operators like all else. Here they are followed as numbers (under
torch.export as symbols), so that a batch stays free and reshapes know what they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Constants of up to so many entries are followed as numbers where they meet shapes.
FEW = 128

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16,
    6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float32, 11: torch.float64,
    12: torch.uint32, 13: torch.uint64, 16: torch.float32,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Host:
    """Numbers known where the graph is built: integers, symbols of sizes, truth values.

    `array` holds Python objects; `dtype` is what the numbers are as a tensor.
    """

    array: np.ndarray[Any, Any]
    dtype: torch.dtype = torch.int64

    def tensor(self) -> Tensor:
        """The numbers as a tensor; symbols stay what they are."""
        flat = list(self.array.reshape(-1))
        if all(isinstance(part, (bool, int, float, np.generic)) for part in flat):
            made = torch.tensor([_plain(part) for part in flat], dtype=self.dtype)
        else:
            made = torch.stack([torch.scalar_tensor(part, dtype=self.dtype) for part in flat])
        return made.reshape(self.array.shape)


@dataclass(frozen=True, eq=False)
class Constant:
    """A stored value: its numbers, and the tensor under which the network holds it."""

    array: np.ndarray[Any, Any]
    tensor: Tensor

    @property
    def single(self) -> float | int | bool | None:
        """The number, where there is one alone."""
        return self.array.reshape(-1)[0].item() if self.array.size == 1 else None


OnnxValue = Tensor | Host | Constant | None


def host(values: Sequence[Any], dtype: torch.dtype = torch.int64) -> Host:
    """A vector of numbers or symbols."""
    return Host(objects(values), dtype)


def objects(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """An array that holds the values as they are."""
    made = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        made[place] = value
    return made


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def as_tensor(value: OnnxValue) -> Tensor:
    """The value as a tensor."""
    assert value is not None
    if isinstance(value, Tensor):
        return value
    return value.tensor() if isinstance(value, Host) else value.tensor


def as_host(value: OnnxValue) -> Host | None:
    """The value as numbers, where they are known and few; else None."""
    if isinstance(value, Host):
        return value
    if isinstance(value, Constant) and value.array.size <= FEW:
        made = np.empty(value.array.size, dtype=object)
        made[:] = value.array.reshape(-1).tolist()
        return Host(made.reshape(value.array.shape), value.tensor.dtype)
    return None


def numbers(value: OnnxValue) -> list[Any] | None:
    """A vector's or a scalar's numbers; None where there is no value.

    Raises:
        OpaqueError: they are computed from the data.
    """
    if value is None:
        return None
    known = as_host(value)
    if known is None and isinstance(value, Constant):
        return list(value.array.reshape(-1).tolist())
    if known is None:
        raise OpaqueError("a size, an index or an axis is computed from the data")
    return [_plain(part) for part in known.array.reshape(-1)]


def needed(value: OnnxValue) -> list[Any]:
    """The numbers of a value that is there."""
    found = numbers(value)
    assert found is not None
    return found


class OpaqueError(Exception):
    """This form of an operator is not translated: it becomes a part that ONNX Runtime runs."""
