"""A new user's first hour with the real command. `pytest -s tests/first_hour -m slow` prints it."""

from __future__ import annotations

import json
import re
import shutil
import stat

import pytest
import torch

pytestmark = pytest.mark.slow
PICTURES = "--size 32 --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25"


# ---- a folder of JPEGs and one's own ResNet ----------------------------------------------------


@pytest.fixture(scope="module")
def first(shell):
    """The first run that succeeds: photos, one's own network."""
    line = f"quantize models.py:resnet --data photos --eval photos {PICTURES} --out runs/first"
    return shell(line)


def test_doctor_takes_the_pictures_preprocessing(shell):
    said = shell(f"doctor models.py:resnet --data photos {PICTURES} --no-speed")
    assert said.code == 0 and "layer1.conv1" in said.text
    assert not re.search(r"default on 1000 samples", said.text)  # there are 18


def test_what_is_printed_as_the_way_to_write_it_is_taken(shell):
    said = shell("quantize models.py:resnet --data photos --out runs/printed")
    assert said.code == 2
    example = re.search(r"--size \S+ --mean \S+ --std [\d., ]*\d", said.text)
    assert example, said.text
    assert shell(f"doctor models.py:resnet --data photos {example[0]} --no-speed").code == 0


def test_the_first_run_is_whole_and_verified(first, shell):
    assert first.code == 0, first.text
    run = shell.home / "runs" / "first"
    assert json.loads((run / "verify.json").read_text())["passed"]
    assert (run / "model.onnx").is_file() and (run / "report.html").is_file()


def test_fewer_folders_than_classes_are_told(first):
    """Three folders, four classes: which label a folder has is a guess that must be said."""
    assert re.search(r"\b3\b.*folders.*\b4\b", first.text), first.text


def test_progress_counts_the_pictures_that_are_there(first):
    assert not re.search(r"of 1000\b|/1000\b", first.text)


def test_files_of_a_run_obey_the_umask(first, shell):
    for file in (shell.home / "runs" / "first").iterdir():
        if file.is_file():
            assert stat.S_IMODE(file.stat().st_mode) & 0o044 == 0o044, file.name


def test_a_network_in_training_mode_is_told(shell):
    said = shell(f"doctor models.py:in_training --data photos {PICTURES} --no-speed")
    assert "training mode" in said.text


# ---- a run directory from elsewhere --------------------------------------------------------------


def test_a_run_from_elsewhere_runs_no_code_until_it_is_trusted(first, shell):
    copy = shell.home / "downloads" / "run"
    shutil.copytree(shell.home / "runs" / "first", copy)
    said = shell("verify downloads/run")
    assert said.code == 2 and "names code, model = " in said.text and "--trust" in said.text
    assert shell("report downloads/run").code == 0
    assert shell("verify downloads/run --trust").code == 0


def test_a_spoilt_run_is_not_called_whole(first, shell):
    run = shell.home / "runs" / "spoilt"
    shutil.copytree(shell.home / "runs" / "first", run)
    content = bytearray((run / "model.onnx").read_bytes())
    content[-1] ^= 1
    (run / "model.onnx").write_bytes(content)
    assert shell("check runs/first").code == 0
    said = shell("check runs/spoilt")
    assert said.code != 0 and "model.onnx" in said.text


# ---- a DataLoader of (image, mask), shuffled -----------------------------------------------------


def test_image_and_mask_from_a_shuffling_loader(shell):
    said = shell(
        "quantize models.py:segmenter --data loaders.py:masks --eval loaders.py:masks "
        "--metric miou --out runs/masks"
    )
    assert said.code == 0, said.text
    assert "miou" in said.text.lower() or "mean IoU" in said.text
    assert "shuffle" in said.text


# ---- a network with two heads --------------------------------------------------------------------


def test_all_outputs_count_and_are_told(shell):
    doctor = shell("doctor models.py:two_heads --data loaders.py:plain --no-speed")
    assert doctor.code == 0 and "nobody looks" not in doctor.text
    assert "boxes: boxes" in doctor.text and "classes: scores" in doctor.text


