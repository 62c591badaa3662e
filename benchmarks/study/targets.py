"""Files of targets in their runtimes: the same answers as simulated, and how fast beside others.

    python -m benchmarks.study.targets --data-root DIR [--only lite0 ...] [--samples 200]
        [--files 'openvino w8a8' ...] [--nncf PYTHON] [--encoder FOLDER]

Networks of the data folder and a sentence encoder, weights rounded to the nearest. OpenVINO runs
the file of every target with its optimisations on and floats of 32 bits: the share of samples that
get the simulation's answer. Its own quantiser's file (NNCF, made by another Python that has it)
runs in turns with ours, one thread and one sample: ratios of medians of processor time. For the
encoder there is ONNX Runtime's dynamic quantisation too: cosine with the float embeddings,
Spearman's correlation on the pairs of STS-B's test set, and speed. Rows that are in
benchmarks/results/targets.csv are replaced. Writes the figures of docs/measured/targets.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.study.text import calibration, encoder_folder, lines_of
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    data_root,
    machine,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)
from bitwright.export.runtimes import LoadedFile, RuntimeRefusal, find_runtime

CSV, PAGE = RESULTS / "targets.csv", MEASURED / "targets.md"
Row = dict[str, Any]
NETWORKS = {
    "lite0": "efficientnet_lite0", "mobilenet_v2": "mobilenet_v2_dogs", "resnet20": "resnet20",
    "mobilenet_v1": "mobilenet_v1",
}  # fmt: skip
ENCODER, LENGTH = "minilm", 64
FILES = (
    "openvino w8a8", "openvino w4a8", "openvino w2a8", "ort-cpu w8a8", "ort-linear w8a8",
    "tensorrt w8a8", "paper w8a8", "weights-only w4a8",
)  # fmt: skip
DYNAMIC = ("ort-dynamic w8a8", "ort-dynamic w4a8", "ort-linear w8a8")
TURNS, CALIBRATION = 15, 64
# Run by the Python that has NNCF: its file of a float file, calibrated on the same samples.
BY_NNCF = """
import sys, nncf, numpy as np, openvino as ov
float_file, samples, out, transformer = sys.argv[1:]
given = dict(np.load(samples))
rows = [{k: v[i:i+1] for k, v in given.items()} for i in range(len(next(iter(given.values()))))]
model = ov.Core().read_model(float_file)
kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer == "1" else {}
made = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), **kind)
ov.save_model(made, out, compress_to_fp16=False)
"""
AGREEMENT = {"": "{network}", "file": "{file}", "in OpenVINO": "{agreement:.2%}", "n": "{samples}"}
SPEED = {
    "": "{network}", "file": "{file}", "x float": "{speed:.2f}", "x NNCF's": "{beside:.2f}",
    "NNCF's with float": "{nncf_agreement:.2%}", "ours with float": "{float_agreement:.2%}",
}  # fmt: skip
AT_RUN = {
    "": "{file}", "cosine with float": "{cosine:.4f}", "Spearman": "{spearman:.2%}",
    "x float": "{speed:.2f}", "x float, 16 tokens": "{short:.2f}", "MB": "{mb:.1f}",
}  # fmt: skip


def names_of(result: bw.Result) -> list[str]:
    return [spec.name for spec in result.graph.inputs]


def answers_of(found: Any) -> np.ndarray:
    """Class scores, or embeddings of the text: the mean of its tokens is left to the caller."""
    leaf = next(iter(found.values())) if isinstance(found, Mapping) else found
    leaf = leaf[0] if isinstance(leaf, (tuple, list)) else leaf
    return np.asarray(leaf)


def same(want: np.ndarray, got: np.ndarray) -> float:
    """The share of samples with one answer; of embeddings: whose tokens point the same way."""
    if want.ndim == 2:
        return float((want.argmax(1) == got.argmax(1)).mean())
    cosine = (want * got).sum(-1) / np.linalg.norm(want, axis=-1) / np.linalg.norm(got, axis=-1)
    return float((cosine.min(1) > 0.99).mean())


def simulated(module: torch.nn.Module, names: list[str], flat: list[np.ndarray]) -> np.ndarray:
    given = dict(zip(names, map(torch.from_numpy, flat), strict=True))
    with torch.no_grad():
        found = module(**given) if len(given) > 1 else module(*given.values())
    return answers_of(found)


def run(loaded: LoadedFile, names: list[str], flat: list[np.ndarray]) -> np.ndarray:
    return loaded.run(dict(zip(names, flat, strict=True)))[0]


def split(flat: list[np.ndarray], size: int = 25) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(flat[0]), size):
        yield [array[start : start + size] for array in flat]


def timed(files: Mapping[str, LoadedFile], names: list[str], one: list[np.ndarray]) -> Row:
    """Median processor seconds of a run of each, in turns."""
    taken: dict[str, list[float]] = {label: [] for label in files}
    for turn in range(TURNS + 2):
        for label, loaded in files.items():
            before = time.process_time()
            for _ in range(3):
                run(loaded, names, one)
            if turn > 1:
                taken[label].append(time.process_time() - before)
    return {label: statistics.median(times) for label, times in taken.items()}


def by_nncf(python: str, folder: Path, float_file: Path, given: Mapping[str, np.ndarray]) -> Path:
    """The file that NNCF makes of a float file."""
    np.savez(folder / "samples.npz", **given)
    (folder / "by_nncf.py").write_text(BY_NNCF)
    out, transformer = folder / "nncf.xml", str(int(len(given) > 1))
    words = [python, str(folder / "by_nncf.py"), str(float_file), str(folder / "samples.npz")]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([*words, str(out), transformer], check=True, env=clean, capture_output=True)
    return out


def network_rows(
    name: str,
    model: torch.nn.Module,
    calib: Any,
    flat: list[np.ndarray],
    asked: argparse.Namespace,
    folder: Path,
) -> list[Row]:
    """All files of one network in OpenVINO."""
    runtime, rows, loaded = find_runtime("openvino"), [], {}
    options = {"method": "nearest", "mode": "parallel", "calib": CALIBRATION, "tune": ""}
    base = bw.quantize(model, calib, scheme="float", **{"recipe": "fixed", **options})
    names, float_path = names_of(base), base.export(folder / "float.onnx")
    loaded["float"] = runtime.load(float_path, threads=1)
    for label in asked.files:
        target, scheme = label.split()
        result = bw.quantize(
            model, calib, target=target, scheme=scheme, **{"recipe": "fixed", **options}
        )
        path = result.export(folder / f"{label.replace(' ', '-')}.onnx")
        row: Row = {"part": "agreement", "network": name, "file": label, "samples": len(flat[0])}
        try:
            own = runtime.load(path, threads=1)
        except RuntimeRefusal as refusal:
            rows.append({**row, "error": str(refusal)})
            continue
        parts = [(simulated(result.model, names, p), run(own, names, p)) for p in split(flat)]
        row["agreement"] = same(*map(np.concatenate, zip(*parts, strict=True)))
        rows.append(row)
        print(json.dumps(row), flush=True)
        if target == "openvino":
            loaded[label] = own
    given = {n: a[:CALIBRATION] for n, a in zip(names, flat, strict=True)}
    if asked.nncf:
        loaded["NNCF"] = runtime.load(by_nncf(asked.nncf, folder, float_path, given), threads=1)
    times = timed(loaded, names, [array[:1] for array in flat])
    floats = np.concatenate([simulated(model, names, p) for p in split(flat)])
    agree = {
        label: same(floats, np.concatenate([run(own, names, p) for p in split(flat)]))
        for label, own in loaded.items()
    }
    for label in [label for label in loaded if label.startswith("openvino")]:
        row = {"part": "speed", "network": name, "file": label, "float_agreement": agree[label]}
        row["speed"] = times["float"] / times[label]
        if "NNCF" in times:
            row |= {"beside": times["NNCF"] / times[label], "nncf_agreement": agree["NNCF"]}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def encoder_of(source: str) -> tuple[torch.nn.Module, Any]:
    import transformers

    network = transformers.AutoModel.from_pretrained(source, attn_implementation="sdpa").eval()
    return network, transformers.AutoTokenizer.from_pretrained(source)


def tokens_of(words: Any, texts: list[str], length: int = LENGTH) -> list[np.ndarray]:
    found = words(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return [found[key].astype(np.int64) for key in ("input_ids", "attention_mask")]


def embeddings(answers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean of a text's tokens, of length 1."""
    kept = mask[..., None].astype(np.float32)
    pooled = (answers * kept).sum(1) / kept.sum(1)
    found: np.ndarray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return found


