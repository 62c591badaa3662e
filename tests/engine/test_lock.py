"""One writer at a time, who is named; a dead one's lock is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time

import pytest

from bitwright.engine import lock
from bitwright.engine.lock import hold, owner
from bitwright.errors import FileError, RunDirectoryError


def child_holding(path) -> int:
    """A process that holds a lock until it is killed."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        with hold(path):
            os.write(done, b"x")
            time.sleep(60)
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(done)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_file_names_its_owner_and_goes_with_it(tmp_path):
    path = tmp_path / "run.lock"
    with hold(path):
        name = json.loads(path.read_text())
        assert name["pid"] == os.getpid() and name["host"] == socket.gethostname()
        assert set(name) == {"pid", "host", "start"}
        assert owner(path) == ""  # nobody else
    assert not path.exists() and owner(path) == ""


def test_a_second_process_is_refused_at_once_and_a_dead_one_is_followed(tmp_path):
    path = tmp_path / "run.lock"
    child = child_holding(path)
    try:
        started = time.monotonic()
        with pytest.raises(RunDirectoryError, match=rf"by process {child} on"), hold(path):
            pass
        assert owner(path).startswith(f"process {child} on ")
        assert time.monotonic() - started < 5 and path.exists()
    finally:
        kill(child)
    assert path.exists() and owner(path) == ""  # left by the dead
    with hold(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_another_thread_is_refused_too(tmp_path):
    path, told = tmp_path / "run.lock", []

    def second():
        try:
            with hold(path):
                told.append("held")
        except RunDirectoryError as error:
            told.append(str(error))

    with hold(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "is being written by" in told[0]


def test_a_forked_worker_does_not_keep_the_lock_of_its_dead_parent(tmp_path):
    """As a loader's worker, which lives on for seconds after its parent was killed."""
    path = tmp_path / "run.lock"
    ready, done = os.pipe()
    parent = os.fork()
    if parent == 0:
        with hold(path):
            worker = os.fork()
            if worker == 0:
                time.sleep(30)
                os._exit(0)
            os.write(done, str(worker).encode())
            time.sleep(60)
    worker = int(os.read(ready, 20))
    os.close(ready)
    os.close(done)
    time.sleep(0.1)
    kill(parent)
    try:
        with hold(path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1', "[1]", "x" * 10_000, '{"pid": []}'])
def test_whatever_a_dead_one_left_is_taken_over(tmp_path, content):
    path = tmp_path / "run.lock"
    path.write_text(content)
    with hold(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_file_is_no_lock(tmp_path, kind):
    path, target = tmp_path / "run.lock", tmp_path / "target"
    target.write_text("kept")
    {"link": lambda: path.symlink_to(target), "fifo": lambda: os.mkfifo(path),
     "folder": path.mkdir}[kind]()  # fmt: skip
    with pytest.raises((RunDirectoryError, FileError)), hold(path):
        pass
    assert target.read_text() == "kept"


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ({"pid": os.getpid(), "host": socket.gethostname(), "start": "now"}, False),
        ({"pid": 2**22 + 1, "host": socket.gethostname(), "start": "then"}, True),
        ({"pid": 1, "host": "elsewhere", "start": "then"}, False),
        ({}, True),
    ],
)
def test_where_the_file_system_holds_no_locks_the_name_decides(tmp_path, monkeypatch, name, free):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    path = tmp_path / "run.lock"
    path.write_text(json.dumps(name))
    monkeypatch.setattr(fcntl, "flock", none)
    if free:
        with hold(path):
            assert str(os.getpid()) in path.read_text()
        return
    with pytest.raises(RunDirectoryError, match="if it has ended already, remove"), hold(path):
        pass


def test_a_lock_that_was_removed_while_it_was_waited_for(tmp_path, monkeypatch):
    """Its last owner went between our opening and our locking: the file that is there counts."""
    path = tmp_path / "run.lock"
    flock, once = fcntl.flock, []

    def removed(descriptor, how):
        flock(descriptor, how)
        if not once:
            once.append(path.unlink())

    monkeypatch.setattr(lock.fcntl, "flock", removed)
    with hold(path):
        assert path.exists()
    assert once
