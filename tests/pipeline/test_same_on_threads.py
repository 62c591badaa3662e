"""Threads, processes and the loader's batch size change no bit, in either mode."""

from __future__ import annotations

import hashlib

import pytest
import torch

import bitwright as bw
from networks import pictures, small_network


def digest_of(tmp_path, mode, batch, workers):
    data = list(torch.split(pictures(72), batch))
    result = bw.quantize(
        small_network(), data, scheme="w4a4", method="quadratic", mode=mode, workers=workers
    )
    folder = tmp_path / f"{mode}{batch}{workers}"
    result.save(folder, verify=False)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The digest on one thread, by mode."""
    folder = tmp_path_factory.mktemp("alone")
    return {mode: digest_of(folder, mode, 24, 1) for mode in ("sequential", "parallel")}


@pytest.mark.parametrize(
    ("mode", "batch", "workers"),
    [
        ("sequential", 72, 2),
        ("sequential", 9, 4),
        ("sequential", 24, None),
        ("parallel", 72, 2),
        ("parallel", 9, None),
    ],
)
def test_the_same_bits(tmp_path, monkeypatch, alone, mode, batch, workers):
    monkeypatch.setattr("bitwright.solving.work.count_cores", lambda: 4)
    assert digest_of(tmp_path, mode, batch, workers) == alone[mode]
