"""What is promised across processors: the same model, a table that differs in the last digits."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3),
        nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()

def calib():
    torch.manual_seed(1)
    return [torch.randn(25, 3, 12, 12) for _ in range(4)]
"""
# What torch, oneDNN and MKL may use: all that is there, and what an older processor has.
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def quantize(folder: Path, name: str, method: str, environment: dict[str, str]) -> Path:
    out = folder / name
    words = [f"{folder}/own.py:net", "--data", f"{folder}/own.py:calib", "--method", method]
    words += ["--calib", "100", "--menu", "w8a8,w4a8", "--budget", "size<=0.24", "--quiet"]
    command = [sys.executable, "-m", "bitwright", "quantize", *words, "--out", str(out)]
    # A verification may fail on a processor without VNNI: nothing here is about that.
    done = subprocess.run(command, env=os.environ | environment, check=False)
    assert done.returncode in (0, 1)
    return out


def table(run: Path) -> list[dict[str, str]]:
    with (run / "table.csv").open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nearest", "quadratic"])
def test_an_older_processor_makes_the_same_model(tmp_path, method):
    if "avx512f" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no wider vectors than AVX2")
    (tmp_path / "own.py").write_text(NETWORK)
    here = quantize(tmp_path, "here", method, {})
    older = quantize(tmp_path, "older", method, OLDER)
    assert (here / "model.safetensors").read_bytes() == (older / "model.safetensors").read_bytes()
    for one, other in zip(table(here), table(older), strict=True):
        assert one["unit"] == other["unit"] and one["w_bits"] == other["w_bits"]
        losses = [float(row["loss_delta"] or 0.0) for row in (one, other)]
        assert math.isclose(*losses, rel_tol=1e-6, abs_tol=1e-9)
