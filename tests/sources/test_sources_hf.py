from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from bitwright.errors import DataError, ModelError
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model

transformers = pytest.importorskip("transformers", reason="the extra [text] is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bright", "dog", "##s", "ran", "."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    processor = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "resample": 3}
    processor |= {"image_std": [0.25] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_bert_with_its_head_and_eager_attention(bert):
    loaded = load_model(f"hf:{bert}")
    assert type(loaded.module).__name__ == "BertForSequenceClassification"
    assert loaded.module.config._attn_implementation == "eager"
    assert not loaded.module.training and loaded.trained
    inputs = loaded.example_inputs
    assert {"input_ids", "attention_mask"} <= inputs.keys()
    assert all(value.shape == (2, 16) for value in inputs.values())
    assert loaded.module(**inputs).logits.shape == (2, 2)


def test_texts_reach_the_network(bert, tmp_path):
    rows = [{"sentence1": "a bright dog", "sentence2": "dogs ran .", "label": "good"}]
    rows.append({"sentence1": "a", "sentence2": "a " * 40, "label": "bad"})
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load_model(f"hf:{bert}")
    (batch,) = load_data(str(tmp_path / "d.jsonl"), preprocess=loaded.preprocess)
    assert batch.inputs.keys() == loaded.example_inputs.keys()
    assert batch.inputs["input_ids"].shape == (2, 24)  # max_position_embeddings is the limit
    assert WORDS.index("dog") in batch.inputs["input_ids"][0]
    assert batch.labels.tolist() == [1, 0]
    assert loaded.module(**batch.inputs).logits.shape == (2, 2)


def test_vit_and_its_pictures(vit, tmp_path):
    from PIL import Image

    loaded = load_model(f"hf:{vit}")
    assert loaded.example_inputs["pixel_values"].shape == (2, 3, 32, 32)
    pre = loaded.preprocess
    assert (pre.size, pre.std, pre.crop, pre.interpolation) == (
        (32, 32),
        (0.25,) * 3,
        None,
        "bicubic",
    )
    Image.new("RGB", (40, 50), (255, 255, 255)).save(tmp_path / "a.png")
    (batch,) = load_data(str(tmp_path), preprocess=pre)
    assert torch.allclose(batch.inputs["pixel_values"], torch.tensor(2.0))
    assert loaded.module(**batch.inputs).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("config", "size", "crop", "keep"),
    [
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 56}, 56, 0.875, True),
        (
            {"size": {"height": 64, "width": 64}, "do_center_crop": True, "crop_size": 56},
            56,
            0.875,
            False,
        ),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, 64, 0.875, True),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, None, True),
        ({"size": 48}, 48, None, False),
    ],
)
def test_other_image_processors(vit, tmp_path, config, size, crop, keep):
    folder = shutil.copytree(vit, tmp_path / "net")
    config |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    pre = load_model(f"hf:{folder}").preprocess
    assert pre.size == (size, size) and pre.crop == crop and pre.keep_aspect is keep


def test_unclear_image_processors(vit, tmp_path):
    folder = shutil.copytree(vit, tmp_path / "net")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({"size": 32}))
    assert load_model(f"hf:{folder}").preprocess is None
    file.write_text(json.dumps({"size": {"edge": 3}}))
    with pytest.raises(ModelError, match=r"preprocessor_config.json cannot be understood: KeyErr"):
        load_model(f"hf:{folder}")
    file.unlink()
    assert load_model(f"hf:{folder}").preprocess is None


def test_weights_beside_the_folder(bert, tmp_path):
    folder = shutil.copytree(bert, tmp_path / "net")
    weights = (folder / "model.safetensors").rename(tmp_path / "w.safetensors")
    a = load_model(f"hf:{bert}").module.state_dict()
    b = load_model(f"hf:{folder}", weights).module.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(ModelError, match=r"loading 'hf:.*' failed|loading hf:.* failed"):
        load_model(f"hf:{folder}")


