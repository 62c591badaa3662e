"""Defects that the zoo of architectures (benchmarks/guards/zoo) found, one small net each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.export.packed import load_packed, save_packed
from bitwright.graph.capture import capture
from bitwright.graph.execute import first_tensor
from bitwright.graph.observe import observe
from bitwright.graph.simulate import stitch
from bitwright.graph.sites import find_sites
from bitwright.graph.target import load_target
from bitwright.numerics.losses import relative_difference
from networks import trained_looking


def road(net, batches, tmp_path, **options):
    """Quantise, export and verify; returns the result and what the verification found."""
    torch.manual_seed(0)
    result = bw.quantize(
        net.eval(), batches, scheme="w8a8", batch=4, **{"recipe": "fixed", **options}
    )
    path = result.export(tmp_path / "model.onnx")
    found = result.verify(path)
    assert not found["first_failure"], found["units"]
    return result, found


def ids(rows=4, length=6, top=20):
    return torch.randint(0, top, (rows, length), generator=torch.Generator().manual_seed(3))


def test_an_input_may_be_called_as_a_builtin(tmp_path):
    """nn.Sequential calls its input `input`, which fx renames `input_1`."""
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    result, found = road(net, [torch.randn(4, 6)], tmp_path)
    assert [spec.name for spec in result.graph.inputs] == ["input"]
    assert found["passed"]
    named = result.model(input=torch.ones(2, 6))
    assert torch.equal(named, result.model(torch.ones(2, 6)))


class Positions(nn.Module):
    """Token and position embeddings, a head tied to the tokens, GPT-2's transposed layer."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.places = nn.Embedding(16, 8)
        self.kernel = nn.Parameter(torch.randn(8, 8))
        self.offset = nn.Parameter(torch.randn(8))
        self.upright = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1])[None])
        x = torch.addmm(self.offset, x.reshape(-1, 8), self.kernel).reshape(x.shape)
        x = torch.tanh(x) @ self.upright.weight.T
        return self.head(torch.relu(x))


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    torch.manual_seed(2)
    return road(Positions(), [{"tokens": ids()}], tmp_path_factory.mktemp("tied"))


def test_units_fed_by_computed_indices_are_verified(tied):
    """The position table's index is made in the network, and is no float."""
    result, found = tied
    assert set(found["units"]) == {"head", "head#2", "places", "kernel", "upright"}
    assert len(result.graph.units) == 4


def test_a_tied_head_is_one_unit_whose_input_is_quantised(tied, tmp_path):
    result, _ = tied
    unit = result.graph.unit("head")
    assert unit.kind == "linear"
    assert len(unit.calls) == 2
    sites = [s for s in find_sites(result.graph, load_target("paper")) if s.unit == "head"]
    # What a look-up reads are words; the head, whose bias and form the unit has, comes first.
    assert unit.calls == ("linear", "embedding")
    assert [site.reader for site in sites] == ["linear"]
    assert unit.macs == 6 * 20 * 8
    path = tmp_path / "model.safetensors"
    save_packed(path, result.graph, result.assignment)
    packed = load_packed(path)
    assert not any(name.endswith(("tokens.weight", "head.weight")) for name in packed.rest)
    again = stitch(result.graph, packed.assignment)
    batch = {"tokens": ids()}
    assert torch.equal(first_tensor(again(**batch)), first_tensor(result.model(**batch)))


def test_a_product_with_a_transposed_weight_is_a_linear_layer(tied):
    unit = tied[0].graph.unit("upright")
    assert (unit.kind, unit.weight, unit.channel_axis) == ("linear", "upright.weight", 0)


def test_aliases_of_one_tensor_are_one_unit():
    """Two attributes with one storage, which torch.export may keep as two names."""
    net = Positions().eval()
    net.head = nn.Linear(8, 20, bias=False)
    net.head.register_buffer("table", net.tokens.weight.detach())
    net.head.forward = lambda x: nn.functional.linear(x, net.head.table)
    graph = capture(net, {"tokens": ids()})
    assert len(graph.units) == 4
    assert max(len(unit.calls) for unit in graph.units) == 2


