"""The run directory: what may be written where, and how it is read back."""

from __future__ import annotations

import json

import pytest

from bitwright.errors import RunDirectoryError
from bitwright.export import rundir
from bitwright.run.progress import Progress


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    run = rundir.create(tmp_path / "a" / "b", "seed = 1\n")
    assert run[rundir.RECIPE].read_text() == "seed = 1\n"
    assert rundir.existing(run.path).sizes() == {"recipe.toml": 9}


def test_the_same_run_may_be_taken_up_again(tmp_path):
    run = rundir.create(tmp_path, "seed = 1\n")
    run.write_json(rundir.CENSUS, {})
    rundir.create(tmp_path, "seed = 1\n")
    with pytest.raises(RunDirectoryError, match="already holds another run"):
        rundir.create(tmp_path, "seed = 2\n")
    assert run[rundir.RECIPE].read_text() == "seed = 1\n"


def test_a_run_that_left_nothing_gives_way(tmp_path):
    run = rundir.create(tmp_path, "seed = 1\n")
    run[rundir.LOG].write_text("{}\n")
    rundir.create(tmp_path, "seed = 2\n")
    assert run[rundir.RECIPE].read_text() == "seed = 2\n"


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"holds no run \(it has 'thesis.tex'\)"):
        rundir.create(tmp_path, "")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    run = rundir.create(tmp_path, "")
    run.write_json("x.json", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": "é"}})
    assert run.read_json("x.json") == {"a": None, "b": [None, 1.5], "c": {"d": "é"}}
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(RunDirectoryError, match="it holds no object"):
        run.read_json("list.json")


def test_the_log_drops_ticks(tmp_path):
    run = rundir.create(tmp_path, "")
    progress = Progress([rundir.log_listener(run)])
    with progress.stage("observe", 10) as tick:
        tick(5)
    progress.note("observe", "a note")
    entries = [json.loads(line) for line in run[rundir.LOG].read_text().splitlines()]
    assert [e["kind"] for e in entries] == ["start", "end", "note"]
    assert entries[2]["text"] == "a note" and all("time" in e for e in entries)
