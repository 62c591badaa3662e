"""Progress from Python: shown in IPython, silent elsewhere unless asked for."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
import torch

import bitwright as bw
from bitwright.engine.progress import Event, Progress
from bitwright.engine.showing import Shown, in_ipython, progress_for
from networks import normal, seeded


def network():
    return seeded(lambda: torch.nn.Sequential(torch.nn.Linear(8, 4))).eval()


@pytest.fixture
def ipython(monkeypatch):
    """What `sys.modules` holds inside a notebook."""
    shell = SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", shell)


def test_in_a_notebook_a_run_tells_how_far_it_is(ipython, capsys):
    bw.quantize(network(), [normal(9, 8)], recipe="fixed")
    told = capsys.readouterr().out
    for stage in ("capture", "observe", "solve", "stitch", "evaluate"):
        assert f"\n{stage:<14} ...\r{stage} " in "\n" + told
    assert told.endswith(" s\n")


def test_elsewhere_it_is_silent_unless_asked(capsys):
    assert not in_ipython()
    bw.quantize(network(), [normal(9, 8)], recipe="fixed")
    assert capsys.readouterr().out == ""
    bw.quantize(network(), [normal(9, 8)], recipe="fixed", progress=True)
    told = capsys.readouterr().out
    assert "\r" not in told and told.splitlines()[0].startswith("capture ")


def test_in_a_notebook_it_can_be_silenced(ipython, capsys):
    bw.quantize(network(), [normal(9, 8)], recipe="fixed", progress=False)
    assert capsys.readouterr().out == ""


def test_a_module_that_was_imported_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_ipython()


def test_a_progress_of_ones_own_is_taken_as_it_is(ipython):
    own = Progress()
    assert progress_for(own) is own


def test_a_line_is_written_over_and_leaves_nothing_behind(monkeypatch):
    out, now = io.StringIO(), iter(range(100))
    monkeypatch.setattr(sys, "stdout", out)
    shown = Shown(live=True, clock=lambda: next(now))
    shown(Event("start", "solve", 0, 4))
    shown(Event("tick", "solve", 1, 4, 2.0))
    shown(Event("note", "solve", text="hm"))
    shown(Event("end", "solve", 4, 4, 8.0))
    under_way = "solve          1 of 4, about 6 s left"
    blanks = " " * (len(under_way) - len("note: hm"))
    assert out.getvalue() == (
        f"solve          ...\r{under_way}\rnote: hm{blanks}\nsolve             8.0 s\n"
    )


def test_it_is_not_written_more_often_than_it_can_be_read(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    shown = Shown(live=True, clock=lambda: 5.0)
    for done in range(1000):
        shown(Event("tick", "solve", done + 1, 1000, 1.0))
    assert out.getvalue().count("solve") == 1


def test_a_real_notebook_session(capsys):
    """The same in IPython itself, and a result at the end of a cell is a line or a table."""
    shell_of = pytest.importorskip("IPython.core.interactiveshell", reason="the extra [test]")
    shell = shell_of.InteractiveShell.instance()
    try:
        shell.user_ns.update(net=network(), data=[normal(9, 8)], bw=bw)
        ran = shell.run_cell("result = bw.quantize(net, data)\nresult", silent=False)
        assert ran.success
        told = capsys.readouterr().out
        assert "evaluate" in told and len(told) < 2000
        plain, _ = shell.display_formatter.format(ran.result)
        assert len(plain["text/plain"]) < 200 and "<table>" in plain["text/html"]
    finally:
        shell_of.InteractiveShell.clear_instance()
