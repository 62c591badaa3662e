"""What the commands say and do about run directories: whole or not, held, old, damaged, full."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.engine.digest import digest
from bitwright.engine.lock import hold
from bitwright.engine.manifest import parse_manifest
from bitwright.engine.store import Store
from bitwright.errors import RunWarning
from bitwright.export import rundir
from forked import copy_of, fixed_bytes, live, user_file
from networks import TESTS

OLD = TESTS / "data" / "old_runs"
READERS = {
    "report": ["report"],
    "verify": ["verify", "--trust"],
    "export": ["export", "--trust"],
    "evaluate": ["evaluate", "--metric", "agreement", "--trust"],
    "allocate": ["allocate", "--budget", "bops<=0.05"],
    "frontier": ["frontier", "--cost", "bops"],
    "explain": ["explain", "0"],
}


def words(name: str, run: Path) -> list[object]:
    first, *rest = READERS[name]
    return [first, run, *rest]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[object]]:
    """A whole run with a menu, and the command that wrote it but for --out."""
    folder = tmp_path_factory.mktemp("runs")
    user = user_file(folder)
    command = [
        "quantize", f"{user}:net", "--data", f"{user}:calib", "--menu", "w8a8,w4a8",
        "--budget", "bops<=0.05", "--method", "quadratic", "--mode", "parallel", "--quiet",
    ]  # fmt: skip
    done = live([*command, "--out", folder / "run"])
    assert done.code == 0, done.said
    return folder / "run", command


@pytest.fixture
def run(made, tmp_path) -> Path:
    return copy_of(made[0], tmp_path / "run")


def said(done) -> str:
    """The sentence of a wrong input."""
    assert done.code == 2 and "Traceback" not in done.said, (done.code, done.said)
    return done.said


# ---- one generation ------------------------------------------------------------------------------


def test_the_manifest_names_every_file_and_is_written_last(run):
    stated = parse_manifest((run / "manifest.json").read_bytes(), "it")
    assert stated.whole
    assert {*stated.files, "manifest.json"} == {p.name for p in run.iterdir()}
    newest = max(run.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    assert newest.name in ("manifest.json",)


@pytest.mark.parametrize("reader", READERS)
def test_a_run_that_was_stopped_while_its_files_took_their_places_is_refused(run, reader):
    """The new model beside the old file and the old verification, which say that they passed."""
    stated = json.loads((run / "manifest.json").read_text())
    del stated["files"]["model.safetensors"], stated["files"]["table.csv"]
    stated |= {"whole": False, "pending": ["model.safetensors", "table.csv", "verify.json"]}
    del stated["files"]["verify.json"]
    (run / "manifest.json").write_text(json.dumps(stated))
    assert "holds no whole run" in said(live(words(reader, run)))


CHANGED = {
    "report": "verify.json", "verify": "model.onnx", "export": "model.safetensors",
    "evaluate": "model.safetensors", "allocate": "table.csv", "frontier": "table.csv",
    "explain": "allocation.json",
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_another_run_is_refused_by_whoever_reads_it(run, reader):
    path = run / CHANGED[reader]
    path.write_bytes(path.read_bytes() + b"\n")
    assert f"{path.name} is not the file that manifest.json states" in said(
        live(words(reader, run))
    )


def test_load_refuses_what_the_run_did_not_write(run):
    (run / "model.safetensors").write_bytes((OLD / "fixed" / "model.safetensors").read_bytes())
    with pytest.raises(bw.BitwrightError, match="is not the file"):
        bw.load(run, model=net())


def test_verify_writes_the_page_that_shows_it(run, made):
    """Another verification, another page: the figure of the old one is gone."""
    user = made[0].parent / "net.py"
    page = (run / "report.html").read_text()
    assert "of 32 " in page or "32" in page
    other = made[0].parent / "more.py"
    other.write_text(user.read_text().replace("range(4)", "range(9)"))
    done = live(["verify", run, "--trust", "--data", f"{other}:calib"])
    assert done.code == 0, done.said
    assert json.loads((run / "verify.json").read_text())["samples"] == 72
    again = (run / "report.html").read_text()
    assert again != page and "72" in again
    assert live(["report", run]).code == 0
    assert (run / "report.html").read_text() == again
    assert rundir.open_existing(run).manifest.whole


def test_another_onnx_file_is_not_verified_any_more(run, monkeypatch):
    """Exporting again gives the same bytes; where it does not, nothing claims it was verified."""
    before = (run / "model.onnx").read_bytes()
    assert live(words("export", run)).code == 0
    assert (run / "model.onnx").read_bytes() == before and (run / "verify.json").exists()

    def another():
        from bitwright.pipeline import runs

        export = runs.write_model
        runs.write_model = lambda *given: (
            export(*given), given[3].write_bytes(given[3].read_bytes() + b"\x82\x01\x00")
        )  # fmt: skip

    done = live(words("export", run), first=another)
    assert done.code == 0, done.said
    assert (run / "model.onnx").read_bytes() != before and not (run / "verify.json").exists()
    assert "not verified" in (run / "report.html").read_text().lower()
    assert rundir.open_existing(run).manifest.whole
    assert live(words("verify", run)).code == 0 and (run / "verify.json").exists()


def test_a_metrics_file_that_is_a_pipe_hangs_nobody(run):
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")
    started = time.monotonic()
    assert "no plain file" in said(live(["report", run], limit_s=60))
    (run / "manifest.json").unlink()
    assert "no plain file" in said(live(["report", run], limit_s=60))
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("name", ["log.jsonl", "store"])
def test_a_link_in_the_folder_is_not_written_through(run, made, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "log").write_text("kept")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(elsewhere / "log" if name == "log.jsonl" else elsewhere)
    assert f"{name} is a link" in said(live([*made[1], "--out", run]))
    assert [p.name for p in elsewhere.iterdir()] == ["log"]
    assert (elsewhere / "log").read_text() == "kept"


def test_a_link_inside_a_store_is_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    key = digest("key")
    store = Store(tmp_path / "store")
    (tmp_path / "store" / "v1" / key[:2]).symlink_to(elsewhere)
    with pytest.raises(bw.BitwrightError, match="is a link"):
        store.put(key, {}, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "v1").symlink_to(elsewhere)
    with pytest.raises(bw.BitwrightError, match="is a link"):
        Store(tmp_path / "other")
    assert not list(elsewhere.iterdir())


# ---- one writer ----------------------------------------------------------------------------------


def test_a_second_run_into_the_same_folder_is_refused_at_once(run, made):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with hold(run / "run.lock"):
        for command in ([*made[1], "--out", run], [*made[1], "--scheme", "w4a4", "--out", run]):
            assert f"is being written by process {os.getpid()} on" in said(live(command))
        for reader in ("report", "verify", "export", "allocate", "frontier"):
            assert "is being written by process" in said(live(words(reader, run)))
        done = live(words("evaluate", run))  # reads only
        assert done.code == 0, done.said
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


# ---- a full disk ---------------------------------------------------------------------------------


def no_more_bytes() -> None:
    """The system itself refuses every write to a file from here on."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@pytest.mark.parametrize("command", ["report", "verify", "export", "allocate", "frontier"])
