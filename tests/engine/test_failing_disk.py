"""Every write, flush and rename of every command made to fail: a sentence, and the same bytes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bitwright.cli import edge
from forked import assert_told_apart, copy_of, fixed_bytes, live, remember_export, user_file

FAULTS = {"write": errno.ENOSPC, "fsync": errno.EIO, "replace": errno.EROFS}
COMMANDS = {
    "quantize": [],
    "quantize again": [],
    "verify": ["verify", "--trust"],
    "export": ["export", "--trust"],
    "report": ["report"],
    "allocate": ["allocate", "--budget", "bops<=0.05"],
    "frontier": ["frontier", "--cost", "bops"],
}
# Every n-th call fails; quantize has 140 of them: every second of these lives is taken up.
RESUMED = 2


def failing(call: str, count: int) -> None:
    """Let a call of the system fail for the count-th time and ever after, as a full disk does."""
    home, seen = (Path if call == "replace" else os), [0]
    real = getattr(home, call)

    def fails(*given):
        seen[0] += 1
        if seen[0] >= count:
            raise OSError(FAULTS[call], os.strerror(FAULTS[call]))
        return real(*given)

    setattr(home, call, fails)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patched:
        remember_export(patched)
        yield patched


@pytest.fixture(scope="module")
def quantize(tmp_path_factory, patch) -> Callable[[Path], list[object]]:
    """The command that makes a run; made once in this process, for what is remembered."""
    folder = tmp_path_factory.mktemp("disk")
    user = user_file(folder)

    def words(out: Path) -> list[object]:
        return [
            "quantize", f"{user}:net", "--data", f"{user}:calib", "--menu", "w8a8,w4a8",
            "--budget", "bops<=0.05", "--method", "quadratic", "--mode", "parallel", "--quiet",
            "--out", out,
        ]  # fmt: skip

    patch.setattr("sys.argv", ["bitwright", *map(str, words(folder / "run"))])
    with pytest.raises(SystemExit) as ended:
        edge.run()
    assert ended.value.code == 0
    return words


@pytest.mark.slow
@pytest.mark.parametrize("call", FAULTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_one_that_fails(tmp_path, quantize, command, call):
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = live(quantize(whole))
    assert done.code == 0, done.said
    name, *options = COMMANDS[command] or ["quantize"]
    words = quantize(run) if name == "quantize" else [name, run, *options]
    if command != "quantize":
        copy_of(whole, run)
        assert live(words).code == 0
    want, count = fixed_bytes(run if run.exists() else whole), 0
    while True:
        count += 1
        if command != "quantize":
            copy_of(whole, run)
        done = live(words, first=partial(failing, call, count))
        if done.code == 0:
            break
        assert done.code == 2 and "Traceback" not in done.said, done.said
        assert "cannot be written" in done.said or "the disk of the store" in done.said, done.said
        assert_told_apart(run)
        if name != "quantize" or count % RESUMED == 0:
            # The disk is whole again: the same command ends with the same bytes.
            again = live(words)
            assert again.code == 0, again.said
            assert fixed_bytes(run) == want
        shutil.rmtree(run, ignore_errors=True)  # a new folder for the next life
    assert count > 3, (count, done.said)
