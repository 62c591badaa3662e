"""Files of other producers solved again in place: judged by ONNX Runtime on samples held out."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from bitwright import cli
from bitwright.errors import DataError, InputError
from bitwright.pipeline import mend_file
from bitwright.pipeline.mend_file import FileAgreement, mend
from two_files import SIZE, Reader, network, stored, write_all

KINDS = quantization.QuantType
FORMS = {
    "qdq_channels": {"per_channel": True},
    "qdq_tensors": {"per_channel": False},
    "integers": {"per_channel": True, "quant_format": quantization.QuantFormat.QOperator},
    "seven_bits": {"per_channel": True, "reduce_range": True},
    "four_bits": {"per_channel": True, "weight_type": KINDS.QInt4},
}


def many(count: int = 256) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_all(tmp_path_factory.mktemp("mend"))
    np.savez(made / "many.npz", image=many())
    for name, options in FORMS.items():
        quantization.quantize_static(
            str(made / "prepared.onnx"), str(made / f"{name}.onnx"), Reader(),
            **{"activation_type": KINDS.QUInt8, "weight_type": KINDS.QInt8} | options,
        )  # fmt: skip
    return made


def mended(folder, name, tmp_path):
    out = tmp_path / "mended.onnx"
    data = str(folder / "many.npz")
    return mend(folder / f"{name}.onnx", data, folder / "float.onnx", out), out


def form_of(model: onnx.ModelProto):
    stored = [(t.name, t.data_type, tuple(t.dims)) for t in model.graph.initializer]
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.initializer[:]
    return stored, rest.SerializeToString(deterministic=True)


def outputs(path, images):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


@pytest.mark.parametrize("name", FORMS)
def test_only_stored_numbers_change_and_the_file_is_nearer_to_float(folder, tmp_path, name):
    found, out = mended(folder, name, tmp_path)
    assert form_of(onnx.load(folder / f"{name}.onnx")) == form_of(onnx.load(out))
    assert found.changed and [unit.left for unit in found.units] == [""] * 4
    assert found.after.agreement >= found.before.agreement
    assert found.after.difference < 0.9 * found.before.difference
    # On samples that neither learnt from nor judged by.
    fresh = np.random.default_rng(77).standard_normal((64, 3, SIZE, SIZE)).astype(np.float32)
    true = outputs(folder / "float.onnx", fresh)
    before, after = (
        np.linalg.norm(outputs(path, fresh) - true) for path in (folder / f"{name}.onnx", out)
    )
    assert after < before


def test_seven_bits_stay_seven_bits(folder, tmp_path):
    """What a producer keeps free for processors without VNNI stays free."""
    _, out = mended(folder, "seven_bits", tmp_path)
    for tensor in onnx.load(out).graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
            assert np.abs(numpy_helper.to_array(tensor).astype(int)).max() <= 64


def test_biases_stay_multiples_of_both_scales(folder, tmp_path):
    _, out = mended(folder, "qdq_channels", tmp_path)
    model = onnx.load(out)
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    maker = {n.output[0]: n for n in model.graph.node}
    checked = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3:
            x, w, b = (held[maker[name].input[1]] for name in node.input)
            assert np.allclose(b, (x * w).reshape(b.shape), rtol=1e-6)
            checked += 1
    assert checked == 3


def test_the_same_file_again_and_again(folder, tmp_path):
    _, out = mended(folder, "four_bits", tmp_path)
    first = out.read_bytes()
    _, again = mended(folder, "four_bits", tmp_path)
    assert again.read_bytes() == first


def test_never_worse(folder, tmp_path, monkeypatch):
    """Where the samples held out find no gain the original bytes are written, and that is said."""
    told = iter([(1.0, 0.01), (0.9, 0.005), (1.0, 0.02)])
    monkeypatch.setattr(
        mend_file, "judge_against",
        lambda *_: FileAgreement(**dict(zip(("agreement", "difference"), next(told), strict=True)),
                                 samples=9),
    )  # fmt: skip
    found, out = mended(folder, "qdq_tensors", tmp_path)
    assert not found.changed and found.after == found.before
    assert out.read_bytes() == (folder / "qdq_tensors.onnx").read_bytes()
    assert "the bytes are the original's" in " ".join(found.notes)


def test_a_producer_that_quantises_float_weights_at_load(folder, tmp_path):
    """Weights stored as floats behind a QuantizeLinear, as NNCF writes them."""
    model = onnx.load(folder / "seven_bits.onnx")
    held = {t.name: t for t in model.graph.initializer}
    for node in [n for n in model.graph.node if n.op_type == "DequantizeLinear"]:
        tensor = held.get(node.input[0])
        if tensor is None or tensor.data_type != TensorProto.INT8:
            continue
        scale = numpy_helper.to_array(held[node.input[1]])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        shape = [1] * len(tensor.dims)
        shape[axis] = -1
        floats = numpy_helper.to_array(tensor).astype(np.float32) * scale.reshape(shape)
        made = numpy_helper.from_array(floats.astype(np.float32), tensor.name)
        tensor.CopyFrom(made)
        quantizer = helper.make_node(
            "QuantizeLinear", list(node.input), [f"{node.name}.q"], axis=axis, name=f"{node.name}.Q"
        )
        index = list(model.graph.node).index(node)
        model.graph.node[index].input[0] = f"{node.name}.q"
        model.graph.node.insert(index, quantizer)
    onnx.save(model, tmp_path / "late.onnx")
    found = mend(
        tmp_path / "late.onnx", str(folder / "many.npz"), folder / "float.onnx",
        tmp_path / "out.onnx",
    )  # fmt: skip
    assert found.changed and found.after.difference < 0.9 * found.before.difference
    assert form_of(model) == form_of(onnx.load(tmp_path / "out.onnx"))


def test_units_with_values_of_their_own_are_left(folder, tmp_path):
    """A unit that the float network has not is left, and told."""
    other = network()
    other.graph.node[4].op_type = "Relu"  # "right" is none there
    del other.graph.node[4].input[1:], other.graph.node[4].attribute[:]
    onnx.save(other, tmp_path / "other.onnx")
    found = mend(
        folder / "qdq_channels.onnx", str(folder / "many.npz"), tmp_path / "other.onnx",
        tmp_path / "out.onnx",
    )  # fmt: skip
    assert {unit.name: unit.left for unit in found.units}["right"]
    assert any("left as they are" in note for note in found.notes)


def test_what_cannot_be_mended_is_said(folder, tmp_path):
    data, out = str(folder / "many.npz"), tmp_path / "out.onnx"
    with pytest.raises(InputError, match="needs the float network, by --float"):
        mend(folder / "qdq_channels.onnx", data, None, out)
    with pytest.raises(InputError, match="no quantised operator"):
        mend(folder / "float.onnx", data, folder / "float.onnx", out)
    (tmp_path / "half.onnx").write_bytes((folder / "integers.onnx").read_bytes()[:900])
    with pytest.raises(InputError, match=r"half\.onnx"):
        mend(tmp_path / "half.onnx", data, folder / "float.onnx", out)
    np.savez(tmp_path / "few.npz", image=many(6))
    with pytest.raises(InputError, match="give 16 or more"):
        mend(folder / "qdq_channels.onnx", str(tmp_path / "few.npz"), folder / "float.onnx", out)
    np.savez(tmp_path / "odd.npz", image=np.zeros((20, 3, 5, 5), np.float32))
    with pytest.raises(DataError, match="takes image as"):
        mend(folder / "qdq_channels.onnx", str(tmp_path / "odd.npz"), folder / "float.onnx", out)
    assert not out.exists()


def command(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["bitwright", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    words = ["mend", folder / "four_bits.onnx", "--data", folder / "many.npz",
             "--float", folder / "float.onnx", "--out", tmp_path / "m.onnx"]  # fmt: skip
    assert command(monkeypatch, *words) == 0
    told = capsys.readouterr().out
    assert "the same nodes, types and names" in told and "agreement" in told
    assert command(monkeypatch, *words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    assert command(monkeypatch, "mend", folder / "four_bits.onnx") == 2
    assert "no --data" in capsys.readouterr().err


def test_the_test_network_is_the_one_of_the_files():
    assert set(stored()) >= {"w1", "w2", "w3", "wf"}
