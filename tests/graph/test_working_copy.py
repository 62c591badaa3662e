"""Networks in half or double precision, or in training mode, are converted and say so."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import CaptureError, ModelError
from bitwright.graph.capture import capture
from bitwright.graph.working_copy import make_working_copy
from bitwright.sources.models import load_model

KINDS = (torch.float16, torch.bfloat16, torch.float64)


class Casting(nn.Module):
    """Normalises in float32 and goes back to the type it came from, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 5)

    def forward(self, x):
        y = self.first(x)
        kind, y = y.dtype, y.to(torch.float32)
        y = (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)).to(kind)
        return self.second(y * torch.ones(8, dtype=kind))


def network(kind: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).eval().to(kind)  # fmt: skip


def pictures() -> torch.Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_captured_as_if_converted_by_hand(kind):
    net = network(kind)
    by_hand = capture(copy.deepcopy(net).float(), (pictures(),))
    graph = capture(net, (pictures(),))
    assert torch.equal(graph.module(pictures()), by_hand.module(pictures()))
    assert net[0].weight.dtype == kind, "the user's network was changed"
    (note,) = (n for n in graph.notes if "converted to float32" in n.text)
    assert str(kind).removeprefix("torch.") in note.text
    assert not [n for n in by_hand.notes if "converted" in n.text]


def test_a_network_in_float32_is_not_copied():
    net = network(torch.float32)
    assert make_working_copy(net)[0] is net


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [*KINDS, torch.float32])
def test_quantised_and_verified(kind, given):
    batches = [pictures().to(given)]
    result = bw.quantize(network(kind), batches, recipe="fixed", scheme="w8a8", target="ort-cpu")
    assert result.verify()["passed"]
    assert result.model(pictures()).dtype == torch.float32


def test_conversions_inside_the_network_become_float32():
    torch.manual_seed(0)
    net = Casting().eval().to(torch.bfloat16)
    x = torch.randn(4, 6)
    graph = capture(net, (x,))
    first, second = copy.deepcopy(net.first).float(), copy.deepcopy(net.second).float()
    y = first(x)
    want = second(y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5))
    assert torch.allclose(graph.module(x), want, rtol=1e-5, atol=1e-6)


def test_an_exported_program_in_half_precision(tmp_path):
    torch.manual_seed(0)
    net = Casting().eval().to(torch.bfloat16)
    x = torch.randn(4, 6)
    dynamic = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(net, (x.to(torch.bfloat16),), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = load_model(str(tmp_path / "net.pt2")).module
    result = bw.quantize(loaded, [x], recipe="fixed", scheme="w8a8", target="ort-cpu")
    assert result.verify()["passed"]


class Mixed(nn.Module):
    """Makes half precision of its input while its own numbers are float32."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(x.half())


def test_a_network_that_mixes_types_itself_is_told_of():
    with pytest.raises(CaptureError, match=r"call \.float\(\) on the network, and take conv"):
        capture(Mixed().eval(), (torch.randn(4, 6),))


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("holds a file")


def test_a_network_that_cannot_be_copied_is_refused():
    with pytest.raises(ModelError, match=r"float16 numbers and cannot be copied.*\.float\(\)"):
        capture(Uncopied(6, 5).eval().half(), (torch.randn(4, 6),))


# ---- training mode ---------------------------------------------------------------------------


class Dropping(nn.Module):
    """A batch-norm and dropout: in training mode no answer is that of the sample alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Linear(144, 5)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def dropping() -> nn.Module:
    torch.manual_seed(0)
    net = Dropping()
    net(pictures())  # what the batch-norm remembers is no longer where it began
    return net


@pytest.mark.parametrize("part", ["", "body", "body.2"])
def test_a_network_in_training_mode_is_taken_in_eval_mode(part):
    net = dropping().eval()
    by_hand = capture(copy.deepcopy(net), (pictures(),))
    net.get_submodule(part).train()
    remembered = net.body[1].running_mean.clone()
    modes = [module.training for module in net.modules()]
    graph = capture(net, (pictures(),))
    assert torch.equal(graph.module(pictures()), by_hand.module(pictures()))
    assert [module.training for module in net.modules()] == modes, "the user's network was changed"
    assert torch.equal(net.body[1].running_mean, remembered)
    (note,) = (n for n in graph.notes if "training mode" in n.text)
    assert (
        f"training mode{f', in {part}' if part else ''}" in note.text
        and "Call .eval()" in note.text
    )
    assert not [n for n in by_hand.notes if "training mode" in n.text]


def test_the_copy_in_eval_mode_holds_the_same_tensors():
    net = dropping()
    copied, _ = make_working_copy(net)
    own = {t.data_ptr() for t in net.parameters()}
    assert copied is not net and {t.data_ptr() for t in copied.parameters()} == own


def test_training_mode_is_the_same_from_python_and_from_a_file(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef f(): return nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5))\n"
    )
    loaded = load_model(f"{tmp_path / 'net.py'}:f").module
    x = torch.randn(8, 6)
    for net in (loaded, nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5))):
        notes = bw.quantize(net, [x], recipe="fixed").census["notes"]
        assert [n for n in notes if "training mode" in n["text"]] and net.training


def test_an_exported_network_has_no_modes():
    program = torch.export.export(dropping().eval(), (pictures(),))
    module = program.module()
    assert make_working_copy(module) == (module, ())


def test_training_mode_that_cannot_be_copied_says_what_to_do():
    with pytest.raises(ModelError, match=r"in training mode and cannot be copied.*Call \.eval\(\)"):
        make_working_copy(nn.Sequential(Uncopied(2, 2)))
