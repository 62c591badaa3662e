"""However a command ends: one sentence and the exit code that says of what kind it was."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bitwright as bw
from bitwright.cli import checks, edge
from bitwright.errors import BitwrightError, RecipeError

COMMAND = [sys.executable, "-m", "bitwright"]


def run(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, check=False, timeout=120, **options
    )


def every_error(kind: type[BitwrightError] = BitwrightError) -> list[type[BitwrightError]]:
    return [kind, *(own for below in kind.__subclasses__() for own in every_error(below))]


def test_python_m_and_the_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"bitwright {bw.__version__}\n")


@pytest.fixture
def ends(bitwright, monkeypatch, tmp_path):
    """How a command ends in whose middle that exception is raised."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def call(error: BaseException):
        def fail(*_):
            raise error

        monkeypatch.setattr(checks.rundir, "open_existing", fail)
        return bitwright("report", "anything")

    return call


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_errors_of_ours_keep_their_code(ends, kind):
    done = ends(kind("the value, the place, the remedy"))
    assert done.code == kind.exit_code and "the value, the place, the remedy" in done.err
    assert done.code != 1, "which says that a promise failed"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "run/x"), "run/x: No space left on dev"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied.*folder"),
        (OSError("odd"), "odd.*disk full"),
        (MemoryError(), "memory is used up.*--batch"),
        (RecursionError("maximum recursion depth exceeded"), "nests deeper"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "text cannot be read.*UTF-8"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "text cannot be read"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_the_machine_lacks_is_a_sentence(ends, error, said):
    done = ends(error)
    assert done.code == 2 and re.search(said, done.err) and done.err.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("lost"), AssertionError(), RuntimeError("a\nb")])
def test_a_crash_has_a_code_of_its_own_and_leaves_its_traceback(ends, error, tmp_path):
    done = ends(error)
    assert done.code == edge.CRASH == 70
    assert f"fault of Bitwright's own: {type(error).__name__}" in done.err
    assert done.err.count("\n") == 1
    (written,) = tmp_path.glob("bitwright-crash-*.txt")
    assert str(written) in done.err
    text = written.read_text()
    assert text.startswith("bitwright report anything\n") and "Traceback" in text
    assert text.rstrip().splitlines()[-1].startswith((type(error).__name__, "b"))


def test_a_crash_where_nothing_can_be_written(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    try:
        raise KeyError("lost")
    except KeyError as error:
        code, text = edge.conclude(error)
    assert code == 70 and "could not be written" in text and "KeyError: 'lost'" in text


def test_a_reader_that_has_gone_is_no_failed_promise():
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.argv = ['x']\n"
         "from bitwright.cli import edge\nwith edge.Edge(): raise BrokenPipeError"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (edge.PIPE, b"")


def hear_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so would the command under test."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_modules_are_loaded(tmp_path):
    """Interrupted in the middle of an import, as torch's takes seconds."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\npathlib.Path('here').write_text('')\ntime.sleep(60)\n"
    )
    words = ["quantize", "slow.py:net", "--data", "slow.py:data", "--out", "run"]
    with subprocess.Popen(
        [*COMMAND, *words], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=hear_interrupts,
    ) as process:  # fmt: skip
        wait_for(tmp_path / "here")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "Resume with:  bitwright quantize slow.py:net" in err


def test_ctrl_c_before_anything_is_loaded(tmp_path):
    (tmp_path / "typer.py").write_text(
        "import pathlib, time\npathlib.Path('here').write_text('')\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(bw.__file__).parents[1])])
    with subprocess.Popen(
        [*COMMAND, "list"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path}, preexec_fn=hear_interrupts,
    ) as process:  # fmt: skip
        wait_for(tmp_path / "here")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "\nbitwright: interrupted before anything was done\n")


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.02)


def test_the_message_of_an_input_error_is_on_standard_error(bitwright):
    done = bitwright("list", "nothing")
    assert (done.code, done.out) == (2, "") and done.err.startswith("bitwright: unknown list")
    assert issubclass(RecipeError, BitwrightError)
