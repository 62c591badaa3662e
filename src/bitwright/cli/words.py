"""Options that a person may write in more than one way, brought into the one that is parsed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from bitwright.errors import RecipeError

NUMBER_LISTS = ("--mean", "--std")
_CHANNELS = 3


class Picturing(TyperCommand):
    """A command with --mean and --std, which take `0.5,0.5,0.5` and `0.5 0.5 0.5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the numbers of each list as one word."""
        return super().parse_args(ctx, join_numbers(args))


def join_numbers(words: Iterable[str]) -> list[str]:
    """Words in which up to three numbers after --mean or --std are one word, with commas."""
    found: list[str] = []
    room = 0  # for further numbers of the list that the last word belongs to
    for word in words:
        if 0 < room < _CHANNELS and _is_number(word):
            found[-1] = f"{found[-1]},{word}"
            room -= 1
            continue
        begins = room == _CHANNELS and _is_number(word)
        found.append(word)
        room = _CHANNELS if word in NUMBER_LISTS else _CHANNELS - 1 if begins else 0
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_pictures(
    size: int | None, mean: str | None, std: str | None, crop: float | None
) -> dict[str, object]:
    """What was said of pictures, as the recipe's keys."""
    channels = {"mean": read_numbers(mean, "--mean"), "std": read_numbers(std, "--std")}
    return {"size": size, **channels, "crop": crop}


def read_numbers(text: str | None, option: str) -> list[float] | None:
    """The numbers of a list; None where it was not given.

    Raises:
        RecipeError: something that is no number.
    """
    try:
        return None if text is None else [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise RecipeError(
            f"{option} {text!r} is not a list of numbers. Write one or three, such as 0.5,0.5,0.5."
        ) from error