class Standardised(nn.Module):
    """A weight that is computed from a parameter in several steps, as in BiT."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.table = nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        w = self.conv.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        y = nn.functional.conv2d(x, w, self.conv.bias, padding="same").mean((2, 3))
        return y @ torch.softmax(self.table * 2.0, 0)


def test_a_computed_weight_has_its_parameters_name(tmp_path):
    result, found = road(Standardised(), [torch.randn(4, 3, 8, 8)], tmp_path)
    assert [unit.name for unit in result.graph.units] == ["conv", "table"]
    assert len(found["units"]) == 2


class Masked(nn.Module):
    """Scores with a mask, under a target that quantises sums."""

    def __init__(self, far):
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        self.far = far

    def forward(self, x, mask):
        scores = self.first(x) + torch.where(mask, torch.zeros_like(x), self.far)
        return self.last(torch.softmax(scores, -1))


@pytest.mark.parametrize("far", [torch.finfo(torch.float32).min, -float("inf")])
def test_masks_never_reach_a_grid(far):
    inputs = (torch.randn(4, 8), torch.arange(8).expand(4, 8) < 5)
    graph = capture(Masked(far).eval(), inputs)
    sites = find_sites(graph, load_target("ort-cpu"))
    seen = observe(graph, [inputs], {site.root for site in sites})
    assert seen.notes
    assert all(s.minmax.hi - s.minmax.lo < 100 for s in seen.stats.values())
    net = Masked(far).eval()
    result = bw.quantize(net, [inputs], recipe="fixed", scheme="w8a8", target="ort-cpu")
    assert relative_difference(net(*inputs), result.model(*inputs)) < 0.1


def test_assertions_of_the_exporter_are_dropped():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x.to(torch.float32).to(x.device))

    graph = capture(Casts().eval(), (torch.randn(2, 4),))
    assert not [n for n in graph.module.graph.nodes if "_assert" in str(n.target)]


class Einsums(nn.Module):
    """XLNet's products, and an integer mask subtracted from a number."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.randn(8, 2, 3))
        self.out = nn.Parameter(torch.randn(8, 2, 3))

    def forward(self, x, mask):
        y = torch.einsum("ibh,hnd->nbid", x, self.query)
        y = torch.tanh(y) * (1.0 - mask)[..., None, None]
        return torch.einsum("hnd,nbid->bih", self.out, y)


def test_einsum_with_a_stored_weight_is_a_unit(tmp_path):
    torch.manual_seed(0)
    net = Einsums()
    batch = (torch.randn(4, 3, 8), torch.zeros(2, 1, dtype=torch.int64))
    graph = capture(net.eval(), batch)
    assert {(u.name, u.kind, u.shape) for u in graph.units} == {
        ("query", "linear", (6, 8)),
        ("out", "linear", (8, 6)),
    }
    assert not [n for n in graph.module.graph.nodes if "einsum" in str(n.target)]
    other = (torch.randn(4, 3, 8), torch.ones(2, 1, dtype=torch.int64) * 3)
    assert relative_difference(net(*other).detach(), graph.module(*other).detach()) < 1e-6
    plain = nn.Sequential(nn.Linear(3, 3))
    plain.forward = lambda x, mask: plain[0](x) * (1.0 - mask)
    _, found = road(plain, [(torch.randn(4, 3), torch.ones(4, 3, dtype=torch.int64))], tmp_path)
    assert found["passed"]


class Rows(nn.Module):
    """LeViT's batch-norm over the joined rows of a sequence."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        y = self.linear(x)
        return self.norm(y.flatten(0, 1)).reshape_as(y)


def test_a_batch_norm_over_joined_rows_is_folded():
    net = trained_looking(Rows())
    x = torch.randn(4, 3, 6)
    graph = capture(net, (x,))
    assert set(graph.folded) == {"linear"} and not graph.notes
    assert relative_difference(net(x).detach(), graph.module(x).detach()) < 1e-6


def test_a_batch_norm_over_a_sequence_is_not_folded_into_its_rows():
    """BatchNorm1d of (N, C, L): the linear layer's channels are L, not C."""

    class Wrong(Rows):
        def forward(self, x):
            return self.norm(self.linear(x))

    net = trained_looking(Wrong())
    assert not capture(net, (torch.randn(4, 5, 6),)).folded
