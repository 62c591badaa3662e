"""Schemes: how many bits a unit's weights and inputs get, and rules that keep some units apart."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.errors import RecipeError

# No bits, points or groups have more digits than six.
_SCHEME = re.compile(r"w(\d{1,6})a(\d{1,6}|f|float)(?:g(\d{1,6}))?(?:x(\d{1,6}))?|(float)")
# There are some 600 schemes of 2 to 8 bits with points; a longer list is a slip of the braces.
_MOST_SCHEMES = 1_000
_LONGEST_MENU = 20_000
ALLOWED_BITS = (2, 3, 4, 5, 6, 7, 8, 16)
# Of the sum of all points: those of the widest grid (`numerics.grid`; no torch is loaded here).
WIDEST = 16


@dataclass(frozen=True)
class Choice:
    """Bits of a unit's weight and of its input; 0 stands for float.

    `points`: the weight is a sum of so many tensors of `w_bits` each (`numerics.points`).
    `group`: so many neighbours of a channel's weights share a grid; 0: the whole channel.
    """

    w_bits: int
    a_bits: int
    points: int = 1
    group: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the unit stays as it is."""
        return self.w_bits == 0

    @property
    def sum_bits(self) -> int:
        """Bits of the sum of all points: those of the grid that the weight is solved on."""
        return self.w_bits * self.points

    def to_json(self) -> dict[str, int]:
        """As run directories hold it; groups are named where there are some."""
        found = {"w_bits": self.w_bits, "a_bits": self.a_bits, "points": self.points}
        return {**found, "group": self.group} if self.group else found

    def __str__(self) -> str:
        """Render as the user writes it."""
        if self.is_float:
            return "float"
        inputs = str(self.a_bits) if self.a_bits else "float"
        group = f"g{self.group}" if self.group else ""
        return f"w{self.w_bits}a{inputs}{group}" + (f"x{self.points}" if self.points > 1 else "")


FLOAT = Choice(0, 0)


def parse_scheme(text: str, place: str = "--scheme") -> Choice:
    """Read ``w4a8``, ``w4afloat``, ``float``; of two points ``w4a8x2``, in groups ``w4a8g64``.

    >>> parse_scheme("w4a8")
    Choice(w_bits=4, a_bits=8, points=1, group=0)

    Raises:
        RecipeError: another word, or bits that no grid has.
    """
    match = _SCHEME.fullmatch(text.strip().lower())
    if match is None:
        raise RecipeError(
            f"unknown scheme {text[:60]!r} in {place}. A scheme is written w4a8 (weight bits, "
            "input bits), w4a8x2 (a sum of two such weights), w4a8g64 (a scale for every 64 "
            "weights), w4afloat (weights only) or float."
        )
    if match.group(5):
        return FLOAT
    weights, inputs = match.group(1), match.group(2)
    a_bits = 0 if inputs.startswith("f") else int(inputs)
    choice = Choice(int(weights), a_bits, int(match.group(4) or 1), int(match.group(3) or 0))
    for what, bits in (("weight", choice.w_bits), ("input", choice.a_bits)):
        if bits not in ALLOWED_BITS and not (what == "input" and bits == 0):
            raise RecipeError(
                f"scheme {text!r} in {place} asks for {bits} {what} bits. Bits are 2 to 8, or 16."
            )
    if choice.points < 1 or (choice.points > 1 and choice.sum_bits > WIDEST):
        most = WIDEST // choice.w_bits
        allowed = f"1 to {most} points" if most > 1 else "one point"
        raise RecipeError(
            f"scheme {text!r} in {place} asks for {choice.points} points of {choice.w_bits} bits: "
            f"a sum has at most {WIDEST} bits, so weights of {choice.w_bits} bits have {allowed}."
        )
    if match.group(3) and (choice.group < 8 or choice.points > 1):
        raise RecipeError(
            f"scheme {text!r} in {place}: a group has 8 weights or more, and sums of points have "
            "none. Write, for example, w4a8g64."
        )
    return choice


_RANGE = re.compile(r"\{([^{}]*)\}")


def parse_menu(text: str, place: str = "--menu") -> tuple[Choice, ...]:
    """Read ``w8a8,w4a4``, ``w{2..8}a{4,8}x{1..2}``: a unit's choices, each once, in order.

    >>> [str(c) for c in parse_menu("w{2..3}a{4,8},w8a8")]
    ['w2a4', 'w2a8', 'w3a4', 'w3a8', 'w8a8']

    Raises:
        RecipeError: an ill-written scheme or range, or nothing at all.
    """
    if len(text) > _LONGEST_MENU:
        raise RecipeError(
            f"{place} {text[:40]!r}... has {len(text)} characters. Write at most {_LONGEST_MENU}."
        )
    parts = [p for p in re.split(r",(?![^{}]*\})", text) if p.strip()]
    count = sum(_count(part, place) for part in parts)
    if count > _MOST_SCHEMES:
        raise RecipeError(
            f"{place} {text[:40]!r} stands for {count} schemes; a menu has at most "
            f"{_MOST_SCHEMES}. Each unit is solved at each of them, so a dozen is many. "
            "Write, for example, w{2..8}a{4,8}."
        )
    found = [parse_scheme(scheme, place) for part in parts for scheme in _spread(part, place)]
    if not found:
        raise RecipeError(
            f"{place} {text!r} names no scheme. Write some, such as w8a8,w4a4 or w{{2..8}}a{{4,8}}."
        )
    return tuple(dict.fromkeys(found))


