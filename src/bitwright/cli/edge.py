"""The edge of the command: whatever happens inside ends as a sentence and an exit code.

0    done
1    done, but a stated promise failed (verify, lossless, budget)
2    the input, the disk or the memory is not what the work needs; the message says what to do
70   a crash: a fault of Bitwright's own, with the file that its traceback is in
130  interrupted, with the line that resumes it
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

from bitwright.cli.parser import app
from bitwright.engine.memory import keep_heap
from bitwright.errors import BitwrightError, InterruptedRun, RunWarning

CRASH, INTERRUPTED, PIPE = 70, 130, 141


def run() -> None:
    """Run the command that `sys.argv` holds; always ends with SystemExit."""
    keep_heap()
    warnings.showwarning = _note_warnings(warnings.showwarning)
    with Edge():
        app(prog_name="bitwright")


def _note_warnings(others: Any) -> Any:
    """Warnings of ours as notes, each once; those of others as they were."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if not issubclass(category, RunWarning):
            others(message, category, *rest)
        elif str(message) not in said:
            said.add(str(message))
            print(f"note: {message}", file=sys.stderr)

    return show


class Edge:
    """The context in which the whole command runs: no exception leaves it but SystemExit."""

    def __enter__(self) -> Edge:
        """Nothing to set up."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Say what happened and end with its code."""
        if error is None or isinstance(error, SystemExit):
            return
        code, text = conclude(error)
        if text:
            print(f"bitwright: {text}", file=sys.stderr)
        sys.exit(code)


def conclude(error: BaseException) -> tuple[int, str]:
    """The exit code of an exception, and what to say of it."""
    if isinstance(error, KeyboardInterrupt):
        error = InterruptedRun("interrupted")
    if isinstance(error, InterruptedRun):
        return error.exit_code, f"{error}. Resume with:  bitwright {shlex.join(sys.argv[1:])}"
    if isinstance(error, BitwrightError):
        return error.exit_code, str(error)
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has closed it, and hears nothing more; nor shall the interpreter
        # complain when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE, ""
    known = _explain_known(error)
    return (2, known) if known else (CRASH, _crash(error))


def _explain_known(error: BaseException) -> str:
    """What is wrong where the machine or a file is to blame, not we; or nothing."""
    if isinstance(error, OSError):
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name)
        place = f"{names}: " if names else ""
        return (
            f"{place}{error.strerror or error or type(error).__name__}. Is the disk full or the "
            "folder write-protected? Mend that, or name another folder; what is stored is not "
            "computed again."
        )
    # torch has an error of its own for the memory of an accelerator.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "the memory is used up. Give fewer samples at a time (--batch), fewer in all (--calib) "
            "or --workers 1; what is stored is not computed again."
        )
    if isinstance(error, UnicodeError):
        return f"a text cannot be read or written: {error}. Files and names must be UTF-8."
    if isinstance(error, RecursionError):
        return "something that was given nests deeper than Python can follow. Make it flatter."
    return ""


def _crash(error: BaseException) -> str:
    """A fault of ours: its traceback goes into a file, its last line on the terminal."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    last = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    told = f"this is a fault of Bitwright's own: {last}. "
    try:
        handle, name = tempfile.mkstemp(".txt", "bitwright-crash-")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"bitwright {shlex.join(sys.argv[1:])}\n\n{lines}")
    except OSError as problem:
        return f"{told}Its traceback could not be written ({problem.strerror}):\n{lines}"
    return f"{told}The traceback is in {Path(name)}: please report it with that file."
