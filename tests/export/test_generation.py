"""Writing a run directory: one writer, all files of a change together, and what a kill leaves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from bitwright.engine.manifest import Manifest, Seal, parse_manifest
from bitwright.errors import FileError, RunDirectoryError
from bitwright.export import generation, rundir
from bitwright.export.generation import change, claim_run, update_run


def whole(path, recipe="seed = 1\n", **files):
    with claim_run(path, recipe) as run, change(run, whole=True) as new:
        for name, text in ({"model": "weights", "census": "{}"} | files).items():
            new.write(NAMES.get(name, f"{name}.json"), text.encode())
    return rundir.open_existing(path)


NAMES = {"model": rundir.MODEL, "onnx": rundir.ONNX, "frontier": rundir.FRONTIER_CSV}


def contents(path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    run = whole(tmp_path / "a" / "b")
    assert run[rundir.RECIPE].read_text() == "seed = 1\n"
    assert set(contents(run.path)) == {
        "recipe.toml", "manifest.json", "model.safetensors", "census.json"
    }  # fmt: skip
    stated = parse_manifest(run[rundir.MANIFEST].read_bytes(), "it")
    assert stated.whole and stated.files["census.json"].size == 2
    assert set(stated.files) == {"recipe.toml", "model.safetensors", "census.json"}


def test_the_same_run_may_be_taken_up_again_and_another_not(tmp_path):
    before = contents(whole(tmp_path).path)
    with (
        pytest.raises(RunDirectoryError, match="already holds another run"),
        claim_run(tmp_path, ""),
    ):
        pass
    with claim_run(tmp_path, "seed = 1\n"):
        pass
    assert contents(tmp_path) == before


def test_a_run_that_left_nothing_gives_way(tmp_path):
    with claim_run(tmp_path, "seed = 1\n") as run:
        run[rundir.LOG].write_text("{}\n")
    assert whole(tmp_path, "seed = 2\n").read_text(rundir.RECIPE) == "seed = 2\n"


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(RunDirectoryError, match=r"holds no run \(it has 'thesis.tex'\)"),
        claim_run(tmp_path, ""),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_files_have_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        run = whole(tmp_path)
        rundir.log_listener(run)(rundir.Event("note", "save", text="x"))
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}


def test_a_run_that_is_not_whole_is_refused_by_all_who_read_it(tmp_path):
    """The scene of a mixture: written once, then again, and stopped half way."""
    whole(tmp_path, onnx="old", verify='{"passed": true}')
    with pytest.raises(KeyboardInterrupt), claim_run(tmp_path, "seed = 1\n") as run:
        stop_at_rename(run, 2)
    assert parse_manifest(run[rundir.MANIFEST].read_bytes(), "it").pending
    again = rundir.open_existing(tmp_path)
    for name in (rundir.VERIFY, rundir.MODEL, rundir.ONNX, rundir.CENSUS):
        with pytest.raises(RunDirectoryError, match=r"no whole run.*quantize --recipe"):
            again.read_bytes(name)
    assert whole(tmp_path, onnx="new").read_text(rundir.ONNX) == "new"


def stop_at_rename(run, count, names=(rundir.MODEL, rundir.ONNX, rundir.CENSUS), **how):
    """Write a change and stop at one of the renames that put its files in place."""
    seen = [0]
    replace = Path.replace

    def renamed(source, target):
        if rundir.STAGING in str(source) and not str(source).endswith(".tmp"):
            seen[0] += 1
            if seen[0] == count:
                raise how.get("error", KeyboardInterrupt())
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, change(run, how.get("whole", True)) as new:
        for name in names:
            new.write(name, b"new")
        patch.setattr(Path, "replace", renamed)


def test_before_the_first_rename_the_old_run_is_whole(tmp_path):
    """A crash while the new files are made ready costs nothing."""
    before = contents(whole(tmp_path, verify="{}").path)
    with (
        pytest.raises(KeyboardInterrupt),
        claim_run(tmp_path, "seed = 1\n") as run,
        change(run, whole=True) as new,
    ):
        new.write(rundir.MODEL, b"new")
        raise KeyboardInterrupt
    assert contents(tmp_path) == before and rundir.open_existing(tmp_path).manifest.whole
    assert rundir.open_existing(tmp_path).read_text(rundir.VERIFY) == "{}"


def test_what_a_run_does_not_write_again_is_gone(tmp_path):
    whole(tmp_path, verify='{"passed": true}', frontier="a,b")
    run = whole(tmp_path, model="other")
    assert not run.has(rundir.VERIFY) and not run[rundir.VERIFY].exists()
    assert not run[rundir.FRONTIER_CSV].exists()


def test_an_update_changes_its_own_names_alone(tmp_path):
    whole(tmp_path, verify="{}", report="page")
    with update_run(tmp_path) as run, change(run) as new:
        new.write(rundir.REPORT, b"another page")
        new.remove(rundir.VERIFY)
        assert new.sizes()[rundir.REPORT] == 12 and rundir.VERIFY not in new.sizes()
    run = rundir.open_existing(tmp_path)
    assert run.read_text(rundir.REPORT) == "another page" and run.manifest.whole
    assert run.read_text(rundir.MODEL) == "weights" and not run[rundir.VERIFY].exists()


def test_an_update_that_was_stopped_is_told_and_made_again(tmp_path):
    whole(tmp_path, verify="{}")
    with pytest.raises(KeyboardInterrupt), update_run(tmp_path) as run:
        stop_at_rename(run, 2, (rundir.VERIFY, rundir.REPORT), whole=False)
    run = rundir.open_existing(tmp_path)
    assert set(run.manifest.pending) == {rundir.VERIFY, rundir.REPORT}
    assert run.read_text(rundir.MODEL) == "weights"
    with pytest.raises(RunDirectoryError, match=r"not written to its end.*bitwright verify"):
        run.read_bytes(rundir.VERIFY)
    with update_run(tmp_path) as run, change(run) as new:
        new.write(rundir.VERIFY, b"1")
        new.write(rundir.REPORT, b"2")
    assert rundir.open_existing(tmp_path).manifest.whole


def test_a_rename_that_fails_is_a_sentence_and_the_run_is_not_whole(tmp_path):
    whole(tmp_path)
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with pytest.raises(FileError, match="Read-only"), claim_run(tmp_path, "seed = 1\n") as run:
        stop_at_rename(run, 2, error=error)
    assert not rundir.open_existing(tmp_path).manifest.whole
    assert {p.name for p in tmp_path.iterdir()} <= {*rundir.WRITTEN, "recipe.toml", "manifest.json"}


@pytest.mark.parametrize(
    "left",
    [
        {".recipe.toml.0123abcd.tmp": "seed"},
        {"run.lock": ""},
        {"run.lock": '{"pid": 1', ".manifest.json.0123abcd.tmp": "{"},
        {"manifest.json": Manifest(pending=("model.safetensors",)).text().decode()},
    ],
)
def test_killed_in_the_very_first_writes_the_same_command_goes_on(tmp_path, left):
    for name, text in left.items():
        (tmp_path / name).write_text(text)
    assert whole(tmp_path).manifest.whole
    assert not set(left) & set(contents(tmp_path)) - {"manifest.json"}


def test_a_recipe_is_never_there_without_a_manifest(tmp_path, monkeypatch):
    """A run killed between the two would look like a whole one of an earlier version."""
    order = []
    write = generation.write_atomically
    monkeypatch.setattr(
        generation, "write_atomically", lambda p, c: (order.append(p.name), write(p, c))
    )
    with claim_run(tmp_path, ""):
        assert not rundir.open_existing(tmp_path).manifest.whole
    assert order == ["manifest.json", "recipe.toml"]


def test_temporary_files_of_a_killed_writer_are_swept(tmp_path):
    whole(tmp_path)
    (tmp_path / ".report.html.89abcdef.tmp").write_text("half")
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "model.onnx").write_text("half")
    (tmp_path / ".mine.tmp").write_text("the user's own")
    with update_run(tmp_path):
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [".mine.tmp"]


@pytest.mark.parametrize("name", ["log.jsonl", "store", ".new"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    whole(tmp_path / "run")
    (tmp_path / "run" / name).symlink_to(elsewhere)
    with (
        pytest.raises(RunDirectoryError, match=f"{name} is a link"),
        claim_run(tmp_path / "run", "seed = 1\n"),
    ):
        pass
    assert contents(elsewhere) == {"kept": b"x"}


def test_a_log_that_became_a_link_is_not_written_through(tmp_path):
    """Swapped while the run is under way."""
    target = tmp_path / "target"
    target.write_text("")
    with claim_run(tmp_path / "run", "") as run:
        run[rundir.LOG].symlink_to(target)
        with pytest.raises(FileError, match=r"log\.jsonl cannot be written"):
            rundir.log_listener(run)(rundir.Event("note", "save", text="x"))
    assert target.read_text() == ""


def test_the_log_may_grow_but_not_change(tmp_path):
    with claim_run(tmp_path, "") as run:
        rundir.log_listener(run)(rundir.Event("note", "save", text="x"))
        with change(run, whole=True) as new:
            new.write(rundir.MODEL, b"w")
    run = rundir.open_existing(tmp_path)
    with run[rundir.LOG].open("a") as file:
        file.write("{}\n")
    assert run.checked(rundir.LOG)
    run[rundir.LOG].write_text(run[rundir.LOG].read_text().replace("save", "lost"))
    with pytest.raises(RunDirectoryError, match="other content"):
        run.checked(rundir.LOG)


def test_a_run_without_a_manifest_is_updated_and_gets_none(tmp_path):
    """Nothing can be said of its other files."""
    whole(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.warns(match="no manifest"), update_run(tmp_path) as run, change(run) as new:
        new.write(rundir.REPORT, b"page")
    assert (tmp_path / "report.html").read_text() == "page"
    assert not (tmp_path / "manifest.json").exists()


def test_the_manifest_is_plain_json(tmp_path):
    record = json.loads(whole(tmp_path)[rundir.MANIFEST].read_text())
    assert record["version"] == 1 and record["whole"] is True and record["pending"] == []
    entry = record["files"]["census.json"]
    assert Seal(**entry) == Seal(
        2, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )
