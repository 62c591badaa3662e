"""Files and words as a bad day or an attacker would leave them, made from good ones by a seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

DEEP = "[" * 3000
WORDS = [
    "", "-1", "0", "1e999", "nan", "inf", "-inf", "9" * 400, "9" * 5000, "1" + "0" * 30, "0x10",
    "8.0", "true", '"', "'", "[", "]", "{", "}", "{2..16}", "{2..99999}", ",", "=", "<=", ">=",
    "==", "\\", "\n", "\r", "\t", "\x00", "é", "\u202e", "%", "and", "size<=0.1", "w4a8",
    "w16a16x9", "*", "?", "a" * 3000, DEEP, "#", "\ufeff", "1_000", "٣", "²",
]  # fmt: skip

# What no run writes, where a value of JSON stands.
VALUES: list[Any] = [
    None, True, False, 0, -1, 10**30, 10**400, 1e308, float("inf"), float("nan"), 0.5, "", "x",
    "\ud800", "<script>", "a" * 3000, [], {}, [[]], [None], {"": None}, ["x", 1], {"x": {"y": []}},
]  # fmt: skip


def mutated_json(text: str, dice: random.Random) -> bytes:
    """The text of a JSON file with one to three of its values taken away or become others."""
    value = json.loads(text)
    for _ in range(dice.randint(1, 3)):
        _spoil(value, dice)
    return json.dumps(value).encode()


def _spoil(value: Any, dice: random.Random) -> None:
    """Walk down at random; change or remove what stands there."""
    while isinstance(value, dict | list) and value:
        at = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[at], dict | list) and value[at] and dice.random() < 0.8:
            value = value[at]
        elif dice.random() < 0.2:
            del value[at]
            return
        else:
            value[at] = copy.deepcopy(dice.choice(VALUES))
            return


def mutated_text(text: str, dice: random.Random) -> bytes:
    """The text with one to four things done to it: to its bytes, its words or its numbers."""
    content = text.encode()
    for _ in range(dice.randint(1, 4)):
        content = dice.choice(_CHANGES)(content, dice)
    return content


def _flip(content: bytes, dice: random.Random) -> bytes:
    if not content:
        return b"x"
    at = dice.randrange(len(content))
    return content[:at] + bytes([dice.randrange(256)]) + content[at + 1 :]


def _cut(content: bytes, dice: random.Random) -> bytes:
    start, end = sorted(dice.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def _end(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _twice(content: bytes, dice: random.Random) -> bytes:
    start, end = sorted(dice.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] + content[end:]


def _insert(content: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(content) + 1)
    return content[:at] + dice.choice(WORDS).encode() + content[at:]


def _replace(content: bytes, dice: random.Random) -> bytes:
    """One value between separators becomes another."""
    stops = [i for i, byte in enumerate(content) if byte in b"=,\n\"' <>"]
    if len(stops) < 2:
        return _insert(content, dice)
    at = dice.randrange(len(stops) - 1)
    return content[: stops[at] + 1] + dice.choice(WORDS).encode() + content[stops[at + 1] :]


_CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    _flip, _cut, _end, _twice, _insert, _insert, _replace, _replace, _replace,
]  # fmt: skip
