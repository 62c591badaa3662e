"""The device of a run: whether the word is one, whether this machine has it, and the way there."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

from bitwright.errors import RecipeError

Movable = TypeVar("Movable")
KINDS = ("cpu", "cuda", "mps")
_DEVICE = re.compile(r"(cpu|cuda|mps)(?::(\d{1,3}))?", re.ASCII)


def parse_device(text: str, place: str = "--device") -> tuple[str, int | None]:
    """Read ``cpu``, ``cuda``, ``cuda:1``, ``mps``: the kind and the number.

    >>> parse_device("cuda:1")
    ('cuda', 1)

    Raises:
        RecipeError: another word, or a number that this kind has not.
    """
    match = _DEVICE.fullmatch(text)
    if match is None or (match[1] != "cuda" and match[2] not in (None, "0")):
        raise RecipeError(
            f"unknown device {text!r} in {place}. Write cpu, cuda, mps, or cuda:1 for the second "
            "CUDA device."
        )
    return match[1], None if match[2] is None else int(match[2])


def check_device(text: str, place: str = "--device") -> None:
    """Whether this machine has the device; asked before any work is done on it.

    Raises:
        RecipeError: it has not; with what there is instead.
    """
    kind, number = parse_device(text, place)
    if kind == "cpu":
        return
    # Here, not above: the word alone is checked without torch.
    import torch

    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise RecipeError(
                f"{place} {text}: PyTorch finds no MPS device on this machine. Use --device cpu."
            )
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        build = "" if torch.version.cuda else " (this PyTorch is built without CUDA)"
        raise RecipeError(
            f"{place} {text}: PyTorch finds no CUDA device on this machine{build}. Use --device "
            "cpu."
        )
    if number is not None and number >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise RecipeError(f"{place} {text}: this machine has {there}. Use one of those, or cpu.")


def is_host(text: str) -> bool:
    """Whether a device is this process's own memory, where nothing has to be moved."""
    return parse_device(text)[0] == "cpu"


def move(value: Movable, device: str) -> Movable:
    """A value with every tensor in it on a device: of tuples, lists, mappings and dataclasses too.

    What holds no tensor stays the object that it is.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device)  # type: ignore[return-value]
    if isinstance(value, tuple | list):
        parts = [move(part, device) for part in value]
        same = all(a is b for a, b in zip(parts, value, strict=True))
        return value if same else type(value)(parts)
    if isinstance(value, dict):
        return {key: move(part, device) for key, part in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        moved = {name: move(part, device) for name, part in own.items()}
        changed = {name: part for name, part in moved.items() if part is not own[name]}
        return replace(value, **changed) if changed else value
    return value
