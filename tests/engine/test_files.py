"""The file layer: whole or not at all, plain files only, and sentences for what the system says."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from bitwright.engine import files
from bitwright.engine.files import append, read_plain, remove_tree, sweep, write_atomically
from bitwright.errors import FileError


def test_written_with_the_mode_that_the_umask_leaves(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_atomically(tmp_path / "deep" / "a", b"x")
            append(tmp_path / f"log{mask}", b"x")
        finally:
            os.umask(before)
        assert (tmp_path / "deep" / "a").stat().st_mode & 0o777 == mode
        assert (tmp_path / f"log{mask}").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full .*Free some space"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "Read-only file system.*Name a place"),
        (errno.EIO, "Input/output error.*Check the disk"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_fails_is_a_sentence_and_nothing_changes(
    tmp_path, monkeypatch, call, number, told
):
    write_atomically(tmp_path / "a", b"before")

    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(FileError, match=f"{tmp_path}/a cannot be written.*{told}"):
        write_atomically(tmp_path / "a", b"after")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_a_full_disk_in_the_middle_of_a_line_of_the_log(tmp_path, monkeypatch):
    append(tmp_path / "log", b"one\n")
    write = os.write

    def half(descriptor, content):
        if len(content) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(FileError, match="full"):
        append(tmp_path / "log", b"three\n")
    assert (tmp_path / "log").read_bytes() == b"one\n"


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda d, content: write(d, content[:3]))
    write_atomically(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "a").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "a", b"x")
    assert (tmp_path / "target").read_text() == "kept" and not (tmp_path / "a").is_symlink()
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(FileError, match="log cannot be written"):
        append(tmp_path / "log", b"x")
    assert (tmp_path / "target").read_text() == "kept"


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "socket":
        import socket

        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    done = threading.Event()
    signal.alarm(20)  # ends the test where a read waits for ever
    try:
        with pytest.raises(OSError, match=r"plain|directory|device"):
            read_plain(path)
        with pytest.raises(FileError):
            append(path, b"x")
        done.set()
    finally:
        signal.alarm(0)
    assert done.is_set()


def test_a_link_to_a_plain_file_is_read(tmp_path):
    """Data that a version system keeps elsewhere."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    assert read_plain(tmp_path / "b") == b"x"


def test_sweeping_takes_what_this_layer_left_and_no_more(tmp_path):
    kept = [".gitignore", "a.tmp", ".a.tmp", ".a.xyz45678.tmp", "a.01234567.tmp"]
    for name in (*kept, ".a.json.01234567.tmp"):
        (tmp_path / name).write_text("")
    (tmp_path / ".b.89abcdef.tmp").mkdir()
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*kept, ".b.89abcdef.tmp"}


def test_a_killed_write_leaves_what_sweeping_finds(tmp_path):
    child = os.fork()
    if child == 0:
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(tmp_path / "a", b"x")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert files.is_temporary(left.name)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_a_linked_folder_the_link_is_removed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("")
    (tmp_path / "link").symlink_to("kept")
    remove_tree(tmp_path / "link")
    assert (tmp_path / "kept" / "a").exists() and not (tmp_path / "link").is_symlink()
    remove_tree(tmp_path / "kept")
    remove_tree(tmp_path / "kept")
    assert not list(tmp_path.iterdir())
