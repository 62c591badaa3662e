"""Budgets as the user writes them: ``size<=0.13 and bops<=2GBOP``, ``loss<=0.05``, ``drop<=1%``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from bitwright.allocation.cost import DEGRADATIONS, Measure, is_of_device, kind_of
from bitwright.errors import RecipeError, unknown

# Beyond these a number is a slip of the keyboard: no network costs so much, none so little.
_DIGITS, _EXPONENT = 40, 30
# No digit can be taken in two ways: a long number that is refused is refused at once.
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_TERM = re.compile(
    rf"\s*([A-Za-z_][\w.-]*?(?:\[[\w.-]+\])?)\s*(<=|≤|==|>=|≥|=|<|>)\s*({_NUMBER})\s*(\S*)\s*"
)
# What is longer is no budget, and would only be searched in vain.
_LONGEST = 1000
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)


def _read_prefix(base: str, unit: Fraction | int, prefixes: str) -> dict[str, Fraction]:
    """Powers of a thousand under one base unit: kB, MB, ..."""
    powers = {"p": -12, "n": -9, "u": -6, "µ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}
    names = ["", *prefixes]
    return {f"{p}{base}": Fraction(unit) * Fraction(10) ** powers[p] for p in names}


# A byte is 8 bits, a kB 1000 bytes, a KiB 1024. Each measure in the unit of its table.
_UNITS: Mapping[str, Mapping[str, Fraction]] = {
    "size": {
        **_read_prefix("B", 8, "kMG"),
        **_read_prefix("bit", 1, "kMG"),
        "bits": Fraction(1),
        "KiB": Fraction(8 << 10),
        "MiB": Fraction(8 << 20),
        "GiB": Fraction(8 << 30),
    },
    "bops": {**_read_prefix("BOP", 1, "kMGT"), **_read_prefix("BOPs", 1, "kMGT")},
    "latency": _read_prefix("s", 1000, "munµ"),
    "energy": _read_prefix("J", 10**12, "munµp"),
}
_USER_UNITS = {"units": Fraction(1)}
EXAMPLES = {"size": "3MB", "bops": "1.5GBOP", "latency": "2ms", "energy": "40uJ"}


@dataclass(frozen=True)
class Budget:
    """An upper bound on one measure.

    Attributes:
        name: of the measure.
        amount: exact; of float, or in the measure's own unit (bit, BOP, ms, pJ, loss).
        relative: whether it is a fraction of the float network's.
        text: as the user wrote it.
    """

    name: str
    amount: Fraction
    relative: bool
    text: str


@dataclass(frozen=True)
class Cap:
    """A budget in whole steps of its measure.

    Attributes:
        measure: what is bounded.
        limit: the most steps.
        amount: the same before it was rounded down, in the measure's unit.
        text: as the user wrote it.
    """

    measure: Measure
    limit: int
    amount: Fraction
    text: str

    @property
    def name(self) -> str:
        """Of the measure."""
        return self.measure.name


def parse_budgets(
    texts: str | Iterable[str], place: str = "--budget", known: Iterable[str] = ()
) -> tuple[Budget, ...]:
    """Read budgets; several are joined by "and" or given one by one.

    Args:
        texts: as the user wrote them.
        place: where, for messages.
        known: names of measures; empty where it is not known yet which tables there will be.

    >>> [(b.name, float(b.amount)) for b in parse_budgets("size<=0.13 and latency <= 2 ms")]
    [('size', 0.13), ('latency', 2.0)]

    Raises:
        RecipeError: naming what cannot be read and how it is written.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    names = frozenset(known)
    return tuple(
        _parse(part, place, names)
        for text in given
        if text.strip()
        for part in _AND.split(text.strip())
    )


