"""Activation rows under a budget of bytes: in memory first, on disk beyond that."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import torch
from torch import Tensor

from bitwright.engine.files import say_temporary_failures


@dataclass
class ByteBudget:
    """Bytes of memory that all spools of a run share."""

    left: int

    def take(self, size: int) -> bool:
        """Claim memory, if there is some left."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass
class Spool:
    """Float32 tensors in the order they came, those beyond the budget in an unnamed file."""

    budget: ByteBudget
    _parts: list[Tensor | tuple[int, tuple[int, ...]]] = field(default_factory=list)
    _file: IO[bytes] | None = None
    _held: int = 0

    def add(self, rows: Tensor) -> None:
        """Keep a tensor."""
        # Rows wait on the host, whatever device made them.
        rows = rows.cpu().contiguous()
        size = rows.numel() * rows.element_size()
        if self.budget.take(size):
            self._held += size
            self._parts.append(rows)
            return
        with say_temporary_failures():
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="bitwright-")  # noqa: SIM115 - closed by close()
            self._parts.append((self._file.seek(0, 2), tuple(rows.shape)))
            self._file.write(rows.numpy().tobytes())

    def read(self) -> list[Tensor]:
        """All tensors, in order."""
        with say_temporary_failures():
            return [p if isinstance(p, Tensor) else self._load(*p) for p in self._parts]

    def close(self) -> None:
        """Give memory and disk back."""
        self.budget.left += self._held
        self._held = 0
        self._parts.clear()
        if self._file is not None:
            # What a full disk did not take was told of when it was added.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _load(self, offset: int, shape: tuple[int, ...]) -> Tensor:
        assert self._file is not None
        self._file.seek(offset)
        count = int(np.prod(shape))
        data = np.frombuffer(bytearray(self._file.read(4 * count)), dtype=np.float32)
        return torch.from_numpy(data).reshape(shape)
