"""The user's own export of a PyTorch network: the solution is written into it."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright import cli
from bitwright.errors import ModelError

FREE = ({0: torch.export.Dim.AUTO},)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)
        self.eval()

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = nn.functional.relu6(self.left(x) + self.right(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(3))


def export(net, images, path, new: bool):
    if new:
        torch.onnx.export(
            net, (images[:2],), path, dynamo=True, verbose=False, external_data=False,
            input_names=["pixels"], output_names=["logits"], dynamic_shapes=FREE,
        )  # fmt: skip
    else:
        torch.onnx.export(
            net, (images[:2],), path, dynamo=False, input_names=["pixels"], opset_version=14,
            output_names=["logits"], dynamic_axes={"pixels": {0: "many"}},
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("new", [True, False], ids=["new exporter", "old exporter"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_solution_is_in_the_users_file(tmp_path, images, new):
    net = Net()
    path = export(net, images, tmp_path / "mine.onnx", new)
    result = bw.quantize(
        net, [images], recipe="fixed", scheme="w8a8", target="ort-cpu", onnx=str(path)
    )
    before, after = onnx.load(path), onnx.load(result.export(tmp_path / "out.onnx"))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert [o.version for o in after.opset_import] == [o.version for o in before.opset_import]
    kept, names = [n.name for n in after.graph.node], [n.name for n in before.graph.node]
    lost = [n for n in names if n not in kept]
    assert [n for n in kept if n in names] == [n for n in names if n in kept]
    assert all("Norm" in n or "Identity" in n for n in lost), lost
    found = result.verify(tmp_path / "out.onnx")
    assert found.passed and set(found.units) == {"stem", "left", "right", "head"}


def test_the_same_solution_as_without(tmp_path, images):
    net = Net()
    path = export(net, images, tmp_path / "mine.onnx", True)
    with_it, without = (
        bw.quantize(net, [images], recipe="fixed", scheme="w4a8", target="ort-cpu", **more)
        for more in ({"onnx": str(path)}, {})
    )
    for name, solved in without.assignment.weights.items():
        assert torch.equal(with_it.assignment.weights[name].q, solved.q)


def test_the_export_of_other_weights_is_refused_by_its_first_unit(tmp_path, images):
    net, other = Net(), Net()
    with torch.no_grad():
        other.left.weight.mul_(1.5)
    path = export(other, images, tmp_path / "mine.onnx", True)
    with pytest.raises(ModelError, match="nothing in it computes what left"):
        bw.quantize(net, [images], recipe="fixed", scheme="w8a8", onnx=str(path))


def test_a_file_for_a_file_makes_no_sense(tmp_path, images):
    path = export(Net(), images, tmp_path / "mine.onnx", True)
    with pytest.raises(ModelError, match="MODEL is an ONNX file"):
        bw.quantize(str(path), [images], recipe="fixed", scheme="w8a8", onnx=str(path))


CODE = """
import torch
from test_own_export import Net

def net():
    return Net()

def data():
    return [torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(3))]
"""


def test_the_command_and_the_run(tmp_path, images, monkeypatch, capsys):
    path = export(Net(), images, tmp_path / "mine.onnx", True)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "code.py").write_text(CODE)
    words = ["quantize", f"{tmp_path}/code.py:net", "--data", f"{tmp_path}/code.py:data",
             "--recipe", "fixed", "--target", "ort-cpu", "--onnx", str(path),
             "--out", str(tmp_path / "run"), "--quiet"]  # fmt: skip

    def command(*given: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bitwright", *given])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    assert command(*words) == 0, capsys.readouterr()
    written = tmp_path / "run" / "model.onnx"
    assert [i.name for i in onnx.load(written).graph.input] == ["pixels"]
    content = written.read_bytes()
    assert command("export", str(tmp_path / "run")) == 0
    assert written.read_bytes() == content
    assert command("verify", str(tmp_path / "run")) == 0