def test_missing_weights_are_not_made_up(bert, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(bert, tmp_path / "net")
    state = load_file(folder / "model.safetensors")
    del state["classifier.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit .*: 1 missing \(classifier.weight\)"):
        load_model(f"hf:{folder}")


def test_nothing_is_printed(bert, capfd):
    load_model(f"hf:{bert}")
    out, err = capfd.readouterr()
    assert out == "" and err == ""


def test_half_precision_weights_become_float(bert, tmp_path):
    folder = tmp_path / "half"
    load_model(f"hf:{bert}").module.half().save_pretrained(folder)
    assert load_model(f"hf:{folder}").module.classifier.weight.dtype == torch.float32


def test_wrong_folders(bert, tmp_path):
    with pytest.raises(ModelError, match=r"no folder .*Nothing is downloaded"):
        load_model("hf:bert-base-uncased")
    with pytest.raises(ModelError, match=r"holds no config.json"):
        load_model(f"hf:{tmp_path}")
    config = json.loads((bert / "config.json").read_text())
    for names, message in (([], "names no architecture"), (["MyNet"], "'MyNet' is not in transf")):
        config["architectures"] = names
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=message):
            load_model(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "architectures",
    ["BertModel", 5, [5], [None], {"a": 1}, [""], ["__init__"], ["AutoConfig"], ["logging"],
     ["BertConfig"], ["x\ny"], ["A" * 9999], [["BertModel"]], True, ["pipeline"],
     ["PreTrainedModel"]],
)  # fmt: skip
def test_odd_architectures(bert, tmp_path, architectures):
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
    with pytest.raises(ModelError) as caught:
        load_model(f"hf:{tmp_path}")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "changes",
    [{"max_position_embeddings": "x"}, {"vocab_size": 0}, {"id2label": 5}, {"model_type": 5}],
)
def test_odd_keys_of_a_configuration(bert, tmp_path, changes):
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    config = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match="failed"):
        load_model(f"hf:{tmp_path}")


def test_transformers_not_installed(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"needs transformers.*pip install 'bitwright\[text\]'"):
        load_model(f"hf:{bert}")


@pytest.fixture(scope="module")
def reader(bert, tmp_path_factory):
    """The same tokenizer with a head that marks answers."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(bert, folder, dirs_exist_ok=True)
    config = transformers.AutoConfig.from_pretrained(bert)
    transformers.BertForQuestionAnswering(config).save_pretrained(folder)
    return folder


def test_answers_are_marked_in_the_context(reader, tmp_path):
    row = {"question": "dogs ran", "context": "a Bright  dog .", "answers": [{"text": "dog"}]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    loaded = load_model(f"hf:{reader}")
    (batch,) = load_data(str(tmp_path / "q.jsonl"), preprocess=loaded.preprocess)
    (label,) = batch.labels
    marked = [row["context"][slice(*place)] for place in label["places"] if place]
    assert marked == ["a", "Bright", "dog", "."] and label["answers"] == ["dog"]
    ids = batch.inputs["input_ids"][0].tolist()
    assert [ids[i] for i, place in enumerate(label["places"]) if place] == [5, 6, 7, 10]
    assert len(label["places"]) == len(ids)


@pytest.mark.parametrize("answers", [["dog"], {"text": ["dog"]}, [{"text": "dog"}]])
def test_answers_in_every_form(reader, tmp_path, answers):
    row = {"question": "a", "context": "a dog", "answers": answers}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    preprocess = load_model(f"hf:{reader}").preprocess
    (batch,) = load_data(str(tmp_path / "q.jsonl"), preprocess=preprocess)
    assert batch.labels[0]["answers"] == ["dog"]


def test_answers_that_are_no_texts(reader, tmp_path):
    row = {"question": "a", "context": "a dog", "answers": [3]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    preprocess = load_model(f"hf:{reader}").preprocess
    with pytest.raises(DataError, match=r"answers on line 1 are '\[3\]'"):
        list(load_data(str(tmp_path / "q.jsonl"), preprocess=preprocess))


def test_heads_tell_how_pairs_are_read(bert, reader, tmp_path):
    config = transformers.AutoConfig.from_pretrained(bert)
    shutil.copytree(bert, tmp_path / "encoder")
    transformers.BertModel(config).save_pretrained(tmp_path / "encoder")
    joint = {
        name: load_model(f"hf:{folder}").preprocess.joint
        for name, folder in (("head", bert), ("qa", reader), ("none", tmp_path / "encoder"))
    }
    assert joint == {"head": True, "qa": True, "none": False}


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_folder_is_refused_and_nobody_is_asked(bert, tmp_path, monkeypatch, file):
    folder = tmp_path / "own"
    shutil.copytree(bert, folder)
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(
        f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n"
    )
    config = json.loads((folder / file).read_text()) | {
        "model_type": "own", "tokenizer_class": "Own", "architectures": ["Own"],
        "auto_map": dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "own.Own"),
    }  # fmt: skip
    (folder / file).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    with pytest.raises(
        ModelError, match=rf"{file} asks for Python code of the folder .* never run"
    ):
        load_model(f"hf:{folder}")
    assert not mark.exists()


def test_where_transformers_has_the_classes_its_own_are_taken(bert, tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(bert, folder)
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModel": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_model(f"hf:{folder}").module).__module__.startswith("transformers.")
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["Trainer", "AutoModel", "pipeline", "utils"])
def test_an_architecture_that_is_no_network(bert, tmp_path, kind):
    folder = tmp_path / "odd"
    shutil.copytree(bert, folder)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [kind]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"architecture '{kind}' is no class of networks"):
        load_model(f"hf:{folder}")