def test_an_output_that_nobody_looks_at_is_named(shell):
    doctor = shell(
        "doctor models.py:two_heads --data loaders.py:plain --no-speed --answer classes=none"
    )
    assert doctor.code == 0 and "'classes'" in doctor.text and "nobody looks" in doctor.text
    said = shell(
        "quantize models.py:two_heads --data loaders.py:plain --menu w2a8,w4a8,w8a8 "
        "--budget size<=0.27 --answer classes=none --out runs/two"
    )
    assert said.code == 0 and "'classes'" in said.text and "nobody looks" in said.text, said.text
    assert "nobody looks" in (shell.home / "runs" / "two" / "report.html").read_text()


# ---- a GRU -----------------------------------------------------------------------------------


def test_a_file_that_is_not_smaller_is_told_in_the_last_lines(shell):
    said = shell("quantize models.py:gru --data loaders.py:sequences --out runs/gru")
    assert re.search(r"not clearly smaller than the float network", said.text), said.text
    assert re.search(r"stay float \(.*gru", said.text), said.text


# ---- what cannot be, said at once ----------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu:7x"])
def test_a_device_that_is_not_there(shell, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    said = shell(
        f"quantize models.py:segmenter --data loaders.py:plain --device {device} --out runs/device"
    )
    assert said.code == 2 and device in said.text and "solve" not in said.out


def test_a_size_that_no_choice_reaches_is_found_before_solving(shell):
    said = shell(
        "quantize models.py:resnet --data loaders.py:plain --menu w4a8,w8a8 "
        "--budget size<=0.01 --out runs/small"
    )
    assert said.code == 2 and "least attainable" in said.text
    assert "solve" not in said.out


def test_numbers_without_end_are_refused_by_value(shell):
    line = "quantize models.py:resnet --data loaders.py:plain --menu w4a8,w8a8 --out runs/x "
    for budget in ("size<=1e9999999999", "size<=1e-99999999"):
        said = shell(f"{line} --budget {budget}")
        assert said.code == 2 and "size<=1e" in said.text and said.seconds < 60


def test_a_broken_metric_is_found_before_solving(shell):
    said = shell(
        "quantize models.py:segmenter --data loaders.py:plain --eval loaders.py:masks "
        "--metric loaders.py:bad_score --out runs/metric"
    )
    assert said.code == 2 and "my metric is broken" in said.text and "loaders.py:" in said.text
    assert "solve" not in said.out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("quantize model.onnx --data photos", "no file 'model.onnx'"),
        ("quantize model.py:net --data photos", "no file 'model.py'"),
        ("quantize models.py:resnett --data photos", "Did you mean 'resnet'"),
        ("quantize models.py:resnet --data photoz", "photoz"),
        ("quantize models.py:resnet --data photos --scheme w8b8", "w8b8"),
        ("quantize models.py:resnet --data photos --metod nearest", "--metod"),
        ("verify runs/none", "no run directory 'runs/none'"),
    ],
)
def test_slips_are_told_in_a_sentence(shell, line, told):
    said = shell(line)
    assert said.code == 2 and told in said.text


def test_questions_about_the_command_itself(shell):
    assert shell("--version").out.split()[-1].count(".") == 2
    assert "quadratic" in shell("list methods").out
    assert shell("list").code == 0


# ---- a notebook ----------------------------------------------------------------------------------

CELLS = """
import torch, bitwright as bw
from models import segmenter
from loaders import pictures
result = bw.quantize(segmenter(), [pictures()[:16]])
print("repr:", repr(result))
print("summary:", result.summary())
print("html:", result._repr_html_()[:4000])
print("length:", len(repr(result)))
"""


def test_a_result_at_the_end_of_a_cell_is_short(shell):
    said = shell.python(CELLS)
    assert said.code == 0, said.text
    assert int(re.search(r"length: (\d+)", said.text)[1]) < 400
    assert re.search(r"html:.*<table", said.text)


def test_a_filter_that_keeps_nothing_is_no_traceback(shell):
    said = shell.python(
        "import sys, bitwright as bw\n"
        "from models import Filter\nfrom loaders import pictures\n"
        "try:\n    bw.quantize(Filter().eval(), [pictures()[:16]])\n"
        "except bw.BitwrightError as error:\n    print('told:', error); sys.exit(2)\n"
    )
    assert said.code == 0 or "told:" in said.text
