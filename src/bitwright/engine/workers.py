"""`--workers` as the user writes it."""

from __future__ import annotations

from bitwright.errors import RecipeError

RAY = "ray"
# More processes than that are a slip of the keyboard.
MOST = 4096


def read_workers(text: str, place: str = "--workers") -> int | str:
    """Read a number of processes, ``ray``, or the address of a Ray cluster.

    >>> read_workers("2")
    2
    >>> read_workers("ray://10.0.0.1:10001")
    'ray://10.0.0.1:10001'

    Raises:
        RecipeError: anything else.
    """
    asked = text.strip()
    if asked.isascii() and asked.isdecimal() and 0 < int(asked[:9]) <= MOST and len(asked) < 9:
        return int(asked)
    if asked == RAY or _is_address(asked):
        return asked
    raise RecipeError(
        f"{text!r} in {place} is no number of workers. Write a whole number from 1 to {MOST}, ray "
        "for a Ray cluster on this machine, or the address of one (ray://HOST:PORT)."
    )


def _is_address(text: str) -> bool:
    host, colon, port = text.removeprefix("ray://").rpartition(":")
    whole = port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 1 << 16
    return bool(colon and host.strip("[]") and not set(host) & set(" /?#@")) and whole
