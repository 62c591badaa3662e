"""Reading a user's ONNX file: bytes become a ModelProto, nothing is executed.

Weights in other files are read from the file's own folder alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx.external_data_helper import uses_external_data

from bitwright.errors import ModelError
from bitwright.sources.guard import say_absent

_EXPORT_AGAIN = "Export the network again, or check the download"
# What no allocation should be asked for: a tensor's own count of entries is not to be trusted.
_MOST_BYTES = 1 << 40


def read_file(path: Path, name: str = "") -> onnx.ModelProto:
    """A file with all its weights in memory.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        ModelError: absent, no ONNX file, truncated, or with weights that are missing or lie outside
            of its folder.
    """
    name = name or str(path)
    if path.is_dir():
        raise ModelError(f"MODEL {name!r} is a folder. Give the path of an ONNX file.")
    if not path.is_file():
        raise ModelError(f"{say_absent('file', name)}. Check the path.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"MODEL {name!r} cannot be read: {error.strerror or error}. Check its permissions."
        ) from error
    model = parse(content, name)
    folder = path.parent.resolve()
    for tensor in stored_tensors(model.graph):
        if uses_external_data(tensor):
            _load_external(tensor, folder, name)
    return model


def parse(content: bytes, name: str) -> onnx.ModelProto:
    """The model of a file's bytes.

    Raises:
        ModelError: these bytes are no ONNX model.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"MODEL {name!r} is no ONNX file, or only a part of one ({len(content):,} bytes, which "
            f"do not parse). {_EXPORT_AGAIN}."
        ) from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(f"MODEL {name!r} holds no graph of ONNX operators. {_EXPORT_AGAIN}.")
    odd = next((text for text in _texts(model) if isinstance(text, bytes)), None)
    if odd is not None:
        raise ModelError(
            f"MODEL {name!r} holds the name {odd[:40]!r}, which is no text in UTF-8: the file is "
            f"damaged. {_EXPORT_AGAIN}."
        )
    return model


def _texts(message: Message) -> Iterator[str | bytes]:
    """All that should be text in a message and those inside of it; of damaged text the bytes."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        for descriptor, value in current.ListFields():
            if descriptor.type == descriptor.TYPE_MESSAGE:
                waiting += [value] if isinstance(value, Message) else list(value)
            elif descriptor.type == descriptor.TYPE_STRING:
                yield from [value] if isinstance(value, (str, bytes)) else value


def digest_of(path: Path, model: onnx.ModelProto) -> str:
    """Sha256 of a file and of the files that its weights lie in, in the order of their names."""
    sha = hashlib.sha256(path.read_bytes())
    for place in sorted(external_files(path, model)):
        sha.update(place.encode())
        with (path.parent / place).open("rb") as file:
            while block := file.read(1 << 22):
                sha.update(block)
    return sha.hexdigest()


def external_files(path: Path, model: onnx.ModelProto) -> set[str]:
    """The files beside `path` that its weights are read from, by name."""
    del model  # its tensors hold their bytes by now, so the file is asked
    bare = onnx.ModelProto()
    bare.ParseFromString(path.read_bytes())
    return {
        _entries(tensor)["location"]
        for tensor in stored_tensors(bare.graph)
        if uses_external_data(tensor)
    }


def stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is stored in a graph, and in those inside its operators."""
    waiting = [graph]
    while waiting:
        part = waiting.pop()
        yield from part.initializer
        for sparse in part.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                waiting += attribute.graphs
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _load_external(tensor: onnx.TensorProto, folder: Path, name: str) -> None:
    """Put the bytes of a weight that lies in another file into the tensor."""
    entries = _entries(tensor)
    place = _place_of(tensor, entries.get("location", ""), folder, name)
    size = _size_of(tensor, name)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size)
    except ValueError:
        offset = length = -1
    if offset < 0 or length != size:
        raise ModelError(
            f"MODEL {name!r} says that its weight {tensor.name!r} has "
            f"{entries.get('length')} bytes at {entries.get('offset')} of {place.name!r}, but it "
            f"needs {size}. {_EXPORT_AGAIN}."
        )
    try:
        with place.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except (OSError, OverflowError, ValueError) as error:
        raise ModelError(
            f"MODEL {name!r} keeps its weight {tensor.name!r} in {place.name!r}, which cannot be "
            f"read: {error}. Put that file beside it."
        ) from error
    if len(data) < size:
        raise ModelError(
            f"MODEL {name!r} keeps {size} bytes of its weight {tensor.name!r} at {offset} of "
            f"{place.name!r}, which ends before them. {_EXPORT_AGAIN}."
        )
    tensor.raw_data = data
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def _place_of(tensor: onnx.TensorProto, location: str, folder: Path, name: str) -> Path:
    """The file of a weight; it must lie in the folder, links followed, before it is opened."""
    try:
        place = (folder / location).resolve()
        inside = (
            bool(location) and not Path(location).is_absolute() and place.is_relative_to(folder)
        )
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name with a zero byte
        inside, place = False, folder
    if not inside:
        raise ModelError(
            f"MODEL {name!r} keeps its weight {tensor.name!r} in {location!r}, which is not in the "
            "file's own folder. That is not read: put the weights beside the file, or export it "
            "again."
        )
    if not place.is_file():
        raise ModelError(
            f"MODEL {name!r} keeps its weight {tensor.name!r} in {location!r}, which is not there. "
            "Put that file beside it."
        )
    return place


def _size_of(tensor: onnx.TensorProto, name: str) -> int:
    """How many bytes a tensor's numbers take in a file."""
    count = math.prod(tensor.dims)
    bits = bits_of(tensor.data_type)
    if not bits or count < 0 or count * bits > 8 * _MOST_BYTES:
        raise ModelError(
            f"MODEL {name!r} has the weight {tensor.name!r} of shape {list(tensor.dims)} and type "
            f"{tensor.data_type}, which no file holds. {_EXPORT_AGAIN}."
        )
    return int((count * bits + 7) // 8)


def bits_of(data_type: int) -> int:
    """Bits of one entry of a type as stored raw; 0 where it is not known or no number."""
    name = onnx.TensorProto.DataType.Name(data_type) if data_type in _TYPES else ""
    if name.startswith(("INT", "UINT", "FLOAT", "BFLOAT")):
        digits = "".join(c for c in str(name).split("E")[0] if c.isdigit())
        return int(digits or 32)
    return {"DOUBLE": 64, "BOOL": 8, "COMPLEX64": 64, "COMPLEX128": 128}.get(name, 0)


_TYPES = frozenset(onnx.TensorProto.DataType.values())


def array_of(tensor: onnx.TensorProto, name: str) -> np.ndarray:
    """The numbers of a stored tensor.

    Raises:
        ModelError: its bytes do not fit its shape, or it holds no numbers.
    """
    if tensor.data_type != onnx.TensorProto.STRING:
        size = _size_of(tensor, name)
        if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise ModelError(
                f"MODEL {name!r} has the weight {tensor.name!r} of shape {list(tensor.dims)}, "
                f"which takes {size} bytes, but stores {len(tensor.raw_data)}. {_EXPORT_AGAIN}."
            )
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError, AttributeError, MemoryError) as error:
        raise ModelError(
            f"MODEL {name!r} has the weight {tensor.name!r} of shape {list(tensor.dims)}, whose "
            f"numbers cannot be read ({error}). {_EXPORT_AGAIN}."
        ) from error