def _parse(text: str, place: str, known: frozenset[str]) -> Budget:
    match = _TERM.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise RecipeError(
            f"{place} {show_amount(text.strip())} is no budget. Write NAME<=NUMBER, for example "
            "'size<=0.13' (of float), 'size<=3MB', 'loss<=0.05' or 'drop<=1%'; join several by "
            "'and'."
        )
    name, sign, number, unit = match.groups()
    if sign not in ("<=", "≤"):
        raise RecipeError(
            f"{place} {show_amount(text.strip())}: a budget is an upper bound. Write <=."
        )
    shown = text.strip()
    if known and name not in known:
        raise RecipeError(
            unknown("cost", name, known, f"{place} {show_amount(shown)}")
            + " A cost of your own is given by --cost-table NAME=FILE.csv, the latencies of a "
            "device by --latencies DEVICE=FILE.csv."
        )
    if "[" in name and not is_of_device(name):
        raise RecipeError(
            f"{place} {show_amount(shown)}: of devices there is a latency alone, such as "
            "'latency[pi]<=0.6'."
        )
    value = _exactly(number, f"{place} {show_amount(shown)}")
    if name in DEGRADATIONS:
        return Budget(
            name, _degradation(name, value, unit, f"{place} {show_amount(shown)}"), False, shown
        )
    if value < 0:
        raise RecipeError(
            f"{place} {show_amount(shown)}: a cost is never negative. Give 0 or more."
        )
    if unit not in ("", "%"):
        return Budget(
            name, value * _unit(name, unit, f"{place} {show_amount(shown)}"), False, shown
        )
    share = value / 100 if unit == "%" else value
    if share > 1:
        raise RecipeError(
            f"{place} {show_amount(shown)} asks for {float(share):g} times the float network's "
            f"{name}. A number without a unit is a fraction of float, such as {name}<=0.5; "
            f"with a unit it is absolute, such as {name}<={example_of(name)}."
        )
    return Budget(name, share, True, shown)


def example_of(name: str) -> str:
    """An absolute amount of a measure, as one may write it."""
    return EXAMPLES.get(kind_of(name), "3units")


def show_amount(text: str, most: int = 60) -> str:
    """A text in quotes, its middle left out where it is long.

    >>> show_amount("size<=" + "9" * 1000, 12)
    "'size<=99 ... (1006 characters)'"
    """
    return repr(text if len(text) <= most else f"{text[: most - 4]} ... ({len(text)} characters)")


def _exactly(number: str, place: str) -> Fraction:
    """A decimal as a fraction, if it is of a size that a cost can have."""
    mantissa, _, exponent = number.lower().partition("e")
    digits = exponent.lstrip("+-").lstrip("0")
    if len(mantissa) > _DIGITS or len(digits) > 3 or int(digits or 0) > _EXPONENT:
        raise RecipeError(
            f"{place}: {show_amount(number)} is no number that a cost can have. Write at most "
            f"{_DIGITS} digits, and an exponent of at most {_EXPONENT}."
        )
    return Fraction(number)


def _degradation(name: str, value: Fraction, unit: str, place: str) -> Fraction:
    if name == "drop" and unit == "%":
        return value / 100
    if unit:
        raise RecipeError(
            f"{place}: {name} has no unit {unit!r}. Write {'drop<=1%' if name == 'drop' else ''}"
            f"{' or drop<=0.01' if name == 'drop' else 'loss<=0.05'}."
        )
    if name == "drop" and value >= 1:
        raise RecipeError(
            f"{place}: a drop is a fraction from 0 to 1. For per cent write drop<={value}%."
        )
    return value


def _unit(name: str, unit: str, place: str) -> Fraction:
    units = _UNITS.get(kind_of(name), _USER_UNITS)
    if unit in units:
        return units[unit]
    if name in ("size", "bops"):  # elsewhere m and M would be confused
        near = {factor for known, factor in units.items() if known.casefold() == unit.casefold()}
        if len(near) == 1:
            return near.pop()
    raise RecipeError(f"{place}: {name} has no unit {unit!r}. Its units: {', '.join(units)}.")


def cap(budget: Budget, measure: Measure, place: str) -> Cap:
    """The budget as the largest whole number of steps that it allows.

    Args:
        budget: what is asked for.
        measure: of the table.
        place: the table, for messages.

    Raises:
        RecipeError: a fraction of float, but the table does not tell what float costs.
    """
    if not budget.relative:
        return in_steps(measure, budget.amount, budget.text)
    if measure.whole is None:
        raise RecipeError(
            f"budget {budget.text!r} is a fraction of the float network's {measure.name}, which "
            f"{place} does not state for every unit. Give an absolute budget, such as "
            f"{measure.name}<={example_of(measure.name)}, or add the float rows "
            "(w_bits 0)."
        )
    return in_steps(measure, budget.amount * measure.whole / measure.scale, budget.text)


def in_steps(measure: Measure, amount: Fraction, text: str) -> Cap:
    """An amount in the measure's unit, rounded down to whole steps."""
    steps = amount * measure.scale
    return Cap(measure, steps.numerator // steps.denominator, amount, text)