def _spread(text: str, place: str) -> list[str]:
    """Every scheme that a pattern with braces stands for."""
    match = _RANGE.search(text)
    if match is None:
        return [text]
    before, after = text[: match.start()], text[match.end() :]
    return [s for v in _values(match.group(1), place) for s in _spread(before + v + after, place)]


def _count(text: str, place: str) -> int:
    """How many schemes a pattern with braces stands for; none of them is made."""
    return math.prod(len(_values(inside, place)) for inside in _RANGE.findall(text))


def _values(inside: str, place: str) -> list[str]:
    """What a pair of braces holds."""
    values: list[str] = []
    for item in inside.split(","):
        low, dots, high = item.strip().partition("..")
        if dots and _small(low) and _small(high) and int(low) <= int(high) <= WIDEST:
            values += [str(n) for n in range(int(low), int(high) + 1)]
        elif not dots and low:
            values.append(low)
        else:
            shown = inside if len(inside) <= 40 else f"{inside[:40]}..."
            raise RecipeError(
                f"{place} has the range {{{shown}}}, which cannot be read. Write {{2..8}} or "
                "{4,8}; bits and points go up to 16."
            )
    return values


def _small(text: str) -> bool:
    return text.isdecimal() and len(text) <= 2


def parse_keep(text: str) -> tuple[tuple[str, Choice], ...]:
    """Read ``first,last=w8a8,blocks.0.*=float``: patterns up to each ``=`` share its scheme.

    >>> parse_keep("first,last=w8a8")[1]
    ('last', Choice(w_bits=8, a_bits=8, points=1, group=0))
    """
    rules: list[tuple[str, Choice]] = []
    waiting: list[str] = []
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        pattern, equals, scheme = item.partition("=")
        waiting.append(pattern.strip())
        if equals:
            choice = parse_scheme(scheme, "--keep")
            rules += [(name, choice) for name in waiting]
            waiting = []
    if waiting:
        raise RecipeError(
            f"--keep {text!r} gives no scheme for {waiting[0]!r}. Write PATTERN=SCHEME, for "
            f"example '{waiting[0]}=w8a8' or '{waiting[0]}=float'."
        )
    return tuple(rules)


def write_choices(key: str, value: object) -> str:
    """Schemes, menus and rules as a recipe writes them, from text, choices, lists or a mapping.

    >>> write_choices("menu", ["w8a8", Choice(4, 8)])
    'w8a8,w4a8'
    >>> write_choices("keep", {"first": "w8a8", "a*": FLOAT})
    'first=w8a8,a*=float'

    Raises:
        RecipeError: a value that is neither, or a pattern that would be read as another rule.
    """
    if isinstance(value, (str, Choice)):
        return str(value)
    if isinstance(value, Mapping) and key == "keep":
        return ",".join(_rule(pattern, scheme) for pattern, scheme in value.items())
    if isinstance(value, Sequence) and not isinstance(value, (bytes, Mapping)):
        wrong = next((v for v in value if not isinstance(v, (str, Choice))), None)
        if wrong is None:
            return (" and " if key == "budget" else ",").join(map(str, value))
        value = wrong
    raise RecipeError(
        f"{key} holds {value!r}, of type {type(value).__name__}. Give text, a Choice, a list of "
        "these" + (", or a dictionary of patterns and schemes." if key == "keep" else ".")
    )


def _rule(pattern: object, scheme: object) -> str:
    good = isinstance(pattern, str) and pattern.strip() and not set(pattern) & {",", "="}
    if not good or not isinstance(scheme, (str, Choice)) or "," in str(scheme):
        raise RecipeError(
            f"keep holds {pattern!r}: {scheme!r}. A key is one pattern of module paths, a value "
            "its scheme, for example {'first': 'w8a8', 'blocks.0.*': 'float'}."
        )
    return f"{pattern}={scheme}"


def assign(
    names: Sequence[str], scheme: Choice, keep: Sequence[tuple[str, Choice]]
) -> Mapping[str, Choice]:
    """The choice of every unit: the scheme, overruled by the last `keep` rule that matches.

    ``first`` and ``last`` are the first and last unit in the order of execution; anything else is
    a pattern over module paths (``*`` and ``?``).

    Raises:
        RecipeError: a pattern that matches no unit.
    """
    chosen = dict.fromkeys(names, scheme)
    for pattern, choice in keep:
        if pattern in ("first", "last") and names:
            chosen[names[0 if pattern == "first" else -1]] = choice
            continue
        matched = fnmatch.filter(names, pattern)
        if not matched:
            shown = ", ".join(names[:5])
            raise RecipeError(
                f"--keep pattern {pattern!r} matches no unit. Units are named by module path: "
                f"{shown}, ... ('bitwright doctor' lists all)."
            )
        chosen.update(dict.fromkeys(matched, choice))
    return chosen


# The choices of every unit, by its name.
Menus = Mapping[str, tuple[Choice, ...]]
