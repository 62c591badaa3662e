"""Files that are written whole or not at all, and read only where they are plain files.

All that Bitwright keeps on a disk goes through here, so that one place says what a full, a
write-protected or a failing disk means, and one place is made to fail in the tests. New files get
the mode that the user's umask leaves of 0666.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bitwright.errors import FileError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EEXIST,
}
_MODE = 0o666
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill at any instant, never sees half of it.

    What stands at the path, a link included, is replaced and not written through.

    Raises:
        FileError: it cannot be written; what stood there stands there still.
    """
    with say_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            write_new(temporary, content)
            temporary.replace(path)
        except BaseException:
            # The first failure is the one to tell; what stays is swept by whoever writes next.
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, down to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, _MODE)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file; all of it or nothing.

    Raises:
        FileError: it cannot be written, or is a link or no plain file.
    """
    # Without O_NONBLOCK a pipe would wait for a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with say_failures(path):
        descriptor = os.open(path, flags, _MODE)
        try:
            before = _plain(descriptor, path).st_size
            try:
                _write_all(descriptor, content)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)


def read_plain(path: Path) -> bytes:
    """The content of a plain file, or of one that a link leads to.

    Raises:
        OSError: missing, not readable, or a pipe, a device or a folder, which could wait for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        _plain(descriptor, path)
        return file.read()


def sync_file(path: Path) -> None:
    """Bring what was written to a file down to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring names that were given or taken in a folder down to the disk."""
    try:
        sync_file(folder)
    except OSError as error:
        # Some file systems know no such thing for folders, and need none.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed writer left in a folder; nobody may write there."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that `write_atomically` had not finished."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_tree(folder: Path) -> None:
    """Remove a folder and all that is in it; of a link, the link alone."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


@contextlib.contextmanager
def say_failures(path: Path) -> Iterator[None]:
    """Says of a path in a sentence what the system says by number.

    Raises:
        FileError: whatever OSError is raised inside.
    """
    try:
        yield
    except OSError as error:
        raise FileError(_sentence(path, error)) from error


@contextlib.contextmanager
def say_temporary_failures() -> Iterator[None]:
    """Says in a sentence that a temporary file cannot be written.

    Raises:
        FileError: whatever OSError is raised inside.
    """
    try:
        yield
    except OSError as error:
        why = "is full" if is_full(error) else "cannot be written"
        raise FileError(
            f"the temporary folder {tempfile.gettempdir()} {why} ({error.strerror or error}). Free "
            "some space, or name another one by the variable TMPDIR; then run the same command "
            "again."
        ) from error


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of space."""
    return error.errno in _FULL


def _sentence(path: Path, error: OSError) -> str:
    why = error.strerror or str(error)
    if is_full(error):
        return (
            f"{path} cannot be written: the disk is full ({why}). Free some space, then run the "
            "same command again."
        )
    if error.errno in _FORBIDDEN:
        return f"{path} cannot be written ({why}). Name a place that you may write."
    return (
        f"{path} cannot be written ({why}). Check the disk that it lies on, then run the same "
        "command again."
    )


def _plain(descriptor: int, path: Path) -> os.stat_result:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EACCES, "it is no plain file", str(path))
    return found


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
