"""Attention in its parts: what torch's fused operator computes, and which inputs are quantised."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.errors import RecipeError
from bitwright.graph.sites import find_sites

aten = torch.ops.aten


class Attention(nn.Module):
    """Attention over a linear layer's output, masked or not; the mask is an input or causal."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner = nn.Linear(12, 36)
        self.outer = nn.Linear(12, 5)

    def forward(self, x, keep):
        q, k, v = self.inner(x).reshape(*x.shape[:2], 3, 2, 6).permute(2, 0, 3, 1, 4).unbind(0)
        rest = {
            "plain": {},
            "scaled": {"scale": 0.3},
            "causal": {"is_causal": True},
            "bool": {"attn_mask": keep[:, None, None] > 0},
            "float": {"attn_mask": (1 - keep[:, None, None]) * torch.finfo(torch.float32).min},
        }[self.kind]
        mixed = F.scaled_dot_product_attention(q, k, v, **rest)
        return self.outer(mixed.transpose(1, 2).flatten(2)).mean(1)


def example(batch=4, length=7):
    torch.manual_seed(batch)
    keep = torch.ones(batch, length)
    keep[0, length - 2 :] = 0
    return torch.randn(batch, length, 12), keep


KINDS = ["plain", "scaled", "causal", "bool", "float"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_compute_what_the_operator_does(kind):
    torch.manual_seed(0)
    network = Attention(kind).eval()
    graph = bw.capture(network, example())
    targets = [node.target for node in graph.module.graph.nodes]
    assert aten.scaled_dot_product_attention.default not in targets
    assert targets.count(aten.matmul.default) == 2 and targets.count(aten.softmax.int) == 1
    for batch in (1, 4):
        given = example(batch)
        torch.testing.assert_close(graph.module(*given), network(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["causal", "float"])
def test_masks_enter_no_grid(kind, tmp_path):
    """Inputs of products and softmax are quantised, the scores before the mask comes to them."""
    torch.manual_seed(0)
    network = Attention(kind).eval()
    result = bw.quantize(
        network, [example(8)], recipe="fixed", scheme="w8a8", target="paper+matmul+softmax"
    )
    edges = result.assignment.edges
    assert len(edges) == 7  # both linears, two products of two inputs each, and the scores
    assert all(float(grid.scale) < 1 for grid in edges.values())
    got, want = (m(*example(3)).detach() for m in (result.model, network))
    assert float((got - want).abs().max()) < 0.05 * float(want.abs().max())
    # What the mask hides stays hidden, however large it is.
    x, keep = example(3)
    if kind == "float":
        other = x.clone()
        other[0, keep[0] == 0] += 3.0
        weights = [n for n in result.model.graph.nodes if n.target is aten.softmax.int]
        assert len(weights) == 1
        assert torch.allclose(result.model(x, keep)[1:], result.model(other, keep)[1:])
    assert result.verify()["passed"]


def test_what_a_target_quantises():
    graph = bw.capture(Attention("plain").eval(), example())
    readers = {
        name: [s.reader for s in find_sites(graph, bw.load_target(name)) if s.unit is None]
        for name in ("paper", "paper+matmul", "paper+softmax")
    }
    assert readers["paper"] == []
    assert len(readers["paper+matmul"]) == 4 and len(readers["paper+softmax"]) == 1
    assert len(set(readers["paper+matmul"])) == 2


def test_an_unknown_operator():
    with pytest.raises(RecipeError, match=r"unknown operator 'matmuls' in target paper\+matmuls"):
        bw.load_target("paper+matmuls")
