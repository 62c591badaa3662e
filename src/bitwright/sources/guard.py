"""Run code that is not ours, and turn its failure into an error that names the user's own line.

A user's FUNCTION, the loader it returns and the libraries that read a user's files may raise
anything. `Foreign` is the one place that deals with this: a context manager that sees the
exception on its way out, finds the line to blame in the traceback and raises one of our errors.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import TracebackType

from bitwright.errors import BitwrightError, InputError

_OURS = Path(__file__).resolve().parents[1]
_LIBRARY_FOLDERS = tuple(
    {str(Path(sysconfig.get_path(key))) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_LONGEST_REASON = 400


class Foreign:
    """Context in which foreign code runs: `with Foreign(ModelError, "calling net.py:tiny"): ...`.

    `file` is the user's file where it is known: its lines are blamed first, and its folder is
    importable for as long as the context lasts, so that a function may import its neighbours late.
    `SystemExit` counts as a failure: a script without a main guard must not end the command.
    Errors that Bitwright itself raised pass through unchanged.
    """

    def __init__(
        self, error: type[InputError], doing: str, *, remedy: str = "", file: Path | None = None
    ) -> None:
        self.error = error
        self.doing = doing
        self.remedy = remedy
        self.file = file
        self._added: list[str] = []

    def __enter__(self) -> Foreign:
        if self.file is not None:
            folder = str(self.file.parent)
            self._added.append(folder)
            sys.path.insert(0, folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._added:
            folder = self._added.pop()
            if folder in sys.path:  # the user's code may have changed sys.path itself
                sys.path.remove(folder)
        if exc is None or not isinstance(exc, (Exception, SystemExit)):
            return
        if isinstance(exc, BitwrightError):
            return
        raise self.error(self._message(exc, traceback)) from exc

    def _message(self, exc: BaseException, traceback: TracebackType | None) -> str:
        place = blame(exc, traceback, self.file)
        at = f" at {place}" if place else ""
        return f"{self.doing} failed{at}: {reason(exc)}. {self.remedy}".rstrip()


def say_absent(what: str, path: str | Path) -> str:
    """`no file 'x.npz' (looked in FOLDER)`: the folder is named where the path depends on it."""
    looked = "" if Path(path).expanduser().is_absolute() else f" (looked in {Path.cwd()})"
    return f"no {what} {str(path)!r}{looked}"


def shorten(text: str, length: int = 60) -> str:
    """The text in quotes, its end left out where it is long."""
    return repr(text if len(text) <= length else text[:length] + "...")


def reason(exc: BaseException) -> str:
    """The exception as one short line: its type and the start of what it says."""
    text = exc.msg if isinstance(exc, SyntaxError) else str(exc)
    line = " ".join(text.split()).rstrip(".")
    if len(line) > _LONGEST_REASON:
        line = line[:_LONGEST_REASON] + "..."
    return f"{type(exc).__name__}: {line}" if line else type(exc).__name__


def blame(exc: BaseException, traceback: TracebackType | None, file: Path | None) -> str:
    """`FILE:LINE` of the deepest frame in the user's own code, or "" when there is none.

    The user's own code is `file`; failing that, whatever is neither ours nor an installed library.
    """
    if isinstance(exc, SyntaxError) and exc.filename and exc.lineno:
        return f"{exc.filename}:{exc.lineno}"
    frames: list[tuple[str, int]] = []
    while traceback is not None:
        frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    if file is not None:
        named = [frame for frame in frames if frame[0] == str(file)]
        if named:
            return f"{named[-1][0]}:{named[-1][1]}"
    own = [frame for frame in frames if _is_users(frame[0])]
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""


def _is_users(filename: str) -> bool:
    if filename.startswith("<"):  # <frozen importlib>, <string>
        return False
    path = str(Path(filename).resolve())
    if path.startswith(str(_OURS)) or "site-packages" in path or "dist-packages" in path:
        return False
    return not path.startswith(_LIBRARY_FOLDERS)
