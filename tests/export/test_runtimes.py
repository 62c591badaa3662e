"""One protocol over runtimes: the same file, the same answers, one kind of refusal."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.errors import InputError
from bitwright.export.runtimes import (
    RUNTIMES,
    RuntimeRefusal,
    find_runtime,
    is_installed,
    list_installed,
    require_runtime,
)

IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request):
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return find_runtime(request.param)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    ).eval()  # fmt: skip
    result = bw.quantize(
        net, [IMAGES], recipe="fixed", scheme="w8a8", target="ort-cpu", method="nearest"
    )
    path = tmp_path_factory.mktemp("runtimes") / "net.onnx"
    result.export(path)
    return path, result.model(IMAGES).detach().numpy()


@pytest.mark.parametrize("optimized", [True, False])
def test_a_file_gives_the_simulations_answers(runtime, written, optimized):
    path, expected = written
    for model in (path, path.read_bytes()):
        loaded = runtime.load(model, optimized, threads=1)
        (got,) = loaded.run({loaded.inputs[0]: IMAGES.numpy()})
        assert np.abs(got - expected).max() <= 0.01 * np.abs(expected).max()
    kept = got.copy()
    loaded.run({loaded.inputs[0]: np.zeros_like(IMAGES.numpy())})
    assert np.array_equal(got, kept)  # a later run does not write into what was handed out


def test_what_cannot_be_loaded_or_run_is_one_error(runtime, written):
    with pytest.raises(RuntimeRefusal) as refused:
        runtime.load(b"no network at all")
    assert 0 < len(str(refused.value)) <= 300 and "\n" not in str(refused.value)
    path, _ = written
    loaded = runtime.load(path)
    with pytest.raises(RuntimeRefusal):
        loaded.run({loaded.inputs[0]: np.zeros((1, 2, 3, 4), np.float32)})


def test_floats_of_the_judged_file_have_32_bits(written):
    """On processors with bfloat16 OpenVINO computes in it unless told otherwise."""
    if not is_installed("openvino"):
        pytest.skip("openvino is not installed")
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
    rows = torch.randn(32, 64)
    result = bw.quantize(net.eval(), [rows], recipe="fixed", scheme="float", method="nearest")
    path = written[0].with_name("float.onnx")
    result.export(path)
    loaded = find_runtime("openvino").load(path)
    (got,) = loaded.run({loaded.inputs[0]: rows.numpy()})
    expected = net(rows).detach().numpy()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_unknown_or_absent_runtime_has_a_remedy(monkeypatch):
    with pytest.raises(InputError, match="openvino"):
        find_runtime("openvin")
    assert "onnxruntime" in list_installed()
    monkeypatch.setattr(RUNTIMES["openvino"], "module", "a_package_that_nobody_has")
    with pytest.raises(InputError, match=r"pip install 'bitwright\[openvino\]'"):
        require_runtime("openvino")
    with pytest.raises(InputError, match="not installed"):
        find_runtime("openvino").load(b"")
    assert list_installed() == ["onnxruntime"]


def test_openvino_is_loaded_only_when_asked_for():
    code = (
        "import sys, bitwright.export.runtimes as r; r.is_installed('openvino');"
        "assert 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
