"""What outputs mean is found from names, shapes and last operators, and overruled by the user."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.heads import KINDS
from bitwright.graph.said import KINDS as WORDS
from bitwright.graph.said import parse_answer
from networks import normal, seeded


class Maps(nn.Module):
    """A body with heads of four, five, three and one channels; `form` makes the result of them."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.four, self.five = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)
        self.three, self.one = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 1, 1)
        self.form = form

    def forward(self, x):
        h = torch.relu(self.body(x))
        return self.form(x, self.four(h), self.five(h), self.three(h), self.one(h))


def answer_of(form, answer=""):
    return bw.capture(
        seeded(lambda: Maps(form)).eval(), (normal(2, 3, 8, 8),), answer=answer
    ).answer


def kinds(form, answer=""):
    return {head.name: head.kind for head in answer_of(form, answer).outputs}


def flat(t):
    return t.flatten(2).transpose(1, 2)


FOUND = [
    (lambda x, a, b, c, d: b, "scores", {"output": "scores"}),
    (lambda x, a, b, c, d: b.softmax(1), "scores", {"output": "probabilities"}),
    (lambda x, a, b, c, d: d, "several", {"output": "regression"}),
    (lambda x, a, b, c, d: d.sigmoid(), "several", {"output": "mask"}),
    (lambda x, a, b, c, d: b.mean((2, 3)).sigmoid(), "several", {"output": "labels"}),
    (lambda x, a, b, c, d: x + c, "several", {"output": "image"}),
    (lambda x, a, b, c, d: torch.pixel_shuffle(a, 2), "several", {"output": "image"}),
    (lambda x, a, b, c, d: {"depth": d, "seg": b}, "several",
     {"depth": "regression", "seg": "scores"}),
    (lambda x, a, b, c, d: {"pred_boxes": flat(a).sigmoid(), "logits": flat(b)}, "several",
     {"pred_boxes": "boxes", "logits": "scores"}),
    (lambda x, a, b, c, d: (flat(b), flat(a)), "several",
     {"output_0": "scores", "output_1": "boxes"}),
    (lambda x, a, b, c, d: {"heatmaps": b, "wh": a}, "several",
     {"heatmaps": "heatmaps", "wh": "regression"}),
    (lambda x, a, b, c, d: (b.mean((2, 3)), d.flatten(1).mean(1)), "several",
     {"output_0": "scores", "output_1": "regression"}),
    (lambda x, a, b, c, d: {"logits": b, "probs": b.softmax(1), "ids": b.argmax(1)}, "scores",
     {"logits": "scores", "probs": "none", "ids": "none"}),
    (lambda x, a, b, c, d: {"logits": b, "hidden_states": (c,), "count": d.sum()}, "scores",
     {"logits": "scores", "hidden_states.0": "none", "count": "none"}),
    (lambda x, a, b, c, d: {"probs": b.softmax(1), "raw": b}, "scores",
     {"probs": "probabilities", "raw": "none"}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "kind", "want"), FOUND)
def test_kinds_are_found(form, kind, want):
    assert kinds(form) == want
    assert answer_of(form).kind == kind


def test_yolos_output_is_boxes_and_scores_side_by_side():
    found = answer_of(
        lambda x, a, b, c, d: torch.cat([a.flatten(2).exp(), b.flatten(2).sigmoid()], 1)
    )
    boxes, scores = found.outputs
    assert (boxes.kind, boxes.cut, boxes.form) == ("boxes", (1, 0, 4), "cxcywh")
    assert (scores.kind, scores.cut, scores.axis) == ("labels", (1, 4, 9), 1)
    assert (boxes.partner, scores.partner) == (scores.name, boxes.name)
    whole = normal(2, 9, 64)
    one, two = found.of(whole)
    assert torch.equal(torch.cat([one, two], 1), whole)
    assert boxes.rows(one).shape == (2, 64, 4) and scores.rows(two.sigmoid()).shape == (2, 64, 5)


def test_boxes_know_how_they_are_written():
    def corners(x, a, b, c, d):
        low, high = flat(a)[..., :2], flat(a)[..., 2:].exp()
        return {"boxes": torch.cat([low, low + high], -1), "scores": flat(b)}

    assert answer_of(corners).outputs[0].form == "xyxy"
    offsets = answer_of(lambda x, a, b, c, d: {"boxes": flat(a), "scores": flat(b)})
    assert [h.form for h in offsets.outputs] == ["offsets", ""]
    assert [h.partner for h in offsets.outputs] == ["", ""]


def test_the_user_overrules():
    def form(x, a, b, c, d):
        return {"one": a, "two": b, "three": d}

    assert kinds(form) == {"one": "scores", "two": "scores", "three": "regression"}
    said = "one=regression*2, two=none, three=mask:logit"
    assert kinds(form, said) == {"one": "regression", "two": "none", "three": "mask"}
    heads = answer_of(form, said).heads
    assert [h.weight for h in heads] == [2.0, 1.0] and heads[1].form == "logit"
    # What is left is one row of class scores: read as ever.
    assert answer_of(form, "one=none, three=none").kind == "scores"
    assert answer_of(form, "one=none, three=none").leaves == (1,)
    assert answer_of(form, "one=none, three=none, two=scores:2").heads[0].axis == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("four=boxes", "unknown output 'four'"),
        ("one=boxes:7", "has 4 axes"),
        ("one", "is not understood"),
        ("one=boks", "Did you mean 'boxes'"),
        ("one=boxes:inside", "neither an axis"),
        ("one=boxes*-1", "no positive number"),
        ("one=boxes, one=mask", "twice"),
        ("two=mask", "whole numbers"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    def form(x, a, b, c, d):
        return {"one": a, "two": b.argmax(1)}

    with pytest.raises(RecipeError, match=message):
        answer_of(form, text)


def test_one_list_of_kinds():
    assert set(KINDS) == set(WORDS)
    assert [said.kind for said in parse_answer("a=box, b=depth, c=multilabel")] == [
        "boxes", "regression", "labels",
    ]  # fmt: skip


def test_an_embedding_of_text_is_read_as_ever_unless_the_user_says_more():
    class States(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.pool = nn.Embedding(9, 6), nn.Linear(6, 6)

        def forward(self, ids):
            h = self.table(ids)
            return {"last_hidden_state": h, "pooler_output": self.pool(h[:, 0])}

    net, ids = seeded(States).eval(), (torch.tensor([[1, 2, 3], [4, 5, 6]]),)
    assert bw.capture(net, ids).answer.kind == "embedding"
    both = bw.capture(net, ids, answer="pooler_output=embedding").answer
    assert both.kind == "several" and [h.kind for h in both.heads] == ["embedding"] * 2
    one = bw.capture(net, ids, answer="last_hidden_state=none, pooler_output=embedding").answer
    assert (one.kind, one.leaves) == ("embedding", (1,))
