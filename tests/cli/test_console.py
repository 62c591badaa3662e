"""What is shown while a run works: counts, times, and none of them made up."""

from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from bitwright.cli.console import Console, duration
from bitwright.engine.forecast import Forecast


@pytest.fixture
def terminal(monkeypatch):
    """A console on a terminal, and what it has written."""
    written = io.StringIO()
    console = Console(quiet=False)
    console.rich = RichConsole(file=written, force_terminal=True, width=100, highlight=False)
    console.live = True
    return console, written


def test_a_terminal_shows_counts_and_times_that_are_known(terminal):
    console, written = terminal
    console.progress.forecast = Forecast({"observe": 160}, {"observe": 1, "verify": 1})
    with console:
        with console.progress.stage("capture"):
            pass
        with console.progress.stage("observe") as tick:
            tick(40)
            console._bar.refresh()
            tick(160)
        with console.progress.stage("judge") as tick:
            tick(7)
    text = written.getvalue()
    assert "40/160" in text and " in all" in text
    assert "/?" not in text and "1000" not in text and "0:00" not in text and "left 0" not in text
    last = text[text.rindex("capture") :]
    assert "0/" not in last and "1/1" not in last and "7" in last


def test_plain_lines_say_the_same(monkeypatch, capsys):
    monkeypatch.setattr("bitwright.cli.console._PLAIN_SECONDS", -1.0)
    console = Console(quiet=False)
    console.progress.forecast = Forecast({"observe": 160}, {"observe": 1, "verify": 1})
    with console, console.progress.stage("observe") as tick:
        tick(40)
    out = capsys.readouterr().out
    assert "observe   40 of 160, about 0 s left; 0 s in all" in out


def test_durations():
    said = {0: "0 s", 99: "99 s", 180: "3 min", 5999: "100 min", 7200: "2.0 h"}
    assert {seconds: duration(seconds) for seconds in said} == said
    assert duration(None) == ""


def test_doctor_says_how_many_samples_there_are(bitwright, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n    return torch.nn.Sequential(torch.nn.Linear(4, 2))\n"
        "def calib():\n    return [torch.randn(60, 4), torch.randn(40, 4)]\n"
        "def many():\n    return [torch.randn(600, 4)] * 3\n"
    )
    told = bitwright(
        "doctor", f"{tmp_path}/net.py:net", "--no-speed", "--data", f"{tmp_path}/net.py:calib"
    )
    assert "default on 100 samples" in told.out
    told = bitwright(
        "doctor", f"{tmp_path}/net.py:net", "--no-speed", "--data", f"{tmp_path}/net.py:many"
    )
    assert "default on 1000 samples" in told.out
