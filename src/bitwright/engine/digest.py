"""Content digests of plain values and tensors: the keys of the store."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

ByteFeed = Callable[[Any], None]


def digest(*values: Any) -> str:
    """Sha256 over nested plain values, stable between processes and machines.

    Values are None, bool, int, float, str, bytes, enums, tuples, lists, sets, dicts, dataclasses
    declared frozen, torch dtypes and tensors. The order of a dict or a set does not matter, nor do
    a tensor's strides. Types do: 1, 1.0, True and "1" differ, so do 0.0 and -0.0; what differs in
    its bits may differ in its effect.

    >>> digest({"a": 1, "b": (2.0, None)}) == digest({"b": (2.0, None), "a": 1})
    True
    >>> digest(1) == digest(1.0)
    False

    Raises:
        TypeError: a value of another type, named with its place.
    """
    sha = hashlib.sha256()
    for index, value in enumerate(values):
        _feed(sha.update, value, f"value {index}")
    return sha.hexdigest()


def _feed(feed: ByteFeed, value: Any, place: str) -> None:
    """Feed one value: its type's tag, its length, its content, so that no two values collide."""
    if isinstance(value, enum.Enum):
        _text(feed, b"e", f"{_class_name(value)}.{value.name}")
    elif value is None or isinstance(value, (bool, int, float, str, bytes, torch.dtype)):
        _scalar(feed, value)
    elif isinstance(value, Tensor):
        _tensor(feed, value, place)
    elif isinstance(value, (tuple, list)):
        feed(b"(" if isinstance(value, tuple) else b"[")
        feed(_length(len(value)))
        for index, item in enumerate(value):
            _feed(feed, item, f"{place}[{index}]")
    elif isinstance(value, (Mapping, set, frozenset)):
        _feed_unordered(feed, value, place)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _dataclass(feed, value, place)
    else:
        raise TypeError(
            f"{place} is a {_class_name(value)}, which has no digest: give plain values, frozen "
            "dataclasses and tensors."
        )


def _scalar(feed: ByteFeed, value: object) -> None:
    # bool before int: a bool is an int to isinstance.
    if value is None:
        feed(b"n")
    elif isinstance(value, bool):
        feed(b"t" if value else b"f")
    elif isinstance(value, int):
        _text(feed, b"i", str(int(value)))
    elif isinstance(value, float):
        feed(b"d" + struct.pack("<d", value))
    elif isinstance(value, bytes):
        feed(b"b" + _length(len(value)))
        feed(value)
    else:
        _text(feed, b"s" if isinstance(value, str) else b"y", str(value))


def _text(feed: ByteFeed, tag: bytes, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    feed(tag + _length(len(data)))
    feed(data)


def _length(count: int) -> bytes:
    return struct.pack("<q", count)


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _feed_unordered(
    feed: ByteFeed, value: Mapping[Any, Any] | set[Any] | frozenset[Any], at: str
) -> None:
    if isinstance(value, Mapping):
        parts = sorted(
            _digest_alone(key, f"a key of {at}") + _digest_alone(item, f"{at}[{key!r}]")
            for key, item in value.items()
        )
    else:
        parts = sorted(_digest_alone(item, f"an item of {at}") for item in value)
    feed(b"{" if isinstance(value, Mapping) else b"<")
    feed(_length(len(parts)))
    for part in parts:
        feed(part)


def _digest_alone(value: Any, place: str) -> bytes:
    sha = hashlib.sha256()
    _feed(sha.update, value, place)
    return sha.digest()


def _dataclass(feed: ByteFeed, value: Any, place: str) -> None:
    # A value that can change is no key: its digest would silently go stale.
    if not type(value).__dataclass_params__.frozen:
        raise TypeError(f"{place} is a {_class_name(value)}, which is not frozen: freeze it.")
    _text(feed, b"c", _class_name(value))
    fields = dataclasses.fields(value)
    feed(_length(len(fields)))
    for field in fields:
        _text(feed, b"k", field.name)
        _feed(feed, getattr(value, field.name), f"{place}.{field.name}")


def _tensor(feed: ByteFeed, value: Tensor, place: str) -> None:
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise TypeError(f"{place} is a {value.layout} tensor on {value.device}: it has no digest.")
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    _text(feed, b"x", f"{plain.dtype}{tuple(plain.shape)}")
    # hashlib reads the tensor's own memory: no copy, and other threads may run meanwhile.
    feed(plain.reshape(-1).view(torch.uint8).numpy())


def fingerprint_each(values: Iterable[Any], seen: list[str]) -> Iterator[Any]:
    """Pass values on, each one's digest noted as it goes by: a stream's identity for free."""
    for value in values:
        seen.append(digest(value))
        yield value