def dynamic_rows(root: Path, source: str, calib: Any, folder: Path, pairs: int) -> list[Row]:
    """The encoder with scales taken as it runs: ours and ONNX Runtime's own."""
    network, words = encoder_of(source)
    options = {"method": "quadratic", "mode": "parallel"}
    base = bw.quantize(network, calib, recipe="fixed", scheme="float")
    files = {"float": base.export(folder / "float.onnx")}
    for label in DYNAMIC:
        target, scheme = label.split()
        result = bw.quantize(
            network, calib, target=target, scheme=scheme, **{"recipe": "fixed", **options}
        )
        files[label] = result.export(folder / f"{label.replace(' ', '-')}.onnx")
    for label, by_channel in (("ONNX Runtime dynamic", False), ("the same, by channel", True)):
        files[label] = folder / f"dynamic-{by_channel}.onnx"
        quantize_dynamic(
            files["float"], files[label], per_channel=by_channel, weight_type=QuantType.QInt8
        )
    rows = lines_of(root, "stsb_test")[:pairs]
    sides = [tokens_of(words, [row[key] for row in rows]) for key in ("sentence1", "sentence2")]
    scores = torch.tensor([float(row["score"]) for row in rows])
    names, runtime = names_of(base), find_runtime("onnxruntime")
    loaded = {label: runtime.load(path, threads=1) for label, path in files.items()}
    # One text at a time: the scale of a tensor is that of its batch, and users send single texts.
    found = {
        label: [
            embeddings(np.concatenate([run(own, names, part) for part in split(side, 1)]), side[1])
            for side in sides
        ]
        for label, own in loaded.items()
    }
    times = timed(loaded, names, [array[:1] for array in sides[0]])
    few = tokens_of(words, [rows[0]["sentence1"]], 16)
    short = timed(loaded, names, few)
    made = []
    for label, own in found.items():
        cosines = [(a * b).sum(1) for a, b in zip(own, found["float"], strict=True)]
        row: Row = {"part": "dynamic", "network": ENCODER, "file": label}
        row["cosine"] = float(np.concatenate(cosines).mean())
        row["spearman"] = spearman((own[0] * own[1]).sum(1), scores.numpy())
        row |= {"speed": times["float"] / times[label], "short": short["float"] / short[label]}
        row |= {"mb": files[label].stat().st_size / 1e6, "samples": pairs}
        made.append(row)
        print(json.dumps(row), flush=True)
    return made


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(left, right).statistic)


