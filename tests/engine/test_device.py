"""A device that this machine has not is refused before any work, from the command and Python."""

from __future__ import annotations

import pytest
import torch

import bitwright as bw
from bitwright.engine.device import check_device, parse_device
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError

WITHOUT = [
    *([] if torch.cuda.is_available() else ["cuda", "cuda:7"]),
    *([] if torch.backends.mps.is_available() else ["mps"]),
]


@pytest.mark.parametrize("text", ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:12", "mps", "mps:0"])
def test_what_torch_takes_is_taken(text):
    kind, number = parse_device(text)
    assert torch.device(text) == (torch.device(kind, number) if number is not None else
                                  torch.device(kind))  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "gpu", "cpu:7x", "cpu:1", "cuda:", "cuda:-1", "cuda:0x1", "cuda:٣", "CUDA", "a\nb"]
)
def test_other_words_are_refused(text):
    with pytest.raises(RecipeError, match="unknown device"):
        parse_device(text)


def test_a_number_beyond_the_devices_there_are():
    if torch.cuda.is_available():
        with pytest.raises(RecipeError, match="this machine has cuda:0"):
            check_device("cuda:77")
    check_device("cpu")


@pytest.mark.parametrize("text", WITHOUT)
def test_from_python_nothing_is_captured_first(text):
    net = torch.nn.Sequential(torch.nn.Linear(4, 2)).eval()
    seen = []
    with pytest.raises(RecipeError, match=f"--device {text}: PyTorch finds no .* on this machine"):
        bw.quantize(
            net, torch.randn(8, 4), recipe="fixed", device=text, progress=Progress([seen.append])
        )
    assert not seen
