"""The network's own words: order of inputs, names of outputs."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.graph.names import in_forward_order, leaf_names
from networks import TwoTowers, normal, seeded


@dataclass
class Detections:
    boxes: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor | None = None


Pair = namedtuple("Pair", "mean spread")


class Gives(nn.Module):
    """One linear layer, its result in the form that `form` makes of it."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.form = nn.Linear(4, 4), form

    def forward(self, x):
        return self.form(self.body(x))


FORMS = [
    (lambda y: y, ("output",)),
    (lambda y: (y,), ("output",)),
    (lambda y: [y, y + 1], ("output_0", "output_1")),
    (lambda y: {"boxes": y, "classes": y * 2}, ("boxes", "classes")),
    (lambda y: {"box": {"centre": y, 3: y + 1}}, ("box.centre", "box.3")),
    (lambda y: [{"mask": y}], ("output_0.mask",)),
    (lambda y: Detections(y, y * 2), ("boxes", "scores")),
    (lambda y: {"head": Detections(y, y * 2)}, ("head.boxes", "head.scores")),
    (lambda y: Pair(y, y * 2), ("mean", "spread")),
    (lambda y: {"a": {"b": y}, "a.b": y * 2}, ("a.b", "a.b_2")),
    (lambda y: {"": y}, ("output_0",)),
]


@pytest.mark.parametrize(("form", "names"), FORMS)
def test_outputs_are_called_as_the_network_calls_them(form, names):
    graph = bw.capture(seeded(lambda: Gives(form)).eval(), (normal(2, 4),))
    assert graph.outputs == names


def test_a_model_output_of_transformers_is_called_by_its_fields():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    result = outputs.SequenceClassifierOutput(
        logits=normal(2, 3), hidden_states=(normal(2, 4), normal(2, 5))
    )
    assert leaf_names(result) == ("logits", "hidden_states.0", "hidden_states.1")


def test_keyword_inputs_come_in_the_order_of_forward():
    backwards = {"second": normal(2, 6), "first": normal(2, 4)}
    graph = bw.capture(seeded(TwoTowers).eval(), backwards)
    assert [spec.name for spec in graph.inputs] == ["first", "second"]
    assert graph.outputs == ("hidden.0", "hidden.1", "logits")


def test_keywords_that_forward_takes_without_naming_them_come_last():
    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 2)

        def forward(self, x, **others):
            return self.body(x) + others["shift"] + others["more"]

    given = {"shift": normal(2, 2), "x": normal(2, 4), "more": normal(2, 2)}
    assert list(in_forward_order(Any(), given)) == ["x", "shift", "more"]
