"""`X.onnx` -> a network, what it takes, and what its producer says of its pictures."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from bitwright.graph.interface import interface_of
from bitwright.sources.batches import BatchInputs
from bitwright.sources.images import ImagePreprocess
from bitwright.sources.onnx_data import FileInputs
from bitwright.sources.onnx_in.imported import OnnxSource, load_onnx
from bitwright.sources.onnx_in.names import identifiers


@dataclass(frozen=True, eq=False)
class FileModel:
    """A network from a file.

    `example` are inputs of the shapes that the file declares; where it leaves some free it is None,
    and `guess` has sizes that were guessed.
    """

    module: fx.GraphModule
    inputs: FileInputs
    example: BatchInputs | None
    guess: BatchInputs | None


def load_file(path: Path, name: str) -> FileModel:
    """Read a file and make a network of it.

    Raises:
        ModelError: see `load_onnx`.
    """
    source = load_onnx(path, name)
    interface = interface_of(source.module)
    batch = (interface.batch or 0) if interface else 0
    inputs = FileInputs(source.imported.inputs, batch, _preprocess(source))
    example = _as_given(source.example, inputs)
    free = bool(source.guessed)
    return FileModel(source.module, inputs, None if free else example, example if free else None)


def _as_given(tensors: tuple[Tensor, ...], inputs: FileInputs) -> BatchInputs:
    if len(tensors) == 1:
        return tensors
    return dict(zip(identifiers(inputs.names), tensors, strict=True))


def _preprocess(source: OnnxSource) -> ImagePreprocess | None:
    """What Ultralytics' exporter says: pixels over 255, the whole picture in the file's size."""
    model = source.imported.original
    said = {entry.key: entry.value for entry in model.metadata_props}
    plan = source.imported.inputs[0]
    if said.get("author") != "Ultralytics" or plan.layout != "NCHW":
        return None
    size = _size_of(said.get("imgsz", "")) if plan.guessed else plan.shape[2:]
    if size is None or len(size) != 2:
        return None
    return ImagePreprocess((size[0], size[1]), (0.0,) * 3, (1.0,) * 3, crop=None,
                           interpolation="bilinear")  # fmt: skip


def _size_of(text: str) -> tuple[int, ...] | None:
    """The numbers of `[320, 320]`, read as a literal."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    plain = isinstance(found, list) and all(isinstance(n, int) and 0 < n < 1 << 14 for n in found)
    return tuple(found) if plain else None
