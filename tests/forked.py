"""Lives of the command in children forked from this process, which has everything imported.

A life costs what its work costs and no import, so that hundreds can be killed. What is slow and
decides nothing here, the capture of the network, its translation to ONNX and the verification, can
be remembered: a life then writes the remembered bytes through the same functions.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

import bitwright
from bitwright.cli import commands, console_table, edge, records, table_commands
from bitwright.engine.files import write_atomically
from bitwright.engine.manifest import seal
from bitwright.errors import RunDirectoryError
from bitwright.export import rundir
from bitwright.export.judged import judge_file
from bitwright.graph.capture import capture
from bitwright.graph.model_graph import ModelGraph
from bitwright.pipeline import integrity as checking
from bitwright.pipeline import job, result, runs
from bitwright.pipeline.own_file import write_model

USER_FILE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    made.example_inputs = (torch.zeros(2, 6),)
    return made

def calib():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 6, generator=generator) for _ in range(4)]
"""
# What lives would import each for itself.
IMPORTED = (checking, commands, console_table, edge, records, table_commands)
KILLED = (-signal.SIGKILL, -signal.SIGPROF)
# Times and peak memory are told anew by every run; the other files are the same bytes.
TIMED = {"log.jsonl", "metrics.json", "report.html", "table.csv", "manifest.json"}


@dataclass(frozen=True)
class Life:
    """How one ended: exit code, or None where it was killed; what it wrote; its processor time."""

    code: int | None
    said: str
    seconds: float


def live(
    words: Sequence[object],
    *,
    first: Callable[[], None] = lambda: None,
    killed_after: float | None = None,
    limit_s: float = 120.0,
) -> Life:
    """One life of the command; `first` is called in the child before.

    A kill comes after so much processor time of the life: whatever else the machine does, it
    strikes evenly over what a life does.
    """
    _warm()
    sys.stdout.flush()
    sys.stderr.flush()
    # A pipe, for a disk on which nothing can be written is a part of some lives.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if killed_after is not None:
            # Its default is the end of the process on the spot, as that of SIGKILL.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, max(killed_after, 1e-6))
        _be([str(word) for word in words], writing, first)
    os.close(writing)
    os.set_blocking(reading, False)
    said, found, end = b"", 0, time.monotonic() + limit_s
    while not found:
        assert time.monotonic() < end or os.kill(child, signal.SIGKILL), f"not done: {said!r}"
        time.sleep(0.002)
        said += _read(reading)
        found, status, used = os.wait4(child, os.WNOHANG)
    said += _read(reading)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    code = None if code in KILLED else code
    return Life(code, said.decode(errors="replace"), used.ru_utime + used.ru_stime)


@cache
def _warm() -> None:
    """Let torch and ONNX load what they load when they are first used."""
    small = nn.Sequential(nn.Linear(3, 2)).eval()
    with tempfile.TemporaryDirectory() as folder:
        bitwright.quantize(small, [torch.ones(2, 3)]).save(Path(folder) / "run")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


def _be(words: list[str], output: int, first: Callable[[], None]) -> None:
    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        sys.argv = ["bitwright", *words]
        first()
        edge.run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - a child must not run on into the tests of its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def user_file(folder: Path) -> Path:
    """The network and the data of all lives."""
    path = folder / "net.py"
    path.write_text(USER_FILE)
    return path


def fixed_bytes(run: Path) -> dict[str, bytes]:
    """What two runs of one recipe have in common to the byte; times are left out of the files."""
    found = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file() and p.name not in TIMED}
    lines = [line.split(",") for line in (run / "table.csv").read_text().splitlines()]
    timed = lines[0].index("solve_seconds")
    found["table.csv"] = json.dumps([c[:timed] + c[timed + 1 :] for c in lines]).encode()
    if "verify.json" in found:
        checks = json.loads(found["verify.json"])
        checks.pop("speed", None)
        found["verify.json"] = json.dumps(checks).encode()
    return found


def assert_told_apart(run: Path) -> bool:
    """A run that calls itself whole is whole; one that does not is refused. Which of the two."""
    if not (run / rundir.RECIPE).exists():
        return False
    found = rundir.open_folder(run)
    assert found.manifest is not None, "a half run looks like one of an earlier version"
    for name, stated in found.manifest.files.items():
        if name != rundir.LOG:
            assert seal(run / name) == stated, name
    if found.manifest.whole:
        verified = found.read_json(rundir.VERIFY)
        assert verified["passed"] is True and found.read_json(rundir.METRICS)
        return True
    for name in found.manifest.pending:
        try:
            found.read_bytes(name)
        except RunDirectoryError:
            continue
        raise AssertionError(f"{name} is pending and was read")
    return False


def remember_export(monkeypatch) -> None:
    """Capture, translate and verify once in this process, and give the same again."""
    onnx: dict[str, bytes] = {}
    verified: dict[bytes, dict] = {}

    def exported(graph, module, example, path, target, opset=0, progress=None):
        if target.name not in onnx:
            write_model(graph, module, example, path, target, opset, progress)
            onnx[target.name] = Path(path).read_bytes()
        write_atomically(Path(path), onnx[target.name])

    def judge_once(target, path, *rest):
        content = Path(path).read_bytes()
        if content not in verified:
            verified[content] = judge_file(target, path, *rest)
        return verified[content]

    def capture_once(module, example, free_sizes=False, answer=""):
        # All lives make the same network anew; the one that warms this process has other shapes.
        key = str([answer, *((name, p.shape) for name, p in module.named_parameters())])
        if key not in captured:
            captured[key] = capture(module, example, free_sizes, answer)
        return captured[key]

    captured: dict[str, ModelGraph] = {}
    for module in (result, runs):
        monkeypatch.setattr(module, "write_model", exported)
        monkeypatch.setattr(module, "judge_file", judge_once)
    for module in (job, runs):
        monkeypatch.setattr(module, "capture", capture_once)


def copy_of(run: Path, target: Path) -> Path:
    """A copy in place of whatever is there."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(run, target))
