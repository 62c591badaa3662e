"""Failed runs leave no folder, unless there is something that running again can take up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.cli.commands import run_quantize
from bitwright.engine.progress import Progress
from bitwright.errors import BitwrightError
from bitwright.export.leftovers import remove_files_on_failure, remove_folders_on_failure
from bitwright.export.rundir import LOG, RECIPE, STORE, RunDirectory

MINE = """
import torch

def network():
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)).eval()

def broken():
    raise ValueError("no weights here")

def calibration():
    return list(torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(1)))

def wrong():
    return [torch.zeros(4, 7)]
"""


@pytest.fixture
def quantize(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)

    def run(out, model="network", data="calibration", store=None, listener=None, **options):
        asked = {"model": f"mine.py:{model}", "data": f"mine.py:{data}", **options}
        progress = Progress([listener] if listener else [])
        run_quantize("fixed", asked, Path(out), progress, store=store)

    return run


@pytest.mark.parametrize("wrong", [{"model": "broken"}, {"data": "wrong"}, {"data": "absent"}])
def test_a_run_that_fails_at_its_start_leaves_nothing(quantize, wrong):
    with pytest.raises(BitwrightError):
        quantize("runs/deep/first", **wrong)
    assert [p.name for p in Path().iterdir() if p.name != "__pycache__"] == ["mine.py"]


def test_a_folder_of_the_users_own_stays(quantize):
    Path("mine").mkdir()
    with pytest.raises(BitwrightError):
        quantize("mine", model="broken")
    assert list(Path("mine").iterdir()) == []


def test_what_is_solved_stays(quantize):
    def stop(event):
        if event.stage == "stitch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize("out", listener=stop, method="quadratic")
    assert any(Path("out", STORE).rglob("*.safetensors")) and Path("out", RECIPE).is_file()
    with pytest.raises(KeyboardInterrupt):
        quantize("elsewhere", listener=stop, store=Path("kept"), method="quadratic")
    assert not Path("elsewhere").exists() and any(Path("kept").rglob("*.safetensors"))
    quantize("out", method="quadratic")
    assert Path("out", "report.html").is_file()


def test_a_whole_run_stays_when_it_cannot_be_repeated(quantize):
    quantize("whole")
    before = {p.name: p.read_bytes() for p in Path("whole").iterdir() if p.name != LOG}
    text = Path("mine.py").read_text()
    Path("mine.py").write_text(text.replace("def network():", "def network():\n    return 3"))
    with pytest.raises(BitwrightError):
        quantize("whole")
    after = {p.name: p.read_bytes() for p in Path("whole").iterdir() if p.name != LOG}
    assert before.items() <= after.items()


def test_what_an_earlier_failure_left_goes_with_the_next_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in (RECIPE, LOG):
        (out / name).write_text("")
    with (
        pytest.raises(KeyboardInterrupt),
        remove_folders_on_failure(out),
        remove_files_on_failure(RunDirectory(out)),
    ):
        raise KeyboardInterrupt
    assert not out.exists() and tmp_path.is_dir()