def test_a_full_disk_is_a_sentence_and_the_run_stays_as_it_was(run, command):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    told = said(live(words(command, run), first=no_more_bytes))
    assert "cannot be written: the disk is full" in told
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_a_full_disk_at_the_start_of_a_run(made, run, tmp_path):
    told = said(live([*made[1], "--out", tmp_path / "new"], first=no_more_bytes))
    assert "cannot be written: the disk is full" in told
    done = live([*made[1], "--out", tmp_path / "new"])
    assert done.code == 0, done.said
    assert fixed_bytes(tmp_path / "new") == fixed_bytes(made[0])


def test_a_full_temporary_folder_is_a_sentence(made, tmp_path, monkeypatch):
    """Not the run's disk but the one where rows are put aside."""
    from bitwright.errors import FileError
    from bitwright.solving.spool import ByteBudget, Spool

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    no_more_bytes()
    try:
        with pytest.raises(FileError, match=r"temporary folder.*full.*TMPDIR"):
            spool = Spool(ByteBudget(0))
            spool.add(torch.zeros(100_000))
            spool.read()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- check ---------------------------------------------------------------------------------------


def printed(done) -> dict:
    """The JSON that a command printed, whatever stands beside it on standard error."""
    return json.JSONDecoder().raw_decode(done.said[done.said.index("{\n") :])[0]


