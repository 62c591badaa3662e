"""Reading an ONNX file that somebody may have changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from bitwright.errors import RunDirectoryError

_AGAIN = "Write it again with 'bitwright export RUN'."


def read_onnx(path: Path, again: str = _AGAIN) -> onnx.ModelProto:
    """Read a file with its external data, which must lie in its folder.

    Bitwright writes none, so a file that has some comes from elsewhere.

    Args:
        path: the file.
        again: what mends a file that cannot be read.

    Raises:
        RunDirectoryError: missing, damaged, or with data that lie elsewhere or are not there.
    """
    if not path.is_file():
        own = "Write it with 'bitwright export RUN', then verify." if again == _AGAIN else again
        raise RunDirectoryError(f"{path} does not exist. {own}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}. {again}") from error
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if uses_external_data(tensor):
            _check_place(path, tensor, folder, again)
    try:
        load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RunDirectoryError(
            f"{path} keeps weights in another file that cannot be read: {first[:200]}. {again}"
        ) from error
    return model


def _check_place(path: Path, tensor: onnx.TensorProto, folder: Path, again: str) -> None:
    """Whether a tensor's file lies in the folder, links followed; nothing is opened."""
    named = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    try:
        place = (folder / named).resolve()
        inside = bool(named) and not Path(named).is_absolute() and place.is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name with a zero byte
        inside = False
    if not inside:
        raise RunDirectoryError(
            f"{path} keeps the weights {tensor.name!r} in {named!r}, which is not in its own "
            f"folder. That is not read. {again}"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is stored in a graph, and in those inside its operators."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