def page(rows: list[Row]) -> str:
    """The tables of docs/measured/targets.md."""
    titles = {
        "agreement": ("**The simulation's answer, in OpenVINO**", AGREEMENT),
        "speed": ("**Speed in OpenVINO** (one thread, one sample)", SPEED),
        "dynamic": ("**Scales taken as the network runs** (MiniLM, ONNX Runtime)", AT_RUN),
    }
    said = [
        f"{title}\n\n{markdown([r for r in rows if r['part'] == part], columns)}"
        for part, (title, columns) in titles.items()
        if any(r["part"] == part for r in rows)
    ]
    return "\n\n".join([*said, f"Measured on {machine('torch', 'onnxruntime', 'openvino')}."])


def samples_of(root: Path, name: str, count: int) -> list[np.ndarray]:
    """Test samples of a network of the data folder."""
    found: list[np.ndarray] = []
    for inputs, _ in batches_of(root, DATA[name][1]):
        found.append(inputs.numpy())
        if sum(map(len, found)) >= count:
            break
    return [np.concatenate(found)[:count]]


def measure(root: Path, name: str, asked: argparse.Namespace, folder: Path) -> list[Row]:
    """All rows of one network."""
    if name != ENCODER:
        model = network_of(root, NETWORKS[name])
        calib = batches_of(root, DATA[NETWORKS[name]][0])
        flat = samples_of(root, NETWORKS[name], asked.samples)
        return network_rows(name, model, calib, flat, asked, folder)
    source = asked.encoder or str(encoder_folder(folder))
    network, words = encoder_of(source)
    lines = calibration(root, folder).read_text().splitlines()
    calib = tokens_of(words, [json.loads(line)["text"] for line in lines])
    given = [dict(zip(("input_ids", "attention_mask"), map(torch.from_numpy, calib), strict=True))]
    texts = [row["sentence1"] for row in lines_of(root, "stsb_test")[: asked.samples]]
    rows = dynamic_rows(root, source, given, folder, min(asked.samples, 400))
    flat = tokens_of(words, texts)
    return [*network_rows(name, network, given, flat, asked, folder), *rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = [*NETWORKS, ENCODER]
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    parser.add_argument("--files", nargs="+", default=FILES, help="TARGET SCHEME, ... in OpenVINO")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--nncf", default="", help="a Python that has nncf and openvino")
    parser.add_argument("--encoder", default="", help="a folder with the encoder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    root = data_root(asked.data_root)
    for name in asked.only:
        with tempfile.TemporaryDirectory() as folder:
            made = measure(root, name, asked, Path(folder))
        kept = [row for row in read_csv(CSV) if row["network"] != name]
        write_csv(CSV, [*kept, *made])
    put_between_markers(PAGE, page(read_csv(CSV)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
