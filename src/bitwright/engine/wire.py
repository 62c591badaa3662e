"""Values on their way to another process: a pickle, and the tensors' bytes beside it.

Only between our own processes and never to a file that outlives them: a pickle from elsewhere runs
code. torch's own way (every tensor through shared memory) costs a file descriptor a tensor and dies
with a bus error where a container's /dev/shm is small; here bytes go through the pipe, or, for what
all workers read, through one unlinked file that the kernel keeps once for all.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from bitwright.engine.files import say_temporary_failures
from bitwright.engine.layout import dense_strides, flat_bytes, from_flat_bytes

# The alignment of torch's own allocator: a kernel may sum in another order on other alignments.
ALIGN = 64


@dataclass(frozen=True, eq=False)
class Message:
    """A pickled value and the bytes of its tensors, in the order the pickle asks for them."""

    head: bytes
    parts: tuple[Tensor, ...]


class _Pickler(pickle.Pickler):
    """Takes plain CPU tensors out of the pickle; everything else as usual."""

    def __init__(self, file: io.BytesIO, parts: list[Tensor]) -> None:
        super().__init__(file, protocol=5)
        self._parts = parts

    def reducer_override(self, value: Any) -> Any:
        """Replace a tensor by the number of its part, an operator by its name."""
        if isinstance(value, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
            return _operator, (str(value), isinstance(value, torch._ops.HigherOrderOperator))
        plain = type(value) is Tensor and value.layout == torch.strided
        if not plain or value.device.type != "cpu" or value.is_quantized:
            return NotImplemented
        self._parts.append(flat_bytes(value))
        place = (value.dtype, tuple(value.shape), dense_strides(value), value.requires_grad)
        return _Place, (len(self._parts) - 1, *place)


def _operator(name: str, higher: bool) -> Any:
    """The operator that prints as this name, such as ``aten.conv2d.default``."""
    found: Any = torch.ops.higher_order if higher else torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


class _Place:
    """Stands in the pickle for a tensor; never made, the unpickler puts the tensor there."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, head: bytes, parts: Sequence[Tensor]) -> None:
        super().__init__(io.BytesIO(head))
        self._parts = parts

    def find_class(self, module: str, name: str) -> Any:
        """Look a global up; the stand-in becomes the tensor's maker."""
        if (module, name) == (_Place.__module__, _Place.__qualname__):
            return self._tensor
        return super().find_class(module, name)

    def _tensor(
        self,
        index: int,
        dtype: torch.dtype,
        sizes: tuple[int, ...],
        strides: tuple[int, ...],
        grad: bool,
    ) -> Tensor:
        made = from_flat_bytes(self._parts[index], dtype, sizes, strides)
        return made.requires_grad_(grad) if grad else made


def encode(value: Any) -> Message:
    """Take a value apart; its tensors are not copied, so send them before they change."""
    file = io.BytesIO()
    parts: list[Tensor] = []
    _Pickler(file, parts).dump(value)
    return Message(file.getvalue(), tuple(parts))


def decode(message: Message) -> Any:
    """Put a value together; its tensors use the message's memory."""
    return _Unpickler(message.head, message.parts).load()


def send(connection: Connection, message: Message) -> None:
    """Write a message into a pipe; returns when the other side has taken it."""
    sizes = struct.pack(f"<{len(message.parts)}q", *(p.numel() for p in message.parts))
    connection.send_bytes(sizes)
    connection.send_bytes(message.head)
    for part in message.parts:
        if part.numel():
            connection.send_bytes(part.numpy().data)


def receive(connection: Connection) -> Message:
    """Read a message from a pipe, straight into memory of torch's alignment.

    Raises:
        EOFError: the other side is gone.
    """
    packed = connection.recv_bytes()
    head = connection.recv_bytes()
    parts = []
    for size in struct.unpack(f"<{len(packed) // 8}q", packed):
        part = torch.empty(size, dtype=torch.uint8)
        if size:
            connection.recv_bytes_into(part.numpy().data)
        parts.append(part)
    return Message(head, tuple(parts))


def to_bytes(message: Message) -> bytes:
    """A message as one string of bytes."""
    file = io.BytesIO()
    _write(file.write, message)
    return file.getvalue()


def from_bytes(content: bytes | mmap.mmap) -> Message:
    """Read what `to_bytes` or `to_file` wrote; the tensors use this memory where it is writable."""
    count, length = struct.unpack("<2q", content[:16])
    sizes = struct.unpack(f"<{count}q", content[16 : 16 + 8 * count])
    start = _align(16 + 8 * count)
    head = content[start : start + length]
    start = _align(start + length)
    parts = []
    for size in sizes:
        if size == 0:
            parts.append(torch.empty(0, dtype=torch.uint8))
        elif isinstance(content, mmap.mmap):
            parts.append(torch.frombuffer(content, dtype=torch.uint8, count=size, offset=start))
        else:
            parts.append(torch.empty(size, dtype=torch.uint8))
            parts[-1].numpy().data[:] = memoryview(content)[start : start + size]
        start = _align(start + size)
    return Message(head, tuple(parts))


def to_file(message: Message) -> int:
    """A message in an unlinked temporary file: nothing is left behind, whatever is killed.

    Returns the file's descriptor, which the caller closes.
    """
    with say_temporary_failures(), tempfile.TemporaryFile(prefix="bitwright-") as file:
        _write(file.write, message)
        file.flush()
        return os.dup(file.fileno())


def from_file(descriptor: int) -> Message:
    """Map a file of `to_file`: pages are shared by all who map it, copied where one writes."""
    length = os.fstat(descriptor).st_size
    return from_bytes(mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY))


def _align(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def _write(write: Callable[[Any], object], message: Message) -> None:
    sizes = [part.numel() for part in message.parts]
    fixed = struct.pack(f"<{2 + len(sizes)}q", len(sizes), len(message.head), *sizes)
    for piece in (fixed, message.head, *(part.numpy().data for part in message.parts)):
        write(piece)
        write(bytes(_align(len(piece)) - len(piece)))
