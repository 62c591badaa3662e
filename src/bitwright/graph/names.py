"""The network's own words: the order of its inputs, and what its outputs are called."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

OUTPUT = "output"


def in_forward_order(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keyword inputs in the order in which forward() names them; what it does not name comes last.

    A batch is a dictionary in the order of whoever made it (a tokenizer, a loader); files and
    listings go by the network.
    """
    named = [name for name in inspect.signature(model.forward).parameters if name in inputs]
    return {name: inputs[name] for name in dict.fromkeys((*named, *inputs))}


def know_dataclasses(result: Any) -> None:
    """Tell torch of the dataclasses in a network's result, which torch.export refuses otherwise."""
    for leaf in pytree.tree_leaves(result):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            know_dataclasses(leaf)


def leaf_names(result: Any) -> tuple[str, ...]:
    """What each leaf of a network's result is called, in the order of its leaves.

    Keys and fields give the names, nested ones are joined by a dot; where there are none it is
    `output`, or `output_0`, `output_1` and so on.

    >>> leaf_names({"boxes": 1.0, "scores": (2.0, 3.0)})
    ('boxes', 'scores.0', 'scores.1')
    >>> leaf_names(1.0), leaf_names([1.0, {"mask": 2.0}])
    (('output',), ('output_0', 'output_1.mask'))
    """
    paths = list(_paths(result, ()))
    if len(paths) == 1 and not any(isinstance(part, str) for part in paths[0]):
        return (OUTPUT,)
    return tuple(distinct(map(_join_names, paths)))


def distinct(names: Iterator[str]) -> list[str]:
    """The names, those that came before with a number behind them.

    >>> distinct(iter(["a", "a", "b"]))
    ['a', 'a_2', 'b']
    """
    found: list[str] = []
    for name in names:
        own, number = name, 2
        while own in found:
            own, number = f"{name}_{number}", number + 1
        found.append(own)
    return found


def _join_names(path: tuple[str | int, ...]) -> str:
    first, *rest = path or ("",)
    start = first if isinstance(first, str) and first else f"{OUTPUT}_{first or 0}"
    return ".".join((start, *map(str, rest)))


def _paths(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The keys, fields and places that lead to each leaf."""
    children, _ = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    if len(children) == 1 and children[0] is value:
        yield path
        return
    for word, child in zip(_words(value, children), children, strict=True):
        yield from _paths(child, (*path, word))


def _words(value: Any, children: list[Any]) -> list[str | int]:
    """What leads from a value to each of its children: keys or fields, else their places."""
    known = iter(_fields(value))
    words: list[str | int] = []
    for place, child in enumerate(children):
        # Fields that hold None are no children, so a name counts where its value is the child.
        words.append(next((name for name, held in known if held is child), place))
    return words


def _fields(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), held) for key, held in value.items()]
    if hasattr(value, "_fields"):
        return [(name, getattr(value, name)) for name in value._fields]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []
