"""Capture: same outputs at any batch, structure kept, and errors that name the user's line."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import CaptureError, DataError, ModelError
from bitwright.graph.capture import capture
from bitwright.graph.execute import bind, blame_batch
from networks import Chain, TwoTowers, normal, seeded


@pytest.mark.parametrize("example", [1, 2, 5])
def test_the_batch_is_dynamic(small_net, images, example):
    graph = capture(small_net, (images[:example],))
    assert str(graph.inputs[0]) == "x: float32 [N, 3, 16, 16]"
    for size in (1, 2, 7):
        with torch.no_grad():
            want, got = small_net(images[:size]), graph.module(images[:size])
        assert got.shape == (size, 10) and torch.allclose(got, want, atol=1e-5)


def test_example_inputs_in_every_form(small_net, images):
    forms = ((images,), [images], images, {"x": images})
    digests = {capture(small_net, form).digest() for form in forms[:3]}
    assert len(digests) == 1
    assert capture(small_net, forms[3]).inputs == capture(small_net, forms[0]).inputs


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_keyword_inputs_and_structured_outputs(order):
    net = seeded(TwoTowers).eval()
    shapes = {"first": (4, 4), "second": (4, 6)}
    batch = {name: normal(*shapes[name], seed=len(name)) for name in order}
    graph = capture(net, batch)
    assert {s.name: s.shape for s in graph.inputs} == {"first": (None, 4), "second": (None, 6)}
    with torch.no_grad():
        got, want = graph.module(**batch), net(**batch)
    assert list(got) == list(want) and isinstance(got["hidden"], tuple)
    assert torch.allclose(got["logits"], want["logits"], atol=1e-6)
    assert torch.allclose(got["hidden"][0], want["hidden"][0], atol=1e-6)


def test_an_argument_may_be_called_input():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    x = normal(3, 4)
    graph = capture(net, (x,))
    assert [spec.shape for spec in graph.inputs] == [(None, 4)]
    assert [unit.name for unit in graph.units] == ["0"]
    assert torch.allclose(graph.module(x), net(x), atol=1e-6)


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("bias", torch.zeros(6, 4))

    def forward(self, x):
        return self.linear(x) + self.bias


def test_a_fixed_batch_is_noted():
    graph = capture(FixedBatch().eval(), (normal(6, 4),))
    assert graph.inputs[0].shape == (6, 4)
    assert any("the batch is fixed at 6" in note.text for note in graph.notes)


def test_the_digest_knows_the_weights_and_the_graph(small_net, images):
    first = capture(small_net, (images,)).digest()
    assert capture(small_net, (images[:3],)).digest() == first
    small_net.head.weight.data[0, 0] += 1e-3
    assert capture(small_net, (images,)).digest() != first


# ---- errors ----------------------------------------------------------------------------------


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        y = self.linear(x)
        if y.sum() > 0:  # the line that the message must name
            return y
        return -y


class Looping(Branching):
    def forward(self, x):
        for _ in range(int(x.abs().max())):  # a loop over data
            x = self.linear(x)[:, [0, 1, 2, 0]]
        return x


class Numpy(Branching):
    def forward(self, x):
        return torch.from_numpy(self.linear(x).numpy() + 1)


def line_of(text: str) -> int:
    with open(__file__) as file:  # noqa: PTH123
        return next(i for i, line in enumerate(file, 1) if text in line)


@pytest.mark.parametrize(
    ("make", "line"), [(Branching, "if y.sum() > 0:  # the"), (Looping, "# a loop over data")]
)
def test_data_dependent_control_flow_names_file_and_line(make, line):
    place = f"{re.escape(__file__)}, line {line_of(line)}"
    with pytest.raises(CaptureError, match=place) as caught:
        capture(make().eval(), (normal(2, 4),))
    message = str(caught.value)
    assert make.__name__ in message and "values of its input" in message
    assert "torch.where" in message


def test_wrong_example_shape_says_where():
    with pytest.raises(CaptureError, match=r"cannot run the network Chain(.|\n)*remedy") as caught:
        capture(Chain(nn.Linear(4, 3)).eval(), (normal(2, 5),))
    message = str(caught.value)
    assert "inputs: float32 [2, 5]" in message and "networks.py, line" in message


def test_a_picture_without_its_batch_is_told_of():
    with pytest.raises(CaptureError, match=r"one colour picture is \[1, 3, height, width\]"):
        capture(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (normal(5, 8, 8),))


def test_bytes_are_not_taken_for_floating_numbers():
    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(CaptureError, match=r"uint8 \[2, 3, 8, 8\](.|\n)*x.float\(\) / 255"):
        capture(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), (pictures,))


def test_tokens_beyond_the_table_are_refused():
    net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3)).eval()
    with pytest.raises(CaptureError, match="outside the network's table"):
        capture(net, (torch.tensor([[1, 10]]),))
    graph = capture(net, (torch.tensor([[1, 9]]),))
    assert graph.inputs[0].rows == 10
    for wrong in (10, -1):
        with pytest.raises(DataError, match=rf"holds {wrong}, .* 10 rows \(0 to 9\)"):
            bind(graph, (torch.tensor([[0, wrong], [3, 4]]),))


def test_wrong_arguments_say_what_forward_takes():
    with pytest.raises(CaptureError, match=r"give example_inputs as a tuple in forward\(\)'s"):
        capture(Chain(nn.Linear(4, 3)).eval(), (normal(2, 4), normal(2, 4)))


def test_a_module_whose_name_has_a_line_break_is_refused():
    net = nn.Sequential(OrderedDict({"a\nb": nn.Linear(4, 3)})).eval()
    with pytest.raises(ModelError, match=r"a module called 'a\\nb'.*Rename this module"):
        capture(net, (normal(2, 4),))


class Noisy(Branching):
    def forward(self, x):
        return self.linear(x) + torch.rand(3)


class AlwaysDropping(Branching):
    def forward(self, x):
        return nn.functional.dropout(self.linear(x), 0.5, training=True)


@pytest.mark.parametrize("make", [Noisy, AlwaysDropping])
def test_a_random_forward_is_refused(make):
    with pytest.raises(CaptureError, match=r"is its forward\(\) random"):
        capture(make().eval(), (normal(4, 4),))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(16, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids):
        return self.head((self.words(ids) + self.places(torch.arange(ids.shape[1]))).mean(1))


def test_texts_longer_than_the_table_of_positions_are_told_of():
    texts = [torch.arange(8 * length).reshape(8, length) % 50 for length in (12, 16, 20)]
    net = seeded(Positions).eval()
    with pytest.raises(DataError, match=r"\[8, 20\]: IndexError(.|\n)*a text longer"):
        bw.quantize(net, texts, recipe="fixed")
    with pytest.raises(DataError, match=r"batch of int64 \[8, 20\]: IndexError"):
        bw.quantize(net, texts[:2], recipe="fixed", evaluation=texts, metric="agreement")


def test_a_lack_of_memory_is_not_blamed_on_the_data():
    with pytest.raises(RuntimeError, match="allocate"), blame_batch((normal(2, 3),)):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