def test_check_of_a_sound_run(run):
    done = live(["check", run])
    assert done.code == 0 and "is sound: 10 files are what its manifest says" in done.said
    found = printed(live(["check", run, "--json"]))
    assert found["sound"] is True and found["faults"] == [] and found["files"] == 10
    assert found["versions"]["recipe.toml"] == 1 and found["versions"]["manifest"] == 1
    assert found["versions"]["environment"]["torch"] == torch.__version__


HARMS = {
    "a byte changed": (lambda r: flip(r / "model.onnx"), "model.onnx is not the file"),
    "a file lost": (lambda r: (r / "table.csv").unlink(), "table.csv cannot be read"),
    "cut short": (lambda r: (r / "census.json").write_text("{"), "1 bytes instead of"),
    "a stranger of ours": (lambda r: (r / "latency.csv").write_text(""), "no part of this run"),
    "no manifest": (lambda r: (r / "manifest.json").unlink(), "has no manifest.json"),
    "the log rewritten": (lambda r: (r / "log.jsonl").write_text("{}\n"), "log.jsonl is not"),
    "a pipe": (lambda r: pipe(r / "verify.json"), "no plain file"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("harm", HARMS)
def test_check_finds(run, harm):
    change, told = HARMS[harm]
    change(run)
    done = live(["check", run])
    assert done.code == 2 and "NOT SOUND" in done.said and told in done.said, done.said
    found = printed(live(["check", run, "--json"]))
    assert found["sound"] is False and any(told in fault for fault in found["faults"])


def test_check_looks_into_the_store(run):
    store = Store(run / "store")
    for name in ("a", "b"):
        store.put(digest(name), {"x": torch.ones(3)}, {})
    done = live(["check", run])
    assert done.code == 0 and "2 entries of its store are whole" in done.said
    flip(store.path(digest("b")))
    done = live(["check", run])
    assert done.code == 2 and digest("b") in done.said


def test_check_notes_what_is_no_fault(run):
    (run / "readme.txt").write_text("mine")
    (run / ".report.html.0123abcd.tmp").write_text("half")
    done = live(["check", run])
    assert done.code == 0
    assert "readme.txt is none of the run's files" in done.said and "stopped" in done.said


def test_check_of_no_run(tmp_path):
    assert "no run directory" in said(live(["check", tmp_path / "none"]))


# ---- runs of earlier versions --------------------------------------------------------------------


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


@pytest.fixture(params=["fixed", "menu"])
def old(request, tmp_path) -> Path:
    return Path(shutil.copytree(OLD / request.param, tmp_path / request.param))


def test_an_old_run_is_loaded_with_a_word(old):
    with pytest.warns(RunWarning, match="no manifest"):
        module = bw.load(old, model=net())
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(3))
    assert (module(x) - net()(x)).abs().max() < 0.05
    assert not torch.equal(module(x), net()(x))


def test_an_old_run_is_reported_with_a_word(old):
    done = live(["report", old])
    assert done.code == 0 and "note: " in done.said and "has no manifest.json" in done.said
    assert "has no manifest.json" in (old / "report.html").read_text()
    assert not (old / "manifest.json").exists()


def test_an_old_table_is_allocated_with_a_word(tmp_path):
    old = Path(shutil.copytree(OLD / "menu", tmp_path / "menu"))
    done = live(["allocate", old, "--budget", "bops<=0.05"])
    assert done.code == 0 and "has no manifest.json" in done.said
    want = json.loads((OLD / "menu" / "allocation.json").read_text())
    assert json.loads((old / "allocation.json").read_text())["choices"] == want["choices"]
    done = live(["frontier", old, "--cost", "bops"])
    assert done.code == 0 and (old / "frontier.csv").exists()


def test_the_table_and_the_recipe_alone_are_enough(tmp_path):
    """What the contract promises of `allocate` and `frontier`."""
    for name in ("recipe.toml", "table.csv"):
        shutil.copy(OLD / "menu" / name, tmp_path / name)
    assert live(["allocate", tmp_path, "--budget", "bops<=0.05"]).code == 0
    assert live(["frontier", tmp_path, "--cost", "bops"]).code == 0
