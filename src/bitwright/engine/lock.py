"""One writer at a time: a lock file that names its owner.

The kernel holds the lock (`flock`) and gives it back when its process ends, however it ends; what
the file says is for people. So a file that a dead process left is taken over, and one that is held
is never mistaken for one that is not, whatever number the system gave to which process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitwright.engine.files import say_failures
from bitwright.errors import RunDirectoryError

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What a name needs; the rest of a longer file is not ours.
_LONGEST = 4096
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
_held: set[int] = set()


def _forget() -> None:
    """A forked child, such as a loader's worker, must not hold the lock of a parent that died."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock of a file while inside; the file is removed afterwards.

    Raises:
        RunDirectoryError: another process, or another thread of this one, holds it.
        FileError: it cannot be made.
    """
    with say_failures(path):
        descriptor = _take(path)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        # In this order: whoever opened the file before sees that its name is gone.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def owner(path: Path) -> str:
    """Who else holds a lock, in words; empty where it is free or this process's own."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        this = _name_of_this()
        ours = all(_read(descriptor).get(key) == this[key] for key in ("pid", "host"))
        return "" if ours else _read_name(descriptor)
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, _OPEN, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RunDirectoryError(f"{path} is no plain file. Remove it.")
            _lock(descriptor, path)
            if _is_still_there(descriptor, path):
                _write_name(descriptor, path)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Its owner removed it between our opening and our locking: there is a new one, or none.
        os.close(descriptor)


def _write_name(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_name_of_this()).encode() + b"\n")
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunDirectoryError(
            f"{path.parent} is being written by {_read_name(descriptor)}. Wait until that has "
            "ended, or name another folder."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # Some network file systems hold no locks: then the name is all that there is.
        if _may_live(descriptor):
            raise RunDirectoryError(
                f"{path.parent} is being written by {_read_name(descriptor)}. Wait until that has "
                f"ended; if it has ended already, remove {path}."
            ) from None


def _may_live(descriptor: int) -> bool:
    name = _read(descriptor)
    if not name:
        return False
    if name.get("host") != socket.gethostname() or type(name.get("pid")) is not int:
        return True
    try:
        os.kill(name["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _name_of_this() -> dict[str, int | str]:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return {"pid": os.getpid(), "host": socket.gethostname(), "start": since}


def _read(descriptor: int) -> dict[str, Any]:
    try:
        name = json.loads(os.pread(descriptor, _LONGEST, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return name if isinstance(name, dict) else {}


def _read_name(descriptor: int) -> str:
    name = _read(descriptor)
    if not name:
        return "another process"
    pid, host, start = (name.get(key, "?") for key in ("pid", "host", "start"))
    return f"process {pid} on {host} since {start} UTC"
