"""Text files that a user or a run gives: read under bounds, and refused in one sentence.

TOML and JSON are read by recursion: a text of a few kilobytes can nest deeper than Python's stack.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bitwright.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same reader under its older name
    import tomli as tomllib

# Far above any recipe, target or record of a run, far below what fills a memory.
MOST_BYTES = 64_000_000


def read_text(path: Path, error: type[InputError], remedy: str) -> str:
    """The text of a file.

    Args:
        path: what to read; a device or a pipe, which may never end, is refused.
        error: raised where it cannot be read, is too large or is no text.
        remedy: the last sentence of its message.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path} is no regular file. {remedy}")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as problem:  # a null in the name is a ValueError
        said = getattr(problem, "strerror", None) or problem
        raise error(f"{path} cannot be read ({said}). {remedy}") from problem
    if len(content) > MOST_BYTES:
        raise error(f"{path} is larger than {MOST_BYTES // 1_000_000} MB. {remedy}")
    try:
        return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as problem:
        at = problem.start
        raise error(
            f"{path} is no text: byte {at} ({content[at]:#04x}) is not UTF-8. {remedy}"
        ) from problem


def parse_toml(text: str, place: str, error: type[InputError]) -> dict[str, Any]:
    """What a TOML text holds; `place` names it in errors."""
    try:
        return tomllib.loads(text)
    except RecursionError as problem:
        raise error(f"{place} nests too deep. A flat list of KEY = VALUE is expected.") from problem
    except ValueError as problem:
        raise error(f"{place} is not valid TOML: {problem}. Correct it.") from problem


def parse_json(text: str, place: str, error: type[InputError], remedy: str) -> Any:
    """What a JSON text holds; `place` names it in errors."""
    try:
        found = json.loads(text)
        if "\\ud" in text.lower():
            # Half a pair of surrogates, which no file and no terminal takes later on.
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError as problem:
        raise error(f"{place} is damaged: it nests too deep. {remedy}") from problem
    except ValueError as problem:
        raise error(f"{place} is damaged: {problem}. {remedy}") from problem
