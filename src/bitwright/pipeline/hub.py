"""`bitwright export RUN --hub FOLDER`: a folder that other libraries load."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from bitwright.engine.files import say_failures, write_atomically
from bitwright.errors import RunDirectoryError
from bitwright.export import rundir
from bitwright.export.rundir import RunDirectory
from bitwright.pipeline.runs import LoadedRun
from bitwright.sources.images import ImagePreprocess
from bitwright.sources.text import TextPreprocess

# What sentence-transformers and optimum look for; both names are one file on the disk.
FILES = ("onnx/model.onnx", "onnx/model_quantized.onnx")
OPENVINO = "openvino/openvino_model.xml"
CARD = "README.md"
# Of the folder that the network came from: all but weights and code.
_COPIED = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "added_tokens.json", "preprocessor_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json", "1_Pooling/config.json", "2_Normalize/config.json",
)  # fmt: skip
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def write_hub(loaded: LoadedRun, folder: Path) -> Path:
    """A folder with the run's file, its tokenizer or preprocessing, and a card with its figures.

    The file is a hard link to the run's where the disk allows that, so it takes no room of its own.
    Where OpenVINO is installed, its form of a text network stands beside it: that takes the file's
    size once more, since OpenVINO's loaders take no other.

    Raises:
        RunDirectoryError: the folder holds something already.
        FileError: it cannot be written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise RunDirectoryError(f"--hub {folder} is not empty. Name an empty or a new folder.")
    onnx = loaded.directory.checked(rundir.ONNX)
    with say_failures(folder):
        for name in FILES:
            _link(onnx, folder / name)
        _copy_words(loaded, folder)
    pre = loaded.source.preprocess
    if isinstance(pre, TextPreprocess):
        _write_text_parts(pre, folder)
        _write_openvino(onnx, folder / OPENVINO)
    known = (folder / "preprocessor_config.json").exists()
    # Channels the other way round are nothing that this file can say.
    if isinstance(pre, ImagePreprocess) and not known and pre.channel_order == "rgb":
        _write_json(folder / "preprocessor_config.json", describe_preprocess(pre))
    write_atomically(folder / CARD, make_card(loaded.directory, loaded.recipe.model).encode())
    return folder


def _link(source: Path, path: Path) -> None:
    """A hard link, or a copy where the disk has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _copy_words(loaded: LoadedRun, folder: Path) -> None:
    """The configuration and the tokenizer, from the folder that `hf:FOLDER` named."""
    kind, _, place = loaded.recipe.model.partition(":")
    if kind != "hf":
        return
    for name in _COPIED:
        source = Path(place) / name
        if source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)


def _write_text_parts(pre: TextPreprocess, folder: Path) -> None:
    """The tokenizer whole, and for encoders how tokens become one embedding: their mean."""
    pre.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) if _has_config(folder) else {}
    if pre.joint or (folder / "modules.json").exists():
        return
    _write_json(folder / "modules.json", _MODULES)
    _write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": config.get("hidden_size"), "pooling_mode_mean_tokens": True},
    )
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": pre.max_length, "do_lower_case": False},
    )


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _write_openvino(onnx: Path, path: Path) -> None:
    """OpenVINO's form of the file, where it is installed."""
    if importlib.util.find_spec("openvino") is None:
        return
    openvino: Any = importlib.import_module("openvino")
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.Core().read_model(onnx), path, compress_to_fp16=False)


def describe_preprocess(pre: ImagePreprocess) -> dict[str, Any]:
    """What an image goes through, as transformers' `preprocessor_config.json` says it.

    Where the margin of a crop is odd transformers cuts half a pixel further up and left.
    """
    height, width = pre.size
    if pre.crop is None:
        shape: dict[str, Any] = {"size": {"height": height, "width": width}}
    else:
        # As `ImagePreprocess` counts: the tiny term keeps 224 / 0.875 at 256.
        edge = math.floor(height / pre.crop + 1e-6)
        size = {"shortest_edge": edge} if pre.keep_aspect else {"height": edge, "width": edge}
        shape = {
            "size": size, "do_center_crop": True, "crop_size": {"height": height, "width": width},
        }  # fmt: skip
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True, **shape,
        "resample": int(Image.Resampling[pre.interpolation.upper()]),
        "do_rescale": True, "rescale_factor": 1.0 / pre.scale,
        "do_normalize": True, "image_mean": list(pre.mean), "image_std": list(pre.std),
    }  # fmt: skip


def make_card(run: RunDirectory, model: str) -> str:
    """The card: what the file is, its figures, and how it is loaded."""
    metrics, recipe = run.read_json(rundir.METRICS), run.read_text(rundir.RECIPE)
    verified = run.read_json(rundir.VERIFY) if run.has(rundir.VERIFY) else {}
    size = metrics.get("size", {})
    rows = [
        ("agreement with the float network", f"{metrics['agreement']:.2%}"),
        *((f"{name}, {kind}", f"{value:.4g}")
          for kind, label in (("float", "float"), ("quantized", "quantised"))
          for name, value in metrics.get(kind, {}).items() if isinstance(value, float)),
        ("samples", str(metrics["samples"])),
        ("model.onnx, bytes", str(size.get("onnx_bytes"))),
        ("verified in ONNX Runtime", "yes" if verified.get("passed") else "no"),
    ]  # fmt: skip
    table = "\n".join(["| figure | value |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)])
    return (
        f"---\nlibrary_name: onnx\ntags: [onnx, quantized, bitwright]\n---\n\n"
        f"# {Path(model.partition(':')[2]).name}, quantised by Bitwright\n\n{table}\n\n"
        f"The run that made it:\n\n```toml\n{recipe}```\n"
    )


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())
