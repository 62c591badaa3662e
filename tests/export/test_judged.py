"""A target says who judges its files: the runtime, and the rules of one that cannot be asked."""

import json

import onnx
import pytest
import torch

import bitwright as bw
from bitwright.cli.commands import run_quantize
from bitwright.engine.progress import Progress
from bitwright.errors import InputError
from bitwright.export import judged
from bitwright.export.runtimes import RUNTIMES, is_installed
from bitwright.export.tensorrt_rules import Breach

ROWS = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.Flatten(), torch.nn.Linear(128, 4),
    ).eval()  # fmt: skip


def quantized(net, target, scheme="w8a8"):
    return bw.quantize(net, [ROWS], recipe="fixed", scheme=scheme, target=target, method="nearest")


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8", "w2a8", "w4afloat"])
def test_openvino_judges_its_own_files(net, scheme):
    if not is_installed("openvino"):
        pytest.skip("openvino is not installed (extra [openvino])")
    found = quantized(net, "openvino", scheme).verify()
    assert found["passed"] and found["unoptimized"]["agreement"] >= 0.99
    assert found["as_run"]["runtime"] == "OpenVINO" and found["as_run"]["agreement"] >= 0.99
    # Every unit, as written in ONNX Runtime and as it runs in OpenVINO.
    assert set(found["as_run"]["units"]) == set(found["units"]) == {"0", "2", "4"}
    assert max(found["as_run"]["units"].values()) <= 1e-5


def test_a_unit_that_the_runtime_computes_otherwise_fails(net, monkeypatch):
    if not is_installed("openvino"):
        pytest.skip("openvino is not installed (extra [openvino])")
    result = quantized(net, "openvino")
    monkeypatch.setattr(judged, "_run_units", lambda *_: {"0": 0.0, "2": 0.2})
    assert not result.verify()["passed"]


def test_rules_of_tensorrt_are_judged(net, monkeypatch, tmp_path):
    result = quantized(net, "tensorrt")
    found = result.verify()
    assert found["passed"] and found["rules"]["of"] == "tensorrt" and not found["rules"]["broken"]
    path = result.export(tmp_path / "net.onnx")
    model = onnx.load(str(path))
    gemm = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    gemm.domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(path))
    found = result.verify(path)
    assert not found["passed"]
    assert "com.microsoft" in found["rules"]["broken"][gemm.name]


def test_an_absent_runtime_is_told_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(RUNTIMES["openvino"], "module", "a_package_that_nobody_has")
    (tmp_path / "net.py").write_text("def net():\n    raise AssertionError('work was begun')\n")
    words = {"model": f"{tmp_path / 'net.py'}:net", "data": "none", "target": "openvino"}
    with pytest.raises(InputError, match=r"pip install 'bitwright\[openvino\]'"):
        run_quantize("fixed", words, tmp_path / "run", Progress())
    assert not (tmp_path / "run").exists()


def test_the_command_names_broken_rules(net, tmp_path, monkeypatch):
    monkeypatch.setattr(judged, "find_breaches", lambda _: [Breach("conv.q", "is wrong")])
    run = tmp_path / "run"
    quantized(net, "tensorrt").save(run)
    found = json.loads((run / "verify.json").read_text())
    assert found["rules"]["broken"] == {"conv.q": "is wrong"}
    assert not found["passed"]
