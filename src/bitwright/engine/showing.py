"""Progress of a run from Python: shown in IPython and notebooks by default, elsewhere if asked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from bitwright.engine.progress import Event, Progress

# How often a line that is being worked on is written anew.
_SECONDS = 0.2
_WIDTH = 79


def in_ipython() -> bool:
    """Whether a person looks on: the code was typed into IPython or a notebook.

    IPython is not imported to find out: where it runs, it has been.
    """
    package = sys.modules.get("IPython")
    active = getattr(package, "get_ipython", None)
    return active is not None and active() is not None


def progress_for(asked: Progress | bool | None) -> Progress:
    """The progress that a caller asked for: its own, a shown one, or one that nobody hears."""
    if isinstance(asked, Progress):
        return asked
    show = in_ipython() if asked is None else asked
    if not show:
        return Progress()
    return Progress([Shown(in_ipython() or sys.stdout.isatty())])


@dataclass
class Shown:
    """Writes one line a stage and one a note to what is standard output at that time.

    Attributes:
        live: whether a line may be written over while its stage goes on, which terminals and
            notebooks understand and files do not.
    """

    live: bool
    clock: Callable[[], float] = time.monotonic
    written: float = -1e9
    length: int = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "note":
            self._write(f"note: {event.text}", ends=True)
        elif event.kind == "end":
            self._write(f"{event.stage:<14} {event.seconds:6.1f} s", ends=True)
        elif self.live and self.clock() - self.written >= _SECONDS:
            self._write(_describe(event)[:_WIDTH], ends=False)

    def _write(self, line: str, ends: bool) -> None:
        out: TextIO = sys.stdout
        # What a longer line has left behind is written over with blanks.
        blanks = " " * (self.length - len(line))
        out.write(f"\r{line}{blanks}" if self.length else line)
        self.length = 0 if ends else len(line)
        self.written = -1e9 if ends else self.clock()
        out.write("\n" if ends else "")
        out.flush()


def _describe(event: Event) -> str:
    if not event.done:
        return f"{event.stage:<14} ..."
    if not event.total:
        return f"{event.stage:<14} {event.done}"
    left = event.seconds / event.done * max(event.total - event.done, 0)
    return f"{event.stage:<14} {event.done} of {event.total}, about {left:.0f} s left"
