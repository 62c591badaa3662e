"""A command killed with -9 at random instants and started again until it is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ordeal:
    """How it went: the kills that struck, and the instants in seconds after each start."""

    kills: int
    instants: tuple[float, ...]


def run_with_kills(
    command: Sequence[str],
    kills: int,
    longest_s: float,
    seed: int = 0,
    *,
    ready: str | None = None,
    before: Callable[[int], None] | None = None,
    env: dict[str, str] | None = None,
    limit_s: float = 600.0,
) -> Ordeal:
    """Start a command, kill it at a random instant, start it again; let the last life finish.

    Args:
        command: as `subprocess` takes it, such as `[sys.executable, "-m", "bitwright.cli", ...]`.
        kills: how many lives are cut short; fewer where a life ends by itself before its instant.
        longest_s: instants are drawn evenly from 0 to this. A bit more than the work of one life:
            progress through the store makes later lives short.
        seed: of the instants.
        ready: count the instant from a line on standard output that starts with this (the imports
            are then not part of the draw); None counts from the start of the process.
        before: called with the number of every life before it starts, to look at what is there.
        env: variables added to the environment.
        limit_s: the last life may take so long.

    Only the process itself is killed: its workers must notice by themselves.
    """
    draw = random.Random(seed)
    struck: list[float] = []
    for life in range(kills + 1):
        if before is not None:
            before(life)
        process = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        instant = draw.uniform(0, longest_s)
        try:
            told = _until_ready(process, ready)
            _, errors = process.communicate(timeout=instant if life < kills else limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert life < kills, f"not done after {limit_s} s"
            struck.append(instant)
            continue
        assert process.returncode == 0, f"life {life}: {told}{errors}"
        break
    return Ordeal(len(struck), tuple(struck))


def _until_ready(process: subprocess.Popen[str], ready: str | None) -> str:
    told = ""
    while ready is not None and not told.startswith(ready):
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            return ""
    return told
