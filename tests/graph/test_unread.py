"""Outputs that no figure looks at are named, and so are the units that only they depend on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import DataError
from bitwright.graph.unread import unread_notes, unread_outputs
from networks import normal, seeded


class Heads(nn.Module):
    """A body and two heads; what is returned of them is made by `form`."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.one, self.other = (nn.Linear(6, 6) for _ in range(3))
        self.form = form

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.form(h, self.one(h), self.other(h))


def captured(form):
    return bw.capture(seeded(lambda: Heads(form)).eval(), (normal(4, 6),))


def with_shares(logits):
    return {"logits": logits, "probabilities": logits.softmax(1), "class": logits.argmax(1)}


CASES = [
    # What cannot be compared: whole numbers, and of text what stands beside its one answer.
    (lambda h, a, b: (a, b.argmax(1)), ("output_0",), ("output_1",), ("other",)),
    (lambda h, a, b: {"last_hidden_state": a[:, None], "pooler_output": b},
     ("last_hidden_state",), ("pooler_output",), ("other",)),
    (lambda h, a, b: {"logits": a, "hidden_states": (b,)},
     ("logits",), ("hidden_states.0",), ("other",)),
    # Nothing is lost where the rest follows from what is read, or from no unit at all.
    (lambda h, a, b: with_shares(a + b), ("logits",), (), ()),
    (lambda h, a, b: (a + b, torch.ones(3)), ("output_0",), (), ()),
    (lambda h, a, b: (a + b, None), ("output_0",), (), ()),
    (lambda h, a, b: a + b, ("output",), (), ()),
    # All that can be compared is looked at.
    (lambda h, a, b: {"aux": a, "logits": b}, ("aux", "logits"), (), ()),
    (lambda h, a, b: (a + b, h), ("output_0", "output_1"), (), ()),
]  # fmt: skip


@pytest.mark.parametrize(("form", "read", "unread", "units"), CASES)
def test_what_nobody_looks_at_is_named(form, read, unread, units):
    graph = captured(form)
    found = unread_outputs(graph)
    assert (found.read, found.outputs, found.units) == (read, unread, units)
    told = [note.text for note in graph.notes]
    assert len(told) == bool(unread) + (len(read) > 1)
    assert len(unread_notes(graph)) == bool(unread)
    for name in (*unread, *units):
        assert f"'{name}'" in str(unread_notes(graph))


def test_many_outputs_are_counted_and_not_all_listed():
    graph = captured(lambda h, a, b: [a, *((b + i).argmax(1) for i in range(9))])
    (warning,) = unread_notes(graph)
    assert warning["place"].endswith("and 4 more")


def test_an_output_that_is_left_out_is_told():
    net = seeded(lambda: Heads(lambda h, a, b: {"boxes": a, "classes": b})).eval()
    graph = bw.capture(net, (normal(4, 6),), answer="boxes=none")
    found = unread_outputs(graph)
    assert (found.read, found.outputs, found.units) == (("classes",), ("boxes",), ("one",))
    assert graph.answer.kind == "scores"


# ---- outputs of no row -----------------------------------------------------------------------


def kept_boxes(h, a, b):
    return a[a[:, 0] > 1e9]


@pytest.mark.parametrize(
    "form",
    [
        lambda h, a, b: {"scores": b, "boxes": kept_boxes(h, a, b)},
        lambda h, a, b: {"boxes": kept_boxes(h, a, b), "scores": b},
        lambda h, a, b: (b, a[:0]),
    ],
)
def test_an_empty_output_is_no_obstacle_and_never_the_answer(form):
    data = [normal(8, 6)]
    result = bw.quantize(
        seeded(lambda: Heads(form)).eval(),
        data,
        recipe="fixed",
        menu="w8a8,w4a8",
        budget="bops<=0.05",
    )
    again = result.model(data[0])
    scores = again["scores"] if isinstance(again, dict) else again[0]
    assert result.graph.answer.of(again) is scores and len(scores) == 8
    assert result.verify()["passed"]


def test_a_network_of_filtered_boxes_alone_is_told_what_to_return():
    with pytest.raises(DataError, match="raw scores too"):
        captured(kept_boxes)
