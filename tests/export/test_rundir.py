"""The run directory: how it is read back, and what is said where it cannot be."""

from __future__ import annotations

import json
import os
import warnings

import pytest

from bitwright.engine.progress import Progress
from bitwright.errors import RunDirectoryError, RunWarning
from bitwright.export import generation, rundir


def made(path, recipe="seed = 1\n", **files):
    """A whole run of a few files."""
    with generation.claim_run(path, recipe) as run, generation.change(run, whole=True) as new:
        for name, value in files.items():
            new.write_json(f"{name}.json", value)
    return rundir.open_existing(path)


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    run = made(tmp_path, x={"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": "é"}})
    assert run.read_json("x.json") == {"a": None, "b": [None, 1.5], "c": {"d": "é"}}


def test_sizes_are_those_of_the_run_alone(tmp_path):
    run = made(tmp_path, x={})
    (tmp_path / ".x.json.0123abcd.tmp").write_text("half")
    assert run.sizes() == {"recipe.toml": 9, "x.json": 3}


@pytest.mark.parametrize("damage", ["[]", "{", "\ud800", "[" * 200_000])
def test_a_damaged_json_file_is_told(tmp_path, damage):
    """Of a run without a manifest, which is the one whose files can be anything."""
    (tmp_path / "recipe.toml").write_text("")
    (tmp_path / "x.json").write_bytes(damage.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunDirectoryError, match="damaged"):
        rundir.RunDirectory(tmp_path).read_json("x.json")


def test_the_log_drops_ticks(tmp_path):
    run = made(tmp_path)
    progress = Progress([rundir.log_listener(run)])
    with progress.stage("observe", 10) as tick:
        tick(5)
    progress.note("observe", "a note")
    entries = [json.loads(line) for line in run[rundir.LOG].read_text().splitlines()]
    assert [e["kind"] for e in entries] == ["start", "end", "note"]
    assert entries[2]["text"] == "a note" and all("time" in e for e in entries)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda file: file.write_bytes(file.read_bytes() + b" "), "13 bytes instead of 12"),
        (lambda file: file.write_bytes(b"{" + file.read_bytes()[1:].upper()), "other content"),
        (lambda file: file.unlink(), "No such file"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "no plain file"),
        (lambda file: (file.unlink(), file.mkdir()), "no plain file|Is a directory"),
    ],
)
def test_a_file_that_is_not_what_the_run_wrote_is_refused(tmp_path, harm, told):
    run = made(tmp_path, metrics={"a": 1})
    assert run.read_json("metrics.json") == {"a": 1}
    harm(tmp_path / "metrics.json")
    for read in (run.read_json, run.checked):
        with pytest.raises(RunDirectoryError, match=told):
            read("metrics.json")


def test_a_file_that_no_run_wrote_is_no_part_of_it(tmp_path):
    run = made(tmp_path, metrics={})
    (tmp_path / "verify.json").write_text('{"passed": true}')
    assert not run.has("verify.json")
    with pytest.raises(RunDirectoryError, match="is no part of this run"):
        run.read_json("verify.json")
    with pytest.raises(RunDirectoryError, match=r"'bitwright frontier .*' writes it again"):
        run.checked("frontier.csv")


def test_a_run_of_an_earlier_version_is_read_with_a_word(tmp_path):
    made(tmp_path, metrics={"a": 1})
    (tmp_path / "manifest.json").unlink()
    with pytest.warns(RunWarning, match=r"has no manifest\.json: an earlier version wrote it"):
        run = rundir.open_existing(tmp_path)
    assert run.read_json("metrics.json") == {"a": 1} and run.has("metrics.json")


def test_a_whole_run_is_read_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(tmp_path).manifest.whole


@pytest.mark.parametrize("kind", ["fifo", "folder", "garbage"])
def test_an_odd_manifest_is_told_and_hangs_nobody(tmp_path, kind):
    made(tmp_path)
    path = tmp_path / "manifest.json"
    path.unlink()
    {"fifo": lambda: os.mkfifo(path), "folder": path.mkdir,
     "garbage": lambda: path.write_bytes(b"\xff{")}[kind]()  # fmt: skip
    with pytest.raises(RunDirectoryError, match=r"manifest\.json"):
        rundir.open_existing(tmp_path)
