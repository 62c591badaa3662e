"""Killed at any instant, in any mode: the same bytes in the end, and no half run called whole."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest

from bitwright.cli import edge
from forked import assert_told_apart, fixed_bytes, live, remember_export, user_file

MODES = {
    "nearest": "--scheme w4a8",
    "parallel": "--scheme w4a4 --method quadratic --mode parallel",
    "sequential": "--scheme w4a4 --method quadratic --mode sequential",
    "menu": "--menu w8a8,w4a8,w2a8 --budget bops<=0.04 --method quadratic --mode parallel",
    "refined": "--menu w8a8,w4a8 --budget bops<=0.04 --method quadratic --tune bias,refine "
    "--mode parallel",
    "adaround": "--scheme w4a8 --method adaround",
    "lossless": "--menu w8a8,w4a8 --lossless 0.4 --method quadratic --mode parallel",
}
# As many as a life is cheap; 210 together.
KILLS = {
    "nearest": 40, "parallel": 36, "sequential": 36, "menu": 36, "refined": 18, "adaround": 14,
    "lossless": 30,
}  # fmt: skip
assert sum(KILLS.values()) >= 200 and list(KILLS) == list(MODES)


@pytest.fixture
def command(tmp_path):
    user = user_file(tmp_path)

    def words(mode: str, out: Path) -> list[object]:
        return [
            "quantize", f"{user}:net", "--data", f"{user}:calib", *MODES[mode].split(),
            "--out", out, "--quiet",
        ]  # fmt: skip

    return words


def lived(words) -> None:
    done = live(words)
    assert done.code == 0, done.said


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_at_random_and_started_again(tmp_path, command, monkeypatch, mode):
    """Half of the kills strike a new folder, half one that holds a whole run of the same."""
    draw = random.Random(mode)
    remember_export(monkeypatch)
    warmed_here(command(mode, tmp_path / "warm"), monkeypatch)
    whole = live(command(mode, tmp_path / "whole"))
    assert whole.code == 0, whole.said
    words, out = command(mode, tmp_path / "killed"), tmp_path / "killed"
    struck = complete = lives = 0
    kills = KILLS[mode]
    while struck < kills:
        lives += 1
        assert lives < 4 * kills, "the kills come too late"
        done = live(words, killed_after=draw.uniform(0, whole.seconds))
        assert done.code in (None, 0), done.said
        struck += done.code is None
        complete += assert_told_apart(out)
        if done.code is None and struck == kills // 2:
            lived(words)
            assert fixed_bytes(out) == fixed_bytes(tmp_path / "whole")
    assert complete >= kills // 4
    lived(words)
    assert fixed_bytes(out) == fixed_bytes(tmp_path / "whole")
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def die_at_rename(count: int) -> None:
    """Let this process die just before it gives a file its name for the count-th time."""
    seen, replace = [0], Path.replace

    def renamed(self, target):
        seen[0] += 1
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = renamed


@pytest.mark.slow
@pytest.mark.parametrize("there", ["nothing", "a whole run"])
@pytest.mark.parametrize("mode", ["menu", "sequential"])
def test_every_rename_is_a_crash_point(tmp_path, command, monkeypatch, mode, there):
    remember_export(monkeypatch)
    whole, out = tmp_path / "whole", tmp_path / "out"
    if there != "nothing":
        lived(command(mode, out))
    # In this process, for what is remembered; in a child, as the others.
    warmed_here(command(mode, tmp_path / "warm"), monkeypatch)
    lived(command(mode, whole))
    want, count = fixed_bytes(whole), 0
    while True:
        count += 1
        if there == "nothing":
            out = tmp_path / f"out{count}"
        done = live(command(mode, out), first=partial(die_at_rename, count))
        if done.code is not None:
            break
        assert_told_apart(out)
        lived(command(mode, out))
        assert fixed_bytes(out) == want
    assert done.code == 0 and count > 10, (count, done.said)


def warmed_here(words, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["bitwright", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        edge.run()
    assert ended.value.code == 0
