"""Files side by side: turns, figures, types, inputs, the command; no duration is asserted."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import onnx
import pytest
import torch
from onnx_files import WIDTH, float_file, foreign_file, integer_file

from bitwright.cli.bench_commands import BenchRequest, run_bench
from bitwright.cli.bench_words import bench_lines
from bitwright.engine.progress import Progress
from bitwright.errors import DataError, InputError, RecipeError
from bitwright.export.runtimes import ONNX_RUNTIME as ORT
from bitwright.export.runtimes import list_installed
from bitwright.latency.bench import BenchSettings, Quartiles, bench, take_turns
from bitwright.latency.feeds import feed_from, make_feed, parse_free, read_inputs
from bitwright.latency.subjects import find_subjects, is_float, with_feeds, with_float

FEW = BenchSettings((ORT,), repetitions=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("files")
    float_file(made / "plain.onnx")
    integer_file(made / "small.onnx")
    foreign_file(made / "foreign.onnx")
    integer_file(made / "alone.onnx", batch=1)
    return made


# ---- turns and figures -----------------------------------------------------------------------


def test_every_file_has_its_turn_and_each_turn_begins_with_another():
    called: list[str] = []
    clock = itertools.count()
    runs = {name: (lambda name=name: called.append(name)) for name in "abc"}
    found = take_turns(runs, 3, lambda: float(next(clock)))
    assert {name: len(taken) for name, taken in found.items()} == dict.fromkeys("abc", 3)
    # A run takes a second by this clock, and so is not repeated; one before it does not count.
    timed = called[-18:]
    assert "".join(timed) == "aabbcc" + "bbccaa" + "ccaabb"


def test_noise_is_about_two_standard_errors_of_a_median():
    random = np.random.default_rng(0)
    samples = random.normal(10, 1, (2000, 41))
    told = np.mean([Quartiles.of(list(row)).noise(41) for row in samples[:200]])
    assert told == pytest.approx(2 * np.median(samples, axis=1).std(), rel=0.1)


def test_ratios_are_of_one_turn(folder):
    files, _ = with_feeds(find_subjects([folder / "plain.onnx", folder / "small.onnx"]), (1, 4), {})
    found = bench(files, BenchSettings((ORT,), (1, 2), (1, 4), 3), "plain", profiled=False)
    assert len(found.rows) == 8
    for row in found.rows:
        assert row.ms.low <= row.ms.median <= row.ms.high
        assert row.throughput == pytest.approx(1000 * row.batch / row.ms.median)
        assert row.times.median > 0
    assert found.of("plain", ORT, 2, 4).times == Quartiles(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "option"), [({"threads": (0,)}, "threads"), ({"repetitions": 0}, "repetitions")]
)
def test_what_cannot_be_is_refused(values, option):
    with pytest.raises(RecipeError, match=f"--{option} 0 makes no sense"):
        BenchSettings((ORT,), **values)


# ---- types -----------------------------------------------------------------------------------


def test_what_ran_in_which_type(folder):
    files, _ = with_feeds(find_subjects([folder / "plain.onnx", folder / "small.onnx"]), (1,), {})
    found = bench(files, FEW)
    kinds = {
        (file, share.operator): share.type
        for (file, _), shares in found.operators.items()
        for share in shares
    }
    assert kinds["plain", "MatMul"] == "float"
    assert kinds["small", "QLinearMatMul"] == "uint8"
    for shares in found.operators.values():
        assert sum(share.share for share in shares) == pytest.approx(1)
    for load in found.loads:
        assert load.load_ms > 0 and math.isfinite(load.memory_mb)


def test_openvino_is_a_runtime_where_it_is_installed(folder):
    pytest.importorskip("openvino")
    assert "openvino" in list_installed()
    files, _ = with_feeds(find_subjects([folder / "plain.onnx", folder / "small.onnx"]), (1,), {})
    found = bench(files, BenchSettings(("openvino",), repetitions=2))
    kinds = {share.type for share in found.operators["small", "openvino"]}
    assert kinds & {"int8", "uint8"} and not any(row.error for row in found.rows)


def test_a_file_that_does_not_run_is_told_beside_those_that_do(folder):
    files, _ = with_feeds(find_subjects([folder / "plain.onnx", folder / "foreign.onnx"]), (1,), {})
    found = bench(files, FEW, profiled=False)
    assert found.of("plain", ORT).ms is not None and "Nobody" in found.of("foreign", ORT).error
    with pytest.raises(InputError, match=r"no file runs: foreign in onnxruntime: .*Nobody"):
        bench(files[1:], FEW)


# ---- files and inputs ------------------------------------------------------------------------


def test_float_is_taken_out_of_a_quantised_file(folder, tmp_path):
    every, reference, told = with_float(find_subjects([folder / "small.onnx"]), tmp_path)
    assert reference == "float" and [one.label for one in every] == ["float", "small"]
    assert is_float(onnx.load(str(every[0].path))) and "quantisers taken out" in told[0]
    both = find_subjects([folder / "small.onnx", folder / "plain.onnx"])
    assert with_float(both, tmp_path) == (both, "plain", ())


def test_labels_are_as_short_as_they_can_be(folder, tmp_path):
    other = integer_file(tmp_path / "small.onnx")
    assert [s.label for s in find_subjects([folder / "small.onnx"])] == ["small"]
    same = find_subjects([folder / "small.onnx", other])
    assert [s.label for s in same] == [str(folder / "small.onnx"), str(other)]
    twice = find_subjects([other, other])
    assert len({s.label for s in twice}) == 2
    with pytest.raises(InputError, match=r"no file '.*gone\.onnx'"):
        find_subjects([tmp_path / "gone.onnx"])


def test_inputs_have_the_shapes_of_the_file_and_free_sizes_are_told(tmp_path):
    inputs = read_inputs(write_tokens(tmp_path / "text.onnx"))
    feed, told = make_feed(inputs, 3, {})
    assert feed["ids"].shape == (3, 64) and feed["ids"].dtype == np.int64 and not feed["ids"].any()
    assert feed["attention_mask"].all()
    assert told == (
        "axis 'length' of ids is free: 64 is taken (--free)",
        "axis 'length' of attention_mask is free: 64 is taken (--free)",
    )
    feed, told = make_feed(inputs, 1, parse_free(["length=7"]))
    assert feed["ids"].shape == (1, 7) and told == ()
    with pytest.raises(RecipeError, match="is not NAME=SIZE"):
        parse_free(["length"])


def write_tokens(path):
    kinds = [("ids", ["batch", "length"]), ("attention_mask", ["batch", "length"])]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, shape)
        for name, shape in kinds
    ]
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["batch", "length"])
    node = onnx.helper.make_node("Mul", ["ids", "attention_mask"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values, [out])), path)
    return path


def test_given_samples_are_repeated_to_a_batch_and_named(folder):
    inputs = read_inputs(folder / "plain.onnx")
    rows = torch.arange(2.0 * WIDTH).reshape(2, WIDTH)
    expected = torch.cat([rows, rows])[:3].numpy()
    for given in (rows, (rows,), {"x": rows}):
        assert np.array_equal(feed_from(inputs, given, 3)["x"], expected)
    with pytest.raises(DataError, match="asks for the input 'x'"):
        feed_from(inputs, {"z": rows}, 1)


def test_a_file_of_one_sample_is_timed_at_that_alone_and_told(folder):
    subjects = find_subjects([folder / "alone.onnx", folder / "small.onnx"])
    files, told = with_feeds(subjects, (1, 8), {})
    assert [list(file.feeds) for file in files] == [[1], [1, 8]]
    assert told == ("alone takes a batch of 1 only: not timed at 8",)
    found = bench(files, BenchSettings((ORT,), batches=(1, 8), repetitions=1), profiled=False)
    assert [(row.file, row.batch) for row in found.rows] == [
        ("alone", 1), ("small", 1), ("small", 8),
    ]  # fmt: skip


# ---- the command -----------------------------------------------------------------------------


def test_the_command_beside_the_runtimes_own_quantiser(folder, tmp_path):
    asked = BenchRequest(runtimes=(ORT,), repetitions=2, beside=True, precise=True)
    page = tmp_path / "bench.html"
    record = run_bench([folder / "small.onnx"], asked, page, Progress())
    labels = [row["file"] for row in record["rows"]]
    assert labels == ["float", "small", "onnxruntime static", "onnxruntime dynamic"]
    ran = {(one["file"], one["operator"]) for one in record["operators"]}
    assert ("onnxruntime dynamic", "DynamicQuantizeMatMul") in ran
    assert ("onnxruntime static", "QLinearMatMul") in ran
    json.dumps(record)
    text = page.read_text()
    assert "<script" not in text and all(label in text for label in labels)
    told = "\n".join(bench_lines(record))
    assert "quantisers taken out" in told and "x float" in told and "QLinearMatMul (uint8)" in told


def test_the_command_line(bitwright, folder, tmp_path):
    out = tmp_path / "b.html"
    words = ("bench", folder / "small.onnx", "--runtime", ORT, "--repetitions", 2, "--out", out)
    done = bitwright(*words, "--json")
    assert done.code == 0 and json.loads(done.out)["page"] == str(out)
    for wrong, told in (
        (("--threads", "two"), "is no list of whole numbers"),
        (("--runtime", "tensorflow"), "unknown runtime"),
        (("--free", "x"), "is not NAME=SIZE"),
    ):
        done = bitwright(*words, *wrong)
        assert done.code == 2 and told in done.err
