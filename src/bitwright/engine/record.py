"""Values that are written as JSON objects: typed in the program, one way out, one strict way back.

A frozen dataclass of base `Record` is also the mapping that its JSON object is: `found.agreement`
for the program and its type checker, `found["agreement"]` for whoever knows the file.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from typing_extensions import Self

# Of a field: left out of the file where it is None; the file's own key; its entries stand among the
# others.
OPTIONAL: Mapping[str, object] = {"optional": True}
FLAT: Mapping[str, object] = {"flat": True}
# No count of a run is larger; what is cannot be computed with as a float.
_MOST = 1 << 100
_SHOWN = 50


def store_as(key: str) -> Mapping[str, object]:
    """Of a field: the key that it has in the file, where that is no name for an attribute."""
    return {"key": key}


@dataclass(frozen=True, eq=False)
class Record(Mapping[str, Any]):
    """A frozen value that reads as the JSON object it is written as.

    Subclasses are dataclasses with `frozen=True, eq=False, kw_only=True`, whose fields stand in the
    order of the file. What an older file may lack has a default.
    """

    def to_json(self) -> dict[str, Any]:
        """The object as JSON has it: nothing but dicts, lists and plain values."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("flat"):
                found |= _plain(value)
            elif value is not None or not field.metadata.get("optional"):
                found[_key(field)] = _plain(value)
        return found

    @classmethod
    def from_json(cls, value: object, place: str = "it") -> Self:
        """Read the object; keys that are not known are of another version and passed over.

        Raises:
            ValueError: naming the place where a key is missing or a value is of another kind.
        """
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} is {_short(value)} and no object")
        hints, own = _hints(cls), fields(cls)
        known = {_key(field) for field in own}
        given: dict[str, Any] = {}
        for field in own:
            hint, key = hints[field.name], _key(field)
            if field.metadata.get("flat"):
                rest = {name: part for name, part in value.items() if name not in known}
                given[field.name] = _read(hint, rest, place)
            elif key in value:
                given[field.name] = _read(hint, value[key], f"{place}.{key}")
            elif field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{place} has no {key!r}")
        return cls(**given)

    def __getitem__(self, key: str) -> Any:
        """What stands under a key of the file, as JSON has it."""
        return self.to_json()[key]

    def __iter__(self) -> Iterator[str]:
        """The keys of the file, in its order."""
        return iter(self.to_json())

    def __len__(self) -> int:
        """How many keys the file has."""
        return len(self.to_json())

    def __bool__(self) -> bool:
        """A value is something, even where its file would hold no key."""
        return True


def _key(field: Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


@cache
def _hints(kind: type[Record]) -> dict[str, Any]:
    return get_type_hints(kind)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value


# ---- the way back ----------------------------------------------------------------------------


def _read(hint: Any, value: object, place: str) -> Any:
    """A value of JSON as what a field's annotation says that it is."""
    if hint is Any or hint is object:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), value, place)
    if origin is tuple:
        return _sequence(get_args(hint), value, place)
    if origin is not None:
        return _mapping(get_args(hint), value, place)
    if hasattr(hint, "from_json"):
        return hint.from_json(value, place)
    return _SCALARS[hint](value, place)


def _one_of(kinds: tuple[Any, ...], value: object, place: str) -> Any:
    """None where that may stand, else the first kind that fits."""
    if value is None and type(None) in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not type(None))
    for kind in others:
        try:
            return _read(kind, value, place)
        except ValueError:
            continue
    return _read(last, value, place)


def _sequence(kinds: tuple[Any, ...], value: object, place: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{place} is {_short(value)} and no list")
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{place} has {len(value)} entries in place of {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_read(kind, part, f"{place}[{index}]") for index, (kind, part) in pairs)


def _mapping(kinds: tuple[Any, ...], value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {_short(value)} and no object")
    return {str(key): _read(kinds[1], part, f"{place}.{key}") for key, part in value.items()}


def _number(value: object, place: str) -> float:
    if value is None:  # what is not finite is written so, for JSON does not know it
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{place} is {_short(value)} and no number")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{place} is beyond every number of 64 bits") from error


def _exact(kind: type, name: str) -> Callable[[object, str], Any]:
    def read(value: object, place: str) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{place} is {_short(value)} and no {name}")
        return value

    return read


def _whole(value: object, place: str) -> int:
    number: int = _exact(int, "whole number")(value, place)
    if abs(number) > _MOST:
        raise ValueError(f"{place} is beyond every count of a run")
    return number


_SCALARS: Mapping[type, Callable[[object, str], Any]] = {
    float: _number,
    int: _whole,
    bool: _exact(bool, "yes or no"),
    str: _exact(str, "text"),
}


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
