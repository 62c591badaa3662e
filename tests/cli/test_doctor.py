"""What `doctor` says of a network most of whose work stays float."""

from __future__ import annotations

import pytest

from bitwright.cli.commands import run_doctor
from bitwright.cli.console import doctor_lines

MINE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(8, 16, batch_first=True)
        self.mix = nn.Bilinear(16, 16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        last = self.layer(x)[0][:, -1]
        return self.head(self.mix(last, last))

def network():
    net = Net().eval()
    net.example_inputs = (torch.zeros(2, 6, 8),)
    return net
"""


@pytest.fixture
def told(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return "\n".join(doctor_lines(run_doctor(f"{tmp_path / 'mine.py'}:network", {})))


def test_one_unit_is_one(told):
    assert "1 unit is quantised." in told and "1 units" not in told


def test_work_that_stays_float_is_counted_or_said_not_to_be(told):
    assert (
        "64 MACs a sample in units, 9.22 k in lstm (float), those of bilinear are not counted, "
    ) in told
    assert "0.0 million" not in told
