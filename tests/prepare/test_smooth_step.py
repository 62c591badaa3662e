"""Outlier channels of linear layers' inputs: the network stays the same, its error falls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import bitwright as bw
from bitwright.graph.choice import Choice
from bitwright.pipeline.runs import load
from bitwright.prepare.smooth import apply_changes, find_changes, find_places

W4A4 = Choice(4, 4)


class Block(nn.Module):
    """A norm with outlier channels before two layers; `after` also adds its result (post-norm)."""

    def __init__(self, after: bool = False, bias: bool = True, wild: bool = True) -> None:
        super().__init__()
        self.after = after
        self.norm = nn.LayerNorm(24)
        if wild:
            with torch.no_grad():
                self.norm.weight[:3] = 20.0
                self.norm.bias[3] = 30.0
        self.up = nn.Linear(24, 32, bias=bias)
        self.gate = nn.Linear(24, 32)
        self.down = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        z = self.down(F.gelu(self.up(y)) * torch.sigmoid(self.gate(y)))
        return z + y[..., :6] if self.after else z


def batches(count=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 5, 24, generator=generator) for _ in range(count)]


def changed(network, choice=W4A4):
    data = batches()
    graph = bw.capture(network, (data[0],))
    choices = {unit.name: choice for unit in graph.units}
    changes = find_changes(
        graph, lambda: iter([(x,) for x in data]), choices, bw.load_target("paper")
    )
    return graph, changes


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_network_computes_what_it_did(after, bias):
    torch.manual_seed(0)
    network = Block(after, bias).eval()
    graph, changes = changed(network)
    assert any({"up", "gate"} == {u.name for u in c.place.readers} for c in changes)
    found = apply_changes(graph, changes)
    x = batches(1)[0]
    scale = float(network(x).detach().abs().max())
    torch.testing.assert_close(found.module(x), network(x), rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(graph.module(x), network(x), rtol=1e-5, atol=1e-6 * scale)


def test_a_norm_of_its_own_takes_it_in():
    """No operator is added where only these layers read the norm; two are where others do."""
    torch.manual_seed(0)
    for after, more in ((False, 0), (True, 2)):
        graph, changes = changed(Block(after).eval())
        first = next(c for c in changes if len(c.place.readers) == 2)
        assert (first.place.norm is None) is after
        count = [len([n for n in g.module.graph.nodes if n.op == "call_function"])
                 for g in (graph, apply_changes(graph, (first,)))]  # fmt: skip
        assert count[1] - count[0] == more


def test_the_error_falls_and_only_where_it_does_is_anything_changed():
    torch.manual_seed(0)
    _, changes = changed(Block().eval())
    assert all(c.after < c.before for c in changes)
    assert min(c.after / c.before for c in changes) < 0.5
    graph, changes = changed(nn.Sequential(nn.Linear(24, 24)).eval(), Choice(8, 8))
    assert changes == () and len(find_places(graph)) == 1
    graph, changes = changed(Block().eval(), Choice(4, 0))
    assert changes == ()


def test_quantised_with_it_the_answers_are_nearer(tmp_path):
    """End to end; the run is read back with its operators, and the file does the same."""
    torch.manual_seed(0)
    network = Block(after=True).eval()
    noise = {}
    for steps in ("", "smooth"):
        result = bw.quantize(network, batches(), recipe="fixed", scheme="w8a4", prepare=steps)
        noise[steps] = result.metrics["relative_noise"]
    assert noise["smooth"] < 0.5 * noise[""]
    assert result.verify()["passed"]
    result.save(tmp_path / "run")
    again = load(tmp_path / "run", network)
    x = batches(1)[0]
    assert torch.equal(again(x), result.model(x))
