"""Sentence encoders down the whole road: padding is nothing, every size runs, pairs are ranked."""

from __future__ import annotations

import json
import sys

import onnx
import onnxruntime as ort
import pytest
import torch

import bitwright as bw
from bitwright.cli import main
from bitwright.graph.answers import EMBEDDING

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="the extra [text] is not installed")


@pytest.fixture(scope="module")
def folder(transformers, tmp_path_factory):
    """An encoder of two layers with weights that matter, and its tokenizer."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("encoder")
    transformers.BertModel(config).save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(WORDS))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return place


@pytest.fixture(scope="module")
def encoder(transformers, folder):
    return transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def tokens(lengths, pad_to, filler=0):
    """Padded ids and their mask; `filler` stands where no token is."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.full((len(lengths), pad_to), filler)
    mask = torch.zeros_like(ids)
    for i, length in enumerate(lengths):
        ids[i, :length] = torch.randint(5, len(WORDS), (length,), generator=generator)
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


LENGTHS = [3, 9, 5, 9, 12, 4, 5, 9, 7, 3, 12, 6]


@pytest.mark.parametrize("method", ["nearest", "quadratic"])
def test_padding_changes_no_bit_of_the_result(encoder, method):
    """Masked positions enter no range, no sum and no loss, whatever stands there."""
    found = [
        bw.quantize(
            encoder, [tokens(LENGTHS, width, filler)], recipe="fixed", scheme="w4a4", method=method
        )
        for width, filler in ((12, 0), (30, 17))
    ]
    one, other = found
    assert one.metrics["kl"] == other.metrics["kl"]
    assert one.assignment.edges.keys() == other.assignment.edges.keys()
    for edge, grid in one.assignment.edges.items():
        assert float(grid.scale) == float(other.assignment.edges[edge].scale), edge
    for name, solved in one.assignment.weights.items():
        assert torch.equal(solved.q, other.assignment.weights[name].q), name


def test_every_batch_and_length_runs_in_onnxruntime(encoder, tmp_path):
    result = bw.quantize(encoder, [tokens(LENGTHS, 12)], recipe="fixed", scheme="w8a8")
    assert result.graph.answer.kind == EMBEDDING
    path = result.export(tmp_path / "model.onnx")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    for lengths, width in (([1], 1), ([1], 5), ([40], 40), ([3, 8], 8), ([2] * 7, 11)):
        batch = tokens(lengths, width)
        got = session.run(None, {k: batch[k].numpy() for k in names})[0]
        want = result.model(**batch).last_hidden_state
        for i, length in enumerate(lengths):
            near = torch.nn.functional.cosine_similarity(
                torch.from_numpy(got)[i, :length], want[i, :length], dim=-1
            )
            assert bool((near > 0.999).all()), (lengths, width)


def test_linear_layers_have_integer_kernels_that_give_floats(encoder, tmp_path):
    """Target ort-linear: no quantised sum is left between them, and the runtime fuses each."""
    result = bw.quantize(
        encoder, [tokens(LENGTHS, 12)], recipe="fixed", scheme="w8a8", target="ort-linear"
    )
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    path = result.export(tmp_path / "model.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(tmp_path / "fused.onnx").graph.node]
    # Six a layer; the pooler, on two axes, is a QGemm.
    assert kinds.count("MatMulIntegerToFloat") == 12 and kinds.count("QGemm") == 1
    assert not {"Gemm", "QLinearAdd", "MatMulInteger"} & set(kinds)
    # Attention's products stay in float.
    assert kinds.count("MatMul") + kinds.count("FusedMatMul") == 4


def test_the_command_ranks_pairs(folder, tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(3)

    def sentence():
        count = int(torch.randint(2, 9, (1,), generator=generator))
        places = torch.randint(0, 26, (count,), generator=generator).tolist()
        return " ".join(LETTERS[i] for i in places)

    rows = [{"sentence1": sentence(), "sentence2": sentence(), "score": i % 6} for i in range(24)]
    (tmp_path / "s.jsonl").write_text("\n".join(json.dumps({"text": sentence()}) for _ in "x" * 32))
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tmp_path / "run"
    words = [
        "bitwright", "quantize", f"hf:{folder}", "--data", str(tmp_path / "s.jsonl"),
        "--eval", str(tmp_path / "p.jsonl"), "--metric", "spearman", "--scheme", "w8a8",
        "--method", "quadratic", "--out", str(run), "--quiet",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["samples"] == 48 and metrics["answers"] == "embedding"
    assert 0.9 < metrics["agreement"] <= 1.0
    assert metrics["float"]["spearman"] == pytest.approx(metrics["quantized"]["spearman"], abs=0.1)
    assert json.loads((run / "verify.json").read_text())["passed"]
    assert "mean cosine with float" in (run / "report.html").read_text()
