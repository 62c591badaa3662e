"""The whole job from Python: save, load, and the same bytes for the same request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitwright as bw
from bitwright.engine.progress import Progress
from bitwright.errors import DataError, InputError, ModelError, RecipeError, RunDirectoryError
from bitwright.tuning.catalogue import ABOUT
from networks import (
    Chain,
    SmallNet,
    TwoTowers,
    normal,
    pictures,
    seeded,
    small_network,
    trained_looking,
)

FILES = {
    "recipe.toml", "census.json", "table.csv", "allocation.json", "metrics.json",
    "model.safetensors", "model.onnx", "verify.json", "report.html", "log.jsonl",
    "manifest.json",
}  # fmt: skip
IMAGES = pictures(48)


network = small_network


@pytest.fixture(scope="module")
def result():
    return bw.quantize(network(), [IMAGES], recipe="fixed", scheme="w4a8", target="ort-cpu")


@pytest.fixture(scope="module")
def run(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("runs") / "deep" / "run").path


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_run_directory_is_complete(run):
    assert {p.name for p in run.iterdir()} == FILES


def test_load_gives_the_same_bits(run, result):
    with torch.no_grad():
        want = result.model(IMAGES)
        assert torch.equal(bw.load(run, model=network())(IMAGES), want)
        # Only the structure of the network is taken: any other weights do.
        assert torch.equal(bw.load(str(run), model=network(5))(IMAGES), want)


def test_load_of_what_it_cannot(run):
    with pytest.raises(RunDirectoryError, match=r"names no MODEL.*load\(RUN, model=net\)"):
        bw.load(run)
    other = small_network(width=8)
    with pytest.raises(RunDirectoryError, match="belongs to another network: its unit 'stem'"):
        example = other
        example.example_inputs = (IMAGES[:2],)
        bw.load(run, model=example)


def test_load_notices_another_road_through_the_same_layers(run):
    class Other(SmallNet):
        def forward(self, x):
            x = torch.tanh(self.stem_bn(self.stem(x)))
            x = self.project(torch.tanh(self.depthwise_bn(self.depthwise(x))))
            return self.head(torch.tanh(self.grouped(x)).mean((2, 3)))

    other = trained_looking(seeded(Other))
    other.example_inputs = (IMAGES[:2],)
    with pytest.raises(RunDirectoryError, match=r"another network: it quantises the edge relu ->"):
        bw.load(run, model=other)


def test_the_same_request_gives_the_same_bytes(run, tmp_path):
    again = bw.quantize(network(), [IMAGES], recipe="fixed", scheme="w4a8", target="ort-cpu")
    other = again.save(tmp_path / "run", verify=False).path
    for name in ("model.safetensors", "model.onnx", "recipe.toml", "census.json"):
        assert sha(other / name) == sha(run / name), name


@pytest.mark.parametrize(
    "data",
    [
        [IMAGES[:1], IMAGES[1:30], IMAGES[30:]],
        IMAGES,
        [(IMAGES, torch.zeros(48, dtype=torch.int64))],
        DataLoader(TensorDataset(IMAGES), batch_size=7),
        lambda: (part for part in torch.split(IMAGES, 11)),
    ],
    ids=["uneven", "tensor", "labelled", "loader", "generator"],
)
def test_the_loaders_batches_do_not_matter(result, data):
    other = bw.quantize(network(), data, recipe="fixed", scheme="w4a8", target="ort-cpu")
    with torch.no_grad():
        assert torch.equal(other.model(IMAGES), result.model(IMAGES))
    ours, theirs = result.assignment.edges, other.assignment.edges
    assert all(torch.equal(ours[key].scale, theirs[key].scale) for key in ours)


def test_calib_limits_the_samples():
    whole = bw.quantize(network(), [IMAGES], recipe="fixed", calib=20)
    part = bw.quantize(network(), [IMAGES[:20]], recipe="fixed")
    assert whole.census["calibration_samples"] == 20
    assert (
        bw.quantize(network(), [IMAGES], recipe="fixed", calib=0).census["calibration_samples"]
        == 48
    )
    with torch.no_grad():
        assert torch.equal(whole.model(IMAGES), part.model(IMAGES))


def test_the_network_is_left_alone():
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    bw.quantize(net, [IMAGES], recipe="fixed", scheme="w2a2")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_what_a_result_holds(result):
    assert isinstance(result.model, nn.Module)
    assert [row.unit for row in result.table.rows] == [u.name for u in result.graph.units]
    assert set(result.allocation["choices"]) == {u.name for u in result.graph.units}
    assert 0.7 <= result.metrics["agreement"] <= 1.0 and result.metrics["samples"] == 48
    assert result.metrics["evaluated_on"] == "calibration data"
    assert [s.name for s in result.progress.stages][:2] == ["capture", "observe"]
    assert all(0 <= error < 0.1 for error in result.errors.values())


def test_evaluation_data_are_measured():
    net = network()
    with torch.no_grad():
        labels = net(IMAGES).argmax(1)
    found = bw.quantize(net, [IMAGES], recipe="fixed", evaluation=[(IMAGES, labels)]).metrics
    assert found["float"] == {"top1": 1.0} and found["quantized"]["top1"] > 0.8
    assert found["evaluated_on"] == "evaluation data"
    with pytest.raises(DataError, match="needs integer class labels"):
        bw.quantize(net, [IMAGES], recipe="fixed", evaluation=[IMAGES])


def test_fewer_bits_agree_less():
    scores = [
        bw.quantize(network(), [IMAGES], recipe="fixed", scheme=scheme).metrics["relative_noise"]
        for scheme in ("w8a8", "w5a8", "w3a8", "w2a8")
    ]
    assert scores == sorted(scores) and scores[0] < 0.01 < scores[-1]


def test_the_table_counts_what_is_quantised():
    result = bw.quantize(network(), [IMAGES], recipe="fixed", scheme="w4a8", keep="head=float")
    rows = {row.unit: row for row in result.table.rows}
    # Beside its weights and scales, each unit has a share of the rest of the file.
    share = rows["stem"].weight_bits - (432 * 4 + 16 * (32 + 4))
    assert share > 0 and rows["head"].weight_bits == 320 * 32 + share
    assert rows["stem"].bops == 432 * 256 * 4 * 8
    assert rows["head"].bops == 320 * 1024
    assert rows["head"].method == "float" and rows["stem"].method == "nearest"
    measured = result.measured()
    total = sum(row.macs for row in rows.values()) * 1024
    assert measured["bops_ratio"] == pytest.approx(sum(r.bops for r in rows.values()) / total)


def test_inputs_that_stay_float_are_not_counted_as_quantised():
    result = bw.quantize(network(), [IMAGES], recipe="fixed", scheme="w4a8", target="weights-only")
    assert {row.choice.a_bits for row in result.table.rows} == {0}
    assert result.measured()["bops_ratio"] == pytest.approx(4 / 32)
    assert result.assignment.edges == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "w2a2 by nearest rounding is too coarse here. Keep the first and last unit finer"),
        (
            {"tune": "brecq", "keep": "first=w8a8"},
            "w2a2 by nearest rounding and brecq is too coarse here. Use more bits",
        ),
    ],
)
def test_poor_agreement_is_said_with_a_remedy(monkeypatch, options, said):
    # Twenty steps of BRECQ leave two bits as coarse as its thousand do.
    monkeypatch.setitem(ABOUT, "brecq", replace(ABOUT["brecq"], settings={"iterations": 20}))
    events = []
    progress = Progress([events.append])
    bw.quantize(
        network(), [IMAGES], scheme="w2a2", progress=progress, **{"recipe": "fixed", **options}
    )
    notes = [e.text for e in events if e.kind == "note"]
    assert any("answers agree" in n and said in n for n in notes)


def test_saving_twice_and_over_another_run(result, run, tmp_path):
    result.save(run, verify=False)  # the same run: written again
    other = bw.quantize(network(), [IMAGES], recipe="fixed", scheme="w8a8")
    with pytest.raises(RunDirectoryError, match="already holds another run"):
        other.save(run)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match=r"is not empty and holds no run.*notes.txt"):
        other.save(tmp_path)


def test_the_log_of_a_run_from_python(run):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    stages = [e["stage"] for e in entries if e["kind"] == "end"]
    assert {"capture", "observe", "solve", "stitch", "evaluate", "export"} <= set(stages)


def test_several_outputs_and_keywords_go_the_whole_road(tmp_path):
    batch = {"second": normal(40, 6, seed=1), "first": normal(40, 4)}
    result = bw.quantize(seeded(TwoTowers).eval(), [batch], recipe="fixed", scheme="w8a8")
    assert result.metrics["agreement"] > 0.9
    with torch.no_grad():
        assert set(result.model(**batch)) == {"hidden", "logits"}


def test_batches_without_labels_that_are_tuples():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(6, 3)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    result = bw.quantize(seeded(Two).eval(), [(normal(20, 4), normal(20, 6))], recipe="fixed")
    with torch.no_grad():
        assert result.model(normal(3, 4), normal(3, 6)).shape == (3, 3)


# ---- wrong requests --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "data", "options", "error", "message"),
    [
        (network, [IMAGES], {"schema": "w4a4"}, RecipeError, "unknown recipe key 'schema'"),
        (network, [IMAGES], {"scheme": "w1a1"}, RecipeError, "1 weight bits"),
        (network, [IMAGES], {"keep": "nothing=w8a8"}, RecipeError, "matches no unit"),
        (network, [IMAGES], {"recipe": "best"}, RecipeError, "unknown recipe 'best'"),
        (network, [], {}, DataError, "the data"),
        (network, None, {}, DataError, "does not say what its inputs are like"),
        (network, [IMAGES.int()], {}, InputError, r"int32 \[2, 3, 16, 16\]"),
        (network, [IMAGES * float("nan")], {}, DataError, "NaN or infinite"),
        (lambda: Chain(nn.ReLU()).eval(), [IMAGES], {}, RecipeError, "nothing to quantise"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_wrong_requests(make, data, options, error, message):
    with pytest.raises(error, match=message):
        bw.quantize(make(), data, **{"recipe": "fixed", **options})


def test_weights_that_are_not_finite():
    net = network()
    net.head.weight.data[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"1 of 320 values of parameter 'head.weight' of SmallNet"):
        bw.quantize(net, [IMAGES], recipe="fixed")
