"""Files and words as a bad day or an attacker would leave them, made from good ones by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

DEEP = "[" * 3000
WORDS = [
    "", "-1", "0", "1e999", "nan", "inf", "-inf", "9" * 400, "9" * 5000, "1" + "0" * 30, "0x10",
    "8.0", "true", '"', "'", "[", "]", "{", "}", "{2..16}", "{2..99999}", ",", "=", "<=", ">=",
    "==", "\\", "\n", "\r", "\t", "\x00", "é", "\u202e", "%", "and", "size<=0.1", "w4a8",
    "w16a16x9", "*", "?", "a" * 3000, DEEP, "#", "\ufeff", "1_000", "٣", "²",
]  # fmt: skip


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
