"""Two files on the same samples, end to end: against ONNX Runtime asked directly."""

from __future__ import annotations

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import bitwright as bw
from bitwright import cli
from bitwright.errors import DataError, InputError, RecipeError
from bitwright.latency.feeds import inputs_of
from bitwright.pipeline import file_values
from bitwright.pipeline.compare_files import CompareSettings
from bitwright.pipeline.file_data import read_file_data
from bitwright.report.compare_page import render_compare
from bitwright.sources.images import ImageOptions
from two_files import SIZE, network, samples, stored, write_all

QUICK = CompareSettings(turns=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("two"))


def run(path: Path, names: list[str], optimized: bool = False) -> list[np.ndarray]:
    """What ONNX Runtime gives of values of a file."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": samples()})


def relative(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.fixture(scope="module")
def found(folder):
    return bw.compare(folder / "float.onnx", folder / "qdq.onnx", str(folder / "data.npz"), QUICK)


def test_figures_are_those_of_onnx_runtime(folder, found):
    ours = {one.name: one for one in found.tensors}
    for name in ("right.out", "n2.out", "pool"):
        (a,), (b,) = run(folder / "float.onnx", [name]), run(folder / "qdq.onnx", [name])
        assert ours[name].difference == pytest.approx(relative(a, b), rel=1e-5)
        gap = np.abs(a - b).max() / np.abs(a).max()
        assert ours[name].worst == pytest.approx(float(gap), rel=1e-5)
        assert ours[name].sample == np.argmax(
            [relative(one, other) for one, other in zip(a, b, strict=True)]
        )
    (a,), (b,) = (run(folder / f"{n}.onnx", ["scores"], True) for n in ("float", "qdq"))
    assert found.outputs[0].difference == pytest.approx(relative(a, b), rel=1e-5)
    each = [relative(one, other) for one, other in zip(a, b, strict=True)]
    assert found.outputs[0].per_sample == pytest.approx(each, rel=1e-4)
    assert found.outputs[0].samples[0].index == int(np.argmax(each))
    assert found.outputs[0].agreement == np.mean(a.argmax(1) == b.argmax(1))


def test_a_quantisers_own_rounding(folder, found):
    before, after = run(folder / "qdq.onnx", ["pool", "pool_DequantizeLinear_Output"])
    ours = {one.name: one for one in found.tensors}
    assert ours["pool"].rounding == pytest.approx(relative(before, after), rel=1e-5)
    assert ours["image"].difference == 0 and ours["image"].rounding > 0
    assert found.begins == next(one.name for one in found.tensors if one.difference > 1e-4)


def test_a_changed_weight_is_where_the_difference_begins(folder, tmp_path):
    given = stored()
    given["w3"] = given["w3"] * 1.25
    onnx.save(network(given=given), tmp_path / "other.onnx")
    found = bw.compare(
        folder / "float.onnx", tmp_path / "other.onnx", str(folder / "data.npz"), QUICK
    )
    assert found.begins == "right.out" and found.grows[0] == "right.out"
    ours = {one.name: one for one in found.tensors}
    assert ours["right.out"].difference == pytest.approx(0.25, rel=1e-4)
    assert ours["left.out"].difference == 0


@pytest.mark.parametrize("form", ["integers", "dynamic", "prepared"])
def test_every_form_compares(folder, form):
    found = bw.compare(
        folder / "float.onnx", folder / f"{form}.onnx", str(folder / "data.npz"), QUICK
    )
    assert found.alone == ((), ())
    assert found.outputs[0].difference < (1e-5 if form == "prepared" else 0.05)
    assert max(one.difference for one in found.tensors) < 0.05
    if form == "prepared":
        assert found.begins is None and found.grows == ()


def test_small_groups_give_the_same_figures(folder, found, monkeypatch):
    """Values are looked at a few at a time; which are together changes nothing."""
    one_by_one = []
    monkeypatch.setattr(
        file_values, "load_tapped",
        lambda model, names, own=file_values.load_tapped: one_by_one.append(names) or
        own(model, names),
    )  # fmt: skip
    monkeypatch.setattr(file_values.group_tensors, "__defaults__", (1,))
    again = bw.compare(folder / "float.onnx", folder / "qdq.onnx", str(folder / "data.npz"), QUICK)
    assert again.tensors == found.tensors or again.to_json() == found.to_json()
    assert max(len(names) for names in one_by_one) <= 2


def test_both_are_timed_in_turns(folder):
    found = bw.compare(
        folder / "float.onnx", folder / "qdq.onnx", str(folder / "data.npz"),
        CompareSettings(turns=3),
    )  # fmt: skip
    assert found.times is not None and found.times.batch == 1
    assert found.times.low <= found.times.times <= found.times.high


# ---- data ------------------------------------------------------------------------------------


def test_pictures_have_the_inputs_own_size_and_layout(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{name}.png")
    onnx.save(network(), tmp_path / "first.onnx")
    last = network()
    last.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", 1, ["n", SIZE, SIZE, 3]))
    last.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]))
    last.graph.node[1].input[0] = "t"
    onnx.save(last, tmp_path / "last.onnx")

    stated = ImageOptions(mean=(0.5,), std=(0.5,))
    read = [
        read_file_data(
            inputs_of(onnx.load(tmp_path / f"{n}.onnx")), str(tmp_path / "pictures"), 8, stated
        )
        for n in ("first", "last")
    ]
    assert read[0].names == ("a.png", "b.png", "c.png")
    assert read[0].batches[0]["image"].shape == (3, 3, SIZE, SIZE)
    assert np.array_equal(
        read[0].batches[0]["image"], read[1].batches[0]["image"].transpose(0, 3, 1, 2)
    )


def test_random_inputs_only_when_asked_for_and_said_loudly(folder):
    pair = folder / "float.onnx", folder / "qdq.onnx"
    found = bw.compare(*pair, "random", QUICK)
    assert "made-up inputs" in found.notes[0] and found.samples == 32
    with pytest.raises(DataError, match="--data none"):
        bw.compare(*pair, "none", QUICK)


def test_a_fixed_batch_is_filled(folder, tmp_path):
    onnx.save(network(batch=5), tmp_path / "five.onnx")
    found = bw.compare(tmp_path / "five.onnx", folder / "qdq.onnx", str(folder / "data.npz"), QUICK)
    assert found.samples == 10 and len(found.outputs[0].per_sample) == 10
    np.savez(tmp_path / "few.npz", image=samples(3))
    with pytest.raises(DataError, match="holds 3 samples, and the file takes 5 at once"):
        bw.compare(tmp_path / "five.onnx", folder / "qdq.onnx", str(tmp_path / "few.npz"), QUICK)


@pytest.mark.parametrize(
    ("arrays", "error"),
    [
        ({"image": np.zeros((4, 3, 5, 5), np.float32)}, "takes image as .* gives .4, 3, 5, 5."),
        ({"other": np.zeros((4, 3), np.float32)}, "has no array 'x'"),
    ],
)
def test_data_of_another_network_are_refused(folder, tmp_path, arrays, error):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=error):
        bw.compare(folder / "float.onnx", folder / "qdq.onnx", str(tmp_path / "d.npz"), QUICK)


# ---- odd files -------------------------------------------------------------------------------


def test_not_a_number_is_infinitely_far(folder, tmp_path):
    given = stored()
    given["w3"] = np.full_like(given["w3"], np.nan)
    onnx.save(network(given=given), tmp_path / "nan.onnx")
    found = bw.compare(
        folder / "float.onnx", tmp_path / "nan.onnx", str(folder / "data.npz"),
        CompareSettings(turns=0, tolerance=0.5),
    )  # fmt: skip
    assert math.isinf(found.outputs[0].difference) and not found.passed
    assert "not finite" in render_compare(found)


def test_odd_files_get_a_sentence(folder, tmp_path):
    whole, data = (folder / "float.onnx").read_bytes(), str(folder / "data.npz")
    cyclic = network()
    cyclic.graph.node[0].input[0] = "r2"
    outside = network()
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    future = network()
    future.opset_import[0].version = 4000
    texts = {
        "truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not an onnx file",
        "cyclic": cyclic.SerializeToString(), "outside": outside.SerializeToString(),
        "future": future.SerializeToString(),
    }  # fmt: skip
    for name, content in texts.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(InputError) as told:
            bw.compare(folder / "float.onnx", tmp_path / f"{name}.onnx", data, QUICK)
        assert len(str(told.value)) < 600 and name in str(told.value)
    with pytest.raises(InputError, match="does not exist"):
        bw.compare(folder / "float.onnx", tmp_path / "absent.onnx", data, QUICK)
    with pytest.raises(RecipeError, match="tolerance"):
        CompareSettings(tolerance=math.nan)


# ---- the command and its page ----------------------------------------------------------------


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bitwright", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    words = ["compare", folder / "float.onnx", folder / "qdq.onnx", "--data", folder / "data.npz"]
    words += ["--repetitions", "2"]
    assert command(monkeypatch, *words, "--page", tmp_path / "c.html") == 0
    told = capsys.readouterr().out
    assert "The difference begins at" in told and "times as fast" in told and "wrote" in told
    assert (tmp_path / "c.html").read_text().startswith("<!DOCTYPE html>")
    assert command(monkeypatch, *words, "--tolerance", "1e-6", "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["passed"] is False and record["outputs"][0]["name"] == "scores"
    assert command(monkeypatch, *words, "--tolerance", "0.5", "--quiet") == 0


def test_the_command_says_what_is_not_there(folder, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, "compare", tmp_path, tmp_path / "none") == 2
    assert "runs alone, or files alone" in capsys.readouterr().err
    assert command(monkeypatch, "compare", folder / "float.onnx", folder / "qdq.onnx") == 2
    assert "--data random" in capsys.readouterr().err
    assert command(monkeypatch, "compare", folder / "float.onnx", "--data", "random") == 2


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"


def test_names_stay_text_in_the_page(folder, tmp_path):
    model = network()
    for node in model.graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = f"{HOSTILE}{name}" if name in ("r1", "scores") else name
        node.name = HOSTILE + node.name
    model.graph.output[0].name = f"{HOSTILE}scores"
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    onnx.save(model, tmp_path / "h.onnx")
    found = bw.compare(tmp_path / "h.onnx", folder / "qdq.onnx", str(folder / "data.npz"), QUICK)
    page = render_compare(found)
    tags = []

    class Page(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append(tag)
            assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    Page().feed(page)
    assert "script" not in tags and "img" not in tags and HOSTILE not in page
    assert "&lt;script&gt;" in page and "default-src 'none'" in page
