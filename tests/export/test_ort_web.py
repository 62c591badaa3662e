"""Files in the WASM build of ONNX Runtime, in node: every unit and the whole network."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from benchmarks.node import job_of, lacking, run_jobs

import bitwright as bw
from bitwright.export.onnx_file import unit_values
from bitwright.export.verify import _cut_out, _unit_sources
from bitwright.graph.custom_ops import MARK
from bitwright.graph.execute import walk
from bitwright.graph.model_graph import get_tensor
from bitwright.graph.simulate import stitch

IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))
FILES = (
    ("ort-web", "w8a8"), ("ort-web", "w4a8"), ("ort-web", "w2a8"), ("ort-cpu", "w8a8"),
    ("ort-linear", "w4a8"), ("ort-dynamic", "w8a8"), ("openvino", "w4a8"),
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(lacking()), reason=f"no ONNX Runtime in node: {lacking()}"),
]


class Network(torch.nn.Module):
    """Convolutions, a sum and linear layers."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.deep = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.flat = torch.nn.Linear(8, 32)
        self.last = torch.nn.Linear(32, 5)

    def forward(self, x):
        found = torch.relu(self.first(x))
        found = (found + self.deep(found)).mean((2, 3))
        return self.last(torch.nn.functional.gelu(self.flat(found)))


def units_of(model, marked):
    """Each unit as a file of its own, with the simulation's input and result."""
    places, whole, sources = unit_values(model), ir.from_proto(model), _unit_sources(marked)
    values = {n: get_tensor(marked, str(n.target)) for n in sources.values() if n.op == "get_attr"}
    found = []

    def visit(node, value):
        if node in sources.values():
            values[node] = value
        if node.target is MARK and str(node.args[1]) in places:
            start, end = places[str(node.args[1])]
            given = values[sources[node]].numpy()
            part = _cut_out(whole, start, end, ir.DataType.from_numpy(given.dtype))
            found.append((str(node.args[1]), part, {start: given}, value.numpy()))

    walk(marked, (IMAGES[:4],), visit)
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What node computes of every file and of every unit, beside the simulation: one process."""
    folder = tmp_path_factory.mktemp("web")
    torch.manual_seed(0)
    net, jobs, expected = Network().eval(), [], []
    for target, scheme in FILES:
        result = bw.quantize(
            net, [IMAGES], recipe="fixed", scheme=scheme, target=target, method="nearest"
        )
        path = result.export(folder / "net.onnx")
        stem, model = f"{target}-{scheme}", onnx.load(str(path))
        name = model.graph.input[0].name
        for optimized in (True, False):
            feed = {name: IMAGES.numpy()}
            content = model.SerializeToString()
            jobs.append(job_of(folder, f"{stem}-{optimized}", content, feed, optimized))
            expected.append((target, scheme, "", result.model(IMAGES).detach().numpy()))
        marked = stitch(result.graph, result.assignment, marks=True)
        for unit, part, feed, want in units_of(model, marked):
            content = part.SerializeToString()
            jobs.append(job_of(folder, f"{stem}-{unit}", content, feed, False))
            expected.append((target, scheme, unit, want))
    found = [got for got, _ in run_jobs(folder, jobs)]
    return list(zip(expected, found, strict=True))


@pytest.mark.parametrize(("target", "scheme"), FILES)
def test_units_and_answers_are_as_simulated(ran, target, scheme):
    own = [(unit, want, got) for (t, s, unit, want), got in ran if (t, s) == (target, scheme)]
    assert {unit for unit, _, _ in own} == {"", "first", "deep", "flat", "last"}
    for unit, want, got in own:
        assert got.shape == want.shape
        tolerance = 1e-5 if unit else 1e-2  # end to end a rounding may tip a value over
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max(), unit
        assert unit or (got.argmax(1) == want.argmax(1)).mean() >= 0.99
