"""What a file is timed on: inputs of its own shapes, or samples of given data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from bitwright.errors import DataError, RecipeError
from bitwright.export.onnx_read import read_onnx
from bitwright.graph.execute import Inputs

ArrayFeed = Mapping[str, np.ndarray]
# What stands for an axis that a file leaves free: a picture's side, and any other length.
PICTURE, LENGTH = 224, 64
_SEED = 0


@dataclass(frozen=True)
class FileInput:
    """An input of a file; a size that is a name, or empty, is free."""

    name: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    @property
    def free_batch(self) -> bool:
        """Whether its first axis is free."""
        return bool(self.shape) and isinstance(self.shape[0], str)


def read_inputs(path: Path) -> tuple[FileInput, ...]:
    """The inputs that a file asks for, in its own order.

    Raises:
        InputError: not ONNX.
    """
    return inputs_of(read_onnx(path))


def inputs_of(model: onnx.ModelProto) -> tuple[FileInput, ...]:
    """The inputs that a file asks for, in its own order."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(_input_of(value) for value in graph.input if value.name not in stored)


def _input_of(value: onnx.ValueInfoProto) -> FileInput:
    tensor = value.type.tensor_type
    sizes = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or f"{value.name}:{i}"
        for i, d in enumerate(tensor.shape.dim)
    )
    return FileInput(
        value.name, sizes, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    )


def parse_free(texts: Sequence[str]) -> dict[str, int]:
    """Sizes of free axes as a user writes them.

    >>> parse_free(["sequence=32"])
    {'sequence': 32}

    Raises:
        RecipeError: not NAME=NUMBER.
    """
    found = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not name.strip() or not size.strip().isdecimal() or not 0 < int(size) < 10**7:
            raise RecipeError(f"--free {text!r} is not NAME=SIZE, for example sequence=64.")
        found[name.strip()] = int(size)
    return found


def make_feed(
    inputs: Sequence[FileInput], batch: int, free: Mapping[str, int]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Inputs of the shapes that a file states, and a sentence for every size that was chosen.

    Floats are normal; masks are ones and other integers are zeros, which are words of every
    vocabulary.

    Args:
        inputs: of the file.
        batch: samples, where the first axis is free.
        free: the sizes of other free axes, by their names.
    """
    random = np.random.default_rng(_SEED)
    feed, told = {}, dict[str, None]()
    for spec in inputs:
        shape = []
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                chosen = batch if axis == 0 else free.get(size, _usual(len(spec.shape), axis))
                if axis and size not in free:
                    told[f"axis {size!r} of {spec.name} is free: {chosen} is taken (--free)"] = None
                size = chosen
            shape.append(size)
        feed[spec.name] = _values(spec, tuple(shape), random)
    return feed, tuple(told)


def _usual(axes: int, axis: int) -> int:
    return PICTURE if axes == 4 and axis >= 2 else LENGTH


def _values(spec: FileInput, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if np.issubdtype(spec.dtype, np.floating):
        return random.standard_normal(shape).astype(spec.dtype)
    fill = 1 if "mask" in spec.name.lower() or spec.dtype == np.bool_ else 0
    return np.full(shape, fill, spec.dtype)


def feed_from(inputs: Sequence[FileInput], given: Inputs, batch: int) -> dict[str, np.ndarray]:
    """Samples of given data as the inputs of a file, repeated up to a batch where that is free.

    Raises:
        DataError: the data have other inputs than the file.
    """
    arrays = _by_name(inputs, given)
    feed = {}
    for spec in inputs:
        array = arrays[spec.name]
        if spec.free_batch and len(array):
            array = np.concatenate([array] * -(-batch // len(array)))[:batch]
        elif spec.shape and isinstance(spec.shape[0], int):
            array = array[: spec.shape[0]]
        feed[spec.name] = np.ascontiguousarray(array, dtype=spec.dtype)
    return feed


def _by_name(inputs: Sequence[FileInput], given: Inputs) -> dict[str, np.ndarray]:
    names = [spec.name for spec in inputs]
    if isinstance(given, Mapping):
        found = {str(name): value for name, value in given.items() if name in names}
    else:
        values = given if isinstance(given, (tuple, list)) else (given,)
        found = dict(zip(names, values, strict=False))
    lacking = next((name for name in names if name not in found), None)
    if lacking is not None:
        raise DataError(
            f"the file asks for the input {lacking!r}, which --data does not hold. Leave --data "
            "out: inputs are then made from the file's own shapes."
        )
    return {name: _array(value) for name, value in found.items()}


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def split_feeds(
    inputs: Sequence[FileInput], given: Sequence[Inputs]
) -> Iterator[dict[str, np.ndarray]]:
    """Every sample alone, as a runtime's own quantiser reads them."""
    for batch in given:
        arrays = _by_name(inputs, batch)
        for i in range(min(len(array) for array in arrays.values())):
            yield {
                spec.name: np.ascontiguousarray(arrays[spec.name][i : i + 1], dtype=spec.dtype)
                for spec in inputs
            }
