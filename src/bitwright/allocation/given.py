"""Bits that somebody gives: a file of `bitwright allocate`, one edited by hand, or a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitwright.engine.texts import parse_json, read_text
from bitwright.errors import RecipeError, unknown
from bitwright.graph.choice import ALLOWED_BITS, Choice, parse_scheme

_REMEDY = "Give a file that 'bitwright allocate RUN --out FILE' wrote."
_PLACE = "--allocation"


def write_given(value: object) -> str:
    """Bits of units as the text that a recipe holds: {"UNIT": "w4a8", ...}.

    Args:
        value: a file, such text itself, or a mapping from units to schemes, choices or records.

    Raises:
        RecipeError: a file that cannot be read, holds no bits, or a scheme that cannot be.
    """
    if isinstance(value, Mapping):
        return _text(value, _PLACE)
    if isinstance(value, Path) or (isinstance(value, str) and not value.lstrip().startswith("{")):
        return _text(_of_file(Path(value)), f"{_PLACE} {value}")
    if isinstance(value, str):
        return _text(_load(value, _PLACE), _PLACE)
    raise RecipeError(f"{_PLACE} is a {type(value).__name__}; it is a file or maps units to bits.")


def inline_bits(values: Mapping[str, object]) -> dict[str, object]:
    """Keys of a recipe with an allocation read from its file, which is then needed no more."""
    given = values.get("allocation")
    return {**values, "allocation": write_given(given)} if given else dict(values)


def parse_given(text: str) -> dict[str, Choice]:
    """The bits that a recipe holds.

    >>> {unit: str(choice) for unit, choice in parse_given('{"conv": "w4a8"}').items()}
    {'conv': 'w4a8'}
    """
    return {unit: _choice(unit, bits, _PLACE) for unit, bits in _load(text, _PLACE).items()}


def of_units(names: Sequence[str], given: Mapping[str, Choice]) -> dict[str, Choice]:
    """The bits of every unit of a network.

    Raises:
        RecipeError: bits of a unit that the network has not, or none of one that it has.
    """
    for unit in given:
        if unit not in names:
            raise RecipeError(
                f"{unknown('unit', unit, names, _PLACE)} Is it an allocation of this network?"
            )
    for name in names:
        if name not in given:
            raise RecipeError(
                f"{_PLACE} says nothing of unit {name!r}. Add it, for example "
                f'"{name}": "w8a8", or take an allocation of this network.'
            )
    return {name: given[name] for name in names}


def _of_file(path: Path) -> Mapping[str, Any]:
    place = f"{_PLACE} {path}"
    found = _load(read_text(path, RecipeError, _REMEDY), place)
    choices = found.get("choices", found)
    if not isinstance(choices, Mapping) or not choices:
        raise RecipeError(f"{place} holds no bits: nothing held its budgets. {_REMEDY}")
    return choices


def _load(text: str, place: str) -> Mapping[str, Any]:
    found = parse_json(text, place, RecipeError, _REMEDY)
    if not isinstance(found, dict):
        raise RecipeError(f"{place} holds no object that maps units to bits. {_REMEDY}")
    return found


def _text(bits: Mapping[Any, Any], place: str) -> str:
    if not bits:
        raise RecipeError(f"{place} holds no bits. {_REMEDY}")
    shown = {str(unit): str(_choice(str(unit), own, place)) for unit, own in bits.items()}
    return json.dumps(shown, ensure_ascii=False)


def _choice(unit: str, bits: object, place: str) -> Choice:
    where = f"{place}, unit {unit!r}"
    if isinstance(bits, Choice):
        return bits
    if isinstance(bits, str):
        return parse_scheme(bits, where)
    if not isinstance(bits, Mapping):
        raise RecipeError(f"{where}: {str(bits)[:60]!r} are no bits. Write a scheme: w4a8.")
    values = {"points": 1, "group": 0, **bits}
    names = ("w_bits", "a_bits", "points", "group")
    lacking = [name for name in names if type(values.get(name)) is not int]
    if lacking or values["w_bits"] not in (0, *ALLOWED_BITS):
        name = lacking[0] if lacking else "w_bits"
        raise RecipeError(
            f"{where}: {name} is {str(values.get(name))[:60]}; it must be a whole number of bits "
            '(2 to 8, 16, or 0 for float). A scheme will do as well, such as "w4a8".'
        )
    # Read as the user would write it, so that all is checked in one place.
    return parse_scheme(str(Choice(*(values[name] for name in names))), where)
