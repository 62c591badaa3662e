"""A folder that other libraries load: what lies in it, and what they make of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bitwright.cli.commands import run_export, run_quantize
from bitwright.engine.progress import Progress
from bitwright.errors import RunDirectoryError
from bitwright.pipeline.hub import describe_preprocess
from bitwright.sources.images import ImagePreprocess

transformers = pytest.importorskip("transformers", reason="the extra [text] is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
TEXTS = ["a b c d", "x y", "k l m n o p", "q r s"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of an encoder of one layer, and its folder."""
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("hub")
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    encoder = place / "encoder"
    transformers.BertModel(config).save_pretrained(encoder)
    (encoder / "vocab.txt").write_text("\n".join(WORDS))
    (encoder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    data = place / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS * 3))
    options = {"model": f"hf:{encoder}", "data": str(data), "target": "ort-linear"}
    run_quantize("fixed", options, place / "run", Progress())
    return place / "run", run_export(place / "run", hub=place / "hub")


def test_the_file_takes_no_room_of_its_own(made):
    run, hub = made
    onnx = run / "model.onnx"
    for name in ("onnx/model.onnx", "onnx/model_quantized.onnx"):
        assert (hub / name).samefile(onnx)
    card = (hub / "README.md").read_text()
    assert "agreement" in card and "ort-linear" in card
    modules = json.loads((hub / "modules.json").read_text())
    assert [part["path"] for part in modules] == ["", "1_Pooling"]
    assert (hub / "config.json").is_file() and (hub / "tokenizer.json").is_file()


def test_a_folder_that_holds_something_is_left_alone(made):
    run, hub = made
    with pytest.raises(RunDirectoryError, match="not empty"):
        run_export(run, hub=hub)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_sentence_transformers_gives_the_runs_embeddings(made, backend):
    package = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed"
    )
    pytest.importorskip(
        "optimum.onnxruntime" if backend == "onnx" else "optimum.intel",
        reason="optimum's loaders are not installed",
        exc_type=ImportError,
    )
    run, hub = made
    from bitwright.pipeline.runs import load

    encoder = package.SentenceTransformer(str(hub), backend=backend)
    tokens = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = load(run)(**tokens)["last_hidden_state"]
    mask = tokens["attention_mask"].unsqueeze(-1)
    wanted = ((states * mask).sum(1) / mask.sum(1)).numpy()
    assert np.abs(encoder.encode(TEXTS) - wanted).max() < 1e-2 * np.abs(wanted).max()


def test_preprocessing_is_said_as_transformers_says_it():
    pre = ImagePreprocess((224, 224), (0.5,) * 3, (0.25,) * 3, crop=0.875, keep_aspect=True)
    said = describe_preprocess(pre)
    assert said["size"] == {"shortest_edge": 256}
    assert said["crop_size"] == {"height": 224, "width": 224}
    assert said["image_mean"] == [0.5] * 3 and said["image_std"] == [0.25] * 3


@pytest.mark.parametrize(
    "how", [{}, {"crop": None}, {"keep_aspect": False}, {"interpolation": "bilinear"}]
)
def test_transformers_prepares_a_picture_as_the_run_did(tmp_path, how):
    """32 / 0.875 is 36.57: the side that is resized to must be counted alike, 36."""
    pre = ImagePreprocess((32, 32), (0.5,) * 3, (0.25,) * 3, **how)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(describe_preprocess(pre)))
    pixels = np.random.default_rng(0).integers(0, 256, (47, 61, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    got = processor(image, return_tensors="pt")["pixel_values"][0]
    assert float((got - pre(image)).abs().max()) < 1e-5
