"""A term of 1e-10 that keeps a logarithm finite is in the file that is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

import bitwright as bw


class LogPower(nn.Module):
    """As audio networks begin: a logarithm of a power that is zero where nothing is heard."""

    def __init__(self) -> None:
        super().__init__()
        self.spectrum = nn.Conv1d(1, 4, 5, bias=False)
        self.register_buffer("least", torch.tensor(1e-10))
        self.judge = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        heard = self.spectrum(x).relu()
        power = (heard * heard + 1e-10).log() + (heard * heard + self.least).log()
        return self.judge((power * 1.000002 / 46).mean(-1))


def test_small_terms_stay_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LogPower().eval()
    samples = torch.randn(8, 1, 32)
    result = bw.quantize(network, samples, recipe="fixed", progress=False)
    assert result.verify().passed
    path = tmp_path / "model.onnx"
    result.export(path)
    session = ort.InferenceSession(str(path))
    (got,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 1, 32), np.float32)})
    with torch.no_grad():
        expected = result.model(torch.zeros(2, 1, 32))
    assert np.isfinite(got).all()
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-4)
