"""How many inputs a network takes, and so which part of a loader's tuple is the target.

A loader yields `(image, target)` and a network of two inputs yields `(image, table)`: the tuples
look alike. What tells them apart is the network: its `example_inputs`, else forward()'s signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from bitwright.errors import DataError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NESTED = (tuple, list, Mapping)


@dataclass(frozen=True)
class Arity:
    """How many tensors a network takes by position: from `least` to `most`.

    `most` is None where there is no bound; `told` says what it was read from.
    """

    least: int
    most: int | None
    told: str

    def fits(self, count: int) -> bool:
        """Whether the network can be called with so many inputs."""
        return self.least <= count and (self.most is None or count <= self.most)

    @property
    def text(self) -> str:
        """`1 input`, `1 to 3 inputs`, `1 or more inputs`."""
        if self.most is None:
            return f"{self.least} or more inputs"
        if self.least == self.most:
            return f"{self.least} input{'' if self.least == 1 else 's'}"
        return f"{self.least} to {self.most} inputs"


def arity_of(module: nn.Module, example: Sized | None = None) -> Arity | None:
    """The number of inputs of a network; None where nothing tells.

    Its example inputs decide where there are any. Of forward()'s parameters those that have a
    number, a text or a truth value as their default are switches, not inputs.
    """
    if example is not None:
        return Arity(len(example), len(example), "its example_inputs")
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # a forward() of compiled code may have none
        return None
    inputs = [p for p in signature.parameters.values() if _is_input(p)]
    least = max(1, sum(p.default is p.empty for p in inputs))
    open_end = any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())
    names = ", ".join(p.name if p.default is p.empty else f"{p.name}=..." for p in inputs)
    names = ", ".join(filter(None, (names, "*args" if open_end else "")))
    return Arity(least, None if open_end else max(least, len(inputs)), f"forward({names})")


def _is_input(parameter: inspect.Parameter) -> bool:
    if parameter.kind not in _POSITIONAL:
        return False
    return parameter.default is parameter.empty or not isinstance(
        parameter.default, (bool, int, float, str)
    )


def split_items(
    items: tuple[object, ...] | list[object], takes: Arity | None, place: str
) -> tuple[object, object | None]:
    """A loader's tuple as (inputs, target); the target is None where all are inputs.

    A pair is (inputs, target) when its second element is None, a list, a tuple or a dict, or when
    its first element is itself one of these. Otherwise the number of the network's inputs decides.
    Where both readings fit, or the network is not known, whole numbers, one a sample, are labels.

    Raises:
        DataError: neither reading fits, or both do and nothing tells them apart.
    """
    if len(items) < 2:
        return items, None
    *rest, last = items
    labelled = (rest[0] if len(rest) == 1 else tuple(rest)), last
    if len(items) == 2 and (last is None or isinstance(last, _NESTED)):
        return labelled
    if len(items) == 2 and isinstance(rest[0], _NESTED):
        return labelled
    if takes is None:
        return labelled if len(items) == 2 and _are_labels(last, rest[0]) else (items, None)
    as_inputs, as_pair = takes.fits(len(items)), takes.fits(len(rest))
    if as_inputs and as_pair:
        if last is None or not _is_array(last) or _are_labels(last, rest[0]):
            return labelled
        raise DataError(_ambiguous(items, takes, place))
    if not as_inputs and not as_pair and len(items) > takes.least:
        raise DataError(_too_many(items, takes, place))
    return labelled if as_pair else (items, None)


def _is_array(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _are_labels(last: object, first: object) -> bool:
    """Whether an array holds whole numbers, one for each sample of another."""
    if not isinstance(first, (Tensor, np.ndarray)) or not isinstance(last, (Tensor, np.ndarray)):
        return False
    if last.ndim > 1 or not _is_integer(last) or not first.ndim:
        return False
    return (len(last) if last.ndim else 1) == len(first)


def _is_integer(value: Tensor | np.ndarray[Any, Any]) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex())
    return value.dtype.kind in "iub"


def _describe(value: object) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _ambiguous(items: tuple[object, ...] | list[object], takes: Arity, place: str) -> str:
    letters = [chr(ord("a") + i) for i in range(len(items))]
    inputs, target = ", ".join(letters[:-1]), letters[-1]
    single = f"({inputs},)" if len(letters) == 2 else f"({inputs})"
    return (
        f"{place} has {len(items)} elements and the network takes {takes.text} by {takes.told}: "
        f"the last element ({_describe(items[-1])}) may be a target or an input. Write "
        f"({single}, {target}) if it is the target, (({inputs}, {target}), None) if all are "
        "inputs; or set example_inputs on the network."
    )


def _too_many(items: tuple[object, ...] | list[object], takes: Arity, place: str) -> str:
    most = takes.most or takes.least
    inputs = ", ".join(f"x{i}" for i in range(most)) if most > 1 else "x"
    given = ", ".join(_describe(item) for item in items)
    single = f"({inputs})" if most > 1 else inputs
    return (
        f"{place} has {len(items)} elements ({given}), but the network takes {takes.text} by "
        f"{takes.told}: at most one element more, the target, is understood. Put several targets "
        f'into one dict: ({single}, {{"mask": a, "boxes": b}}).'
    )
