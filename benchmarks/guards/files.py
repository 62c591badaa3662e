"""What a file does in ONNX Runtime: how fast beside float, with which answers, loaded how long.

    python -m benchmarks.guards.files --data-root DIR [--only lite0/ort-cpu] [--encoder FOLDER]
        [--keep FOLDER] [--seconds 3]

Networks of the data folder and a sentence encoder, rounded to the nearest on a few samples: speed
does not depend on what is learned. All files of a network run in turns in one process, one thread
and one sample each; a ratio is of the medians of processor time, above 1 faster than float. Answers
are those of 32 samples, with and without the runtime's optimisations, beside the simulation's.
Ends with 1 where a file that is not for study is slower than float or gives other answers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.runtime import session
from benchmarks.study.text import calibration, encoder_folder
from benchmarks.tables import data_root
from bitwright.export.float_twin import float_twin
from bitwright.export.onnx_read import read_onnx
from bitwright.export.rounding import find_agreeing, take_comparable

NETWORKS = {
    "lite0": "efficientnet_lite0", "mobilenet": "mobilenet_v2_dogs", "resnet20": "resnet20",
}  # fmt: skip
ENCODER = "encoder"
VISION = (
    "ort-cpu w8a8", "ort-cpu w4a8", "ort-cpu w2a8", "ort-cpu w4a4", "ort-linear w8a8", "paper w8a8",
    "paper w4a8", "paper w4a4", "paper w2a8", "weights-only w8a8", "weights-only w4a8",
)  # fmt: skip
TEXT = (
    "ort-cpu w8a8", "ort-linear w8a8", "ort-linear w4a8", "ort-linear w2a8", "paper w8a8",
    "paper w4a8", "weights-only w8a8", "weights-only w4a8", "weights-only w4a8g32",
)  # fmt: skip
# Eight-bit weights with zero points of their own have no fast kernel: their page says so.
FOR_STUDY = ("paper w8a8",)
SAMPLES, CALIBRATION, TURNS = 32, 16, 9
# Times of equal files differ by a few per cent on a machine that others use.
SLACK = 0.97
AGREEING = 0.99


@dataclass(frozen=True, eq=False)
class File:
    """A file, its sessions' answers beside the simulation's, and how long it took to load."""

    label: str
    path: Path
    plain: float
    optimised: float
    largest: float
    load_ms: float


def made(root: Path, network: str, encoder: str, label: str, folder: Path) -> bw.Result:
    """A network rounded to the nearest for a target."""
    target, scheme = label.split()
    options = {"target": target, "scheme": scheme, "method": "nearest", "tune": ""}
    few = {"calib": CALIBRATION, "store": folder / "store"}
    if network == ENCODER:
        source = encoder or str(encoder_folder(folder))
        return bw.quantize(*text_of(source, calibration(root, folder)), **options, **few)
    name = NETWORKS[network]
    return bw.quantize(network_of(root, name), batches_of(root, DATA[name][0]), **options, **few)


def text_of(source: str, texts: Path) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """The encoder and its calibration texts, 64 tokens each."""
    import transformers

    network = transformers.AutoModel.from_pretrained(source, attn_implementation="sdpa").eval()
    words = transformers.AutoTokenizer.from_pretrained(source)
    lines = [json.loads(line)["text"] for line in texts.read_text().splitlines()[:SAMPLES]]
    found = words(lines, padding="max_length", truncation=True, max_length=64, return_tensors="pt")
    return network, [{key: found[key] for key in ("input_ids", "attention_mask")}]


def samples_of(result: bw.Result) -> Iterator[Any]:
    """Single samples of the calibration data, as the file takes them."""
    count = 0
    for batch in result.data:
        inputs = batch.inputs
        leaves = tuple(inputs.values()) if isinstance(inputs, Mapping) else inputs
        leaves = leaves if isinstance(leaves, tuple) else (leaves,)
        for index in range(len(leaves[0])):
            yield tuple(leaf[index : index + 1] for leaf in leaves)
            count += 1
            if count == SAMPLES:
                return


def exported(result: bw.Result, label: str, path: Path) -> File:
    """The file, and its answers on a few samples."""
    result.export(path)
    started = time.process_time()
    fast = session(path)
    load = 1000 * (time.process_time() - started)
    slow = session(path, optimised=False)
    answer = result.graph.answer
    same, rows, largest = [0, 0], 0, 0.0
    for flat in samples_of(result):
        keys = [spec.name for spec in result.graph.inputs]
        with torch.no_grad():
            found = result.model(**dict(zip(keys, flat, strict=True)))
        want = take_comparable(answer, found)
        for place, runtime in enumerate((slow, fast)):
            names = [value.name for value in runtime.get_inputs()]
            feed = {n: t.numpy() for n, t in zip(names, flat, strict=False)}
            got = [torch.from_numpy(value) for value in runtime.run(None, feed)]
            have = take_comparable(answer, got)
            agree = find_agreeing(answer, want, have)
            same[place] += int(agree.sum())
            rows += agree.numel() if place else 0
            if place:
                largest = max(largest, float((want - have).abs().max() / want.abs().max()))
    return File(label, path, same[0] / rows, same[1] / rows, largest, load)


def timed(sessions: Mapping[str, ort.InferenceSession], feed: Mapping[str, Any], seconds: float
) -> dict[str, float]:  # fmt: skip
    """Median processor milliseconds of a run of each, in turns."""
    taken: dict[str, list[float]] = {label: [] for label in sessions}
    for runtime in sessions.values():
        runtime.run(None, dict(feed))
    started = time.process_time()
    while True:
        for label, runtime in sessions.items():
            before = time.process_time()
            runtime.run(None, dict(feed))
            taken[label].append(1000 * (time.process_time() - before))
        turns = len(taken[label])
        if turns >= TURNS and time.process_time() - started > seconds * len(sessions):
            return {label: statistics.median(times) for label, times in taken.items()}


def measure(
    root: Path, network: str, labels: tuple[str, ...], folder: Path, asked: argparse.Namespace
) -> list[str]:
    """All files of a network; returns what is wrong."""
    files, sessions, first = [], {}, None
    for label in labels:
        result = made(root, network, asked.encoder, label, folder)
        path = folder / f"{network}-{label.replace(' ', '-')}.onnx"
        files.append(exported(result, label, path))
        if first is None:
            first = [t.numpy() for t in next(samples_of(result))]
            twin = folder / f"{network}-float.onnx"
            found = float_twin(read_onnx(path))
            assert found is not None
            twin.write_bytes(found.SerializeToString())
            sessions["float"] = session(twin)
        sessions[label] = session(path)
    assert first is not None
    names = [value.name for value in sessions["float"].get_inputs()]
    times = timed(sessions, dict(zip(names, first, strict=False)), asked.seconds)
    bad = []
    print(f"{network}: float {times['float']:.2f} ms", flush=True)
    for file in files:
        ratio = times["float"] / times[file.label]
        size = file.path.stat().st_size / 1e6
        print(
            f"{network:10} {file.label:22} x{ratio:5.2f}  optimised {file.optimised:7.2%} "
            f"largest {file.largest:.0e}  plain {file.plain:7.2%}  load {file.load_ms:6.0f} ms  "
            f"{size:5.2f} MB",
            flush=True,
        )
        slow = ratio < SLACK and file.label not in FOR_STUDY
        if slow or file.optimised < AGREEING:
            bad.append(f"{network} {file.label}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", default="", help="NETWORK or NETWORK/START-OF-FILE, by commas")
    parser.add_argument("--encoder", default="", help="a folder with the encoder")
    parser.add_argument("--keep", type=Path, help="where to leave the files")
    parser.add_argument("--seconds", type=float, default=3.0, help="a file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    root, bad = data_root(asked.data_root), []
    wanted = [word.partition("/") for word in asked.only.split(",") if word]
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for network in (*NETWORKS, ENCODER):
            starts = [start for name, _, start in wanted if name == network]
            every = TEXT if network == ENCODER else VISION
            labels = tuple(x for x in every if not wanted or any(x.startswith(s) for s in starts))
            if labels:
                bad += measure(root, network, labels, folder, asked)
    print(f"slower than float, or other answers: {', '.join(bad)}" if bad else "within the bounds")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
