"""A run directory from elsewhere runs no code; one that was made here does, as long as it stays."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import bitwright as bw
from bitwright.errors import TrustError
from bitwright.sources.trust import Gate, names_code, record_file, remember
from networks import small_network

NETWORK = """
import pathlib
import torch
from torch import nn
pathlib.Path(__file__).with_name("mark_" + pathlib.Path(__file__).stem).touch()

def net():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    return made.eval()

def calib():
    torch.manual_seed(1)
    return [torch.randn(8, 3, 8, 8) for _ in range(2)]

def held_out():
    return [(batch, torch.arange(8) % 5) for batch in calib()]

def score(outputs, labels):
    return (outputs.argmax(1) == labels).float().mean()
"""


@pytest.fixture
def code(tmp_path) -> Path:
    file = tmp_path / "code" / "own.py"
    file.parent.mkdir()
    file.write_text(NETWORK)
    return file


@pytest.fixture
def run(bitwright, code, tmp_path) -> Path:
    words = ["quantize", f"{code}:net", "--data", f"{code}:calib", "--eval", f"{code}:held_out"]
    words += ["--metric", f"{code}:score", "--calib", 16, "--quiet", "--out", tmp_path / "run"]
    words += ["--menu", "w8a8,w4a8", "--budget", "size<=0.6"]
    assert bitwright(*words).code == 0
    return tmp_path / "run"


def foreign(run: Path, code: Path) -> tuple[Path, Path]:
    """A run directory as it comes from elsewhere, and the mark that its code leaves."""
    copy = run.with_name("copy")
    shutil.copytree(run, copy)
    mark = code.with_name("mark_own")
    mark.unlink()
    os.utime(code, (1, len(str(copy))))  # a changed file is imported again
    return copy, mark


COMMANDS = (
    ["verify"], ["evaluate"], ["export"], ["frontier", "--eval", "DATA", "--metric", "top1"],
)  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_run_from_elsewhere_runs_no_code(bitwright, run, code, words):
    copy, mark = foreign(run, code)
    name, *options = [word.replace("DATA", f"{code}:held_out") for word in words]
    told = bitwright(name, copy, *options)
    assert told.code == 2 and not mark.exists()
    assert "names code, model = " in told.err and "is not run: no record in" in told.err
    assert "--trust" in told.err and "bitwright.load(RUN, model=net)" in told.err
    trusted = bitwright(name, copy, *options, "--trust")
    assert trusted.code == 0 and mark.exists()


def test_what_reads_the_table_alone_needs_no_trust(bitwright, run, code):
    copy, mark = foreign(run, code)
    for words in (
        ["allocate", copy, "--budget", "size<=0.6"], ["frontier", copy], ["explain", copy, "0"],
        ["report", copy],
    ):  # fmt: skip
        assert bitwright(*words).code == 0
    assert not mark.exists()


def test_a_run_that_was_made_here_works_as_before(bitwright, run):
    for words in (["verify", run], ["evaluate", run], ["export", run]):
        assert bitwright(*words).code == 0
    assert bw.load(run)(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_load_from_python(run, code):
    copy, mark = foreign(run, code)
    with pytest.raises(TrustError, match="names code, model = "):
        bw.load(copy)
    own: dict[str, object] = {"__file__": str(code.with_name("typed.py"))}
    exec(compile(NETWORK, "own", "exec"), own)
    loaded = bw.load(copy, model=own["net"]())
    assert not mark.exists()
    assert torch.equal(loaded(torch.ones(1, 3, 8, 8)), bw.load(run)(torch.ones(1, 3, 8, 8)))
    bw.load(copy, trust=True)
    assert mark.exists()


def test_other_names_in_the_recipe_of_ones_own_run(tmp_path):
    run = made(tmp_path, model="/code/own.py:net", data="/code/own.py:calib")
    for spec in ("/code/other.py:net", "/code/own.py:calib", "os:system"):
        with pytest.raises(TrustError, match=r"the run was made with model = '/code/own.py:net'"):
            Gate(run).allow("model", spec)


def test_what_the_user_names_now_is_run(bitwright, run, code):
    other = code.with_name("other.py")
    other.write_text(NETWORK)
    words = ["evaluate", run, "--eval", f"{other}:held_out", "--metric", "top1"]
    assert bitwright(*words).code == 0


# ---- the record --------------------------------------------------------------------------------


def made(tmp_path, **recipe: str) -> Path:
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    assert remember(run, recipe)
    return run


def test_a_moved_run_is_a_foreign_one(tmp_path):
    run = made(tmp_path, model="/code/own.py:net")
    assert Gate(run).allow("model", "/code/own.py:net") == "/code/own.py:net"
    moved = run.rename(tmp_path / "moved")
    with pytest.raises(TrustError, match="no record"):
        Gate(moved).allow("model", "/code/own.py:net")
    (tmp_path / "link").symlink_to(moved)
    with pytest.raises(TrustError, match="no record"):
        Gate(tmp_path / "link").allow("model", "/code/own.py:net")


def test_a_key_is_no_other_key(tmp_path):
    run = made(tmp_path, model="/code/own.py:net")
    with pytest.raises(TrustError):
        Gate(run).allow("data", "/code/own.py:net")


def test_a_file_in_the_run_itself_is_the_runs(tmp_path):
    spec = f"{tmp_path}/run/own.py:net"
    with pytest.raises(TrustError, match="lies in the run directory"):
        Gate(made(tmp_path, model=spec)).allow("model", spec)


@pytest.mark.parametrize("spec", ["nowhere_but_here:net", "nowhere_but_here.sub:net", "own.py:net"])
def test_what_depends_on_the_working_directory_counts_there_alone(tmp_path, monkeypatch, spec):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = made(tmp_path, model=spec)
    Gate(run).allow("model", spec)
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(TrustError, match="the folder it is run from"):
        Gate(run).allow("model", spec)


def test_an_installed_module_counts_everywhere(tmp_path, monkeypatch):
    run = made(tmp_path, model="bitwright.sources.demo:network", data="torch.nn:Identity")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    (tmp_path / "there" / "bitwright").mkdir()
    Gate(run).allow("model", "bitwright.sources.demo:network")


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_record_that_others_can_write_does_not_count(tmp_path, level):
    run = made(tmp_path, model="/code/own.py:net")
    file = record_file(run)
    place = (file, file.parent, file.parent.parent)[level]
    before = place.stat().st_mode
    place.chmod(before | 0o020)
    with pytest.raises(TrustError, match="no record"):
        Gate(run).allow("model", "/code/own.py:net")
    place.chmod(before)
    Gate(run).allow("model", "/code/own.py:net")


def test_a_record_of_another_owner_does_not_count(tmp_path, monkeypatch):
    run = made(tmp_path, model="/code/own.py:net")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(TrustError, match="no record"):
        Gate(run).allow("model", "/code/own.py:net")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"run": 3}', b"[" * 90_000, b'{"run": "x", "code": []}']
)
def test_a_damaged_record_does_not_count(tmp_path, content):
    run = made(tmp_path, model="/code/own.py:net")
    record_file(run).write_bytes(content)
    with pytest.raises(TrustError, match="no record"):
        Gate(run).allow("model", "/code/own.py:net")


def test_the_record_is_for_the_user_alone(tmp_path):
    file = record_file(made(tmp_path, model="/code/own.py:net", scheme="w8a8"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(json.loads(file.read_text())["code"]) == ["model"]


def test_a_state_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not remember(tmp_path, {"model": "/code/own.py:net"})
    assert remember(tmp_path / "run", {"model": "timm:resnet18"}) in (True, False)


@pytest.mark.parametrize(
    ("key", "spec", "is_code"),
    [
        ("model", "timm:resnet18", False), ("model", "hf:own", False), ("model", "x.pt2", False),
        ("data", "timm:resnet18", True), ("data", "photos", False), ("data", "none", False),
        ("data", "x.npz", False), ("metric", "top1", False), ("metric", "own:score", True),
        ("model", "a.b:net", True), ("model", "/x/own.py:net", True), ("eval", "", False),
    ],
)  # fmt: skip
def test_what_names_code(key, spec, is_code):
    assert names_code(key, spec) == is_code


def test_the_network_of_a_python_run_needs_no_trust(tmp_path):
    torch.manual_seed(0)
    net = small_network()
    batches = [torch.randn(8, 3, 16, 16)]
    bw.quantize(net, batches, recipe="fixed", calib=8).save(tmp_path / "run", verify=False)
    assert bw.load(tmp_path / "run", model=net)(batches[0]).shape[0] == 8
