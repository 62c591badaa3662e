"""How fast and how lean the engine is: `python -m benchmarks.guards.engine --data-root DIR`.

Three questions, answered into docs/measured/engine.md and benchmarks/results/engine_*.csv:
(a) is the captured network as fast as the user's own, in the best layout and allocator setting;
(b) is the exported file as fast as ONNX Runtime's own static quantisation of the same network;
(c) does calibration's memory stay the same however many photos there are.

Times are processor times (user and system) of one thread: on a machine with other work they say
what wall time would be without it. Variants alternate within every repetition, and figures are
medians, so that a ratio compares neighbours in time.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.command import bitwright
from benchmarks.data import batches_of, network_of, parts_of
from benchmarks.runtime import session
from benchmarks.tables import MEASURED, RESULTS, data_root, machine, markdown, read_csv, write_csv

NETWORKS = ("efficientnet_lite0", "resnet20", "resnet-50")
SHAPES = {
    "efficientnet_lite0": (25, 3, 224, 224),
    "resnet20": (250, 3, 32, 32),
    "resnet-50": (8, 3, 224, 224),
}
PHOTOS = (250, 1000)
MARK = "RESULT "
# What must not get worse: speed against the best eager and against ONNX Runtime's own file, the
# peak of a calibration in MB, and what four times the photos may add to it.
SPEED, PEAK_MB, GROWTH = 1.0, 1500, 0.1


def network(name: str, root: Path) -> nn.Module:
    """The user's network, in eval mode."""
    from benchmarks.guards.zoo.topologies import TOPOLOGIES

    if name in TOPOLOGIES:
        model = TOPOLOGIES[name]()
        model.example_inputs = (batch_of(name, 2),)
        return model
    return network_of(root, name)


def batch_of(name: str, size: int | None = None) -> Tensor:
    """Noise of the network's input shape."""
    shape = SHAPES[name]
    generator = torch.Generator().manual_seed(1)
    return torch.randn((size or shape[0], *shape[1:]), generator=generator)


def processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


# (a) the captured network against the user's own ------------------------------------------------


def forwards(name: str, root: Path) -> dict[str, Callable[[], object]]:
    """The user's network in both layouts, and the captured one, whole and node by node."""
    import bitwright as bw
    from bitwright.graph.execute import bind, run

    inputs = batch_of(name)
    graph = bw.capture(network(name, root), (inputs[:2],))
    plain = network(name, root)
    last = network(name, root).to(memory_format=torch.channels_last)
    return {
        "eager": lambda: plain(inputs),
        "eager, channels_last": lambda: last(inputs.contiguous(memory_format=torch.channels_last)),
        "captured": lambda: graph.module(inputs),
        "captured, node by node": lambda: run(graph, bind(graph, (inputs,))),
    }


def serve_forwards(name: str, root: Path, keep: bool) -> None:
    """A worker: time the variant that each line names."""
    from bitwright.engine.memory import keep_heap

    if keep:
        keep_heap()
    with torch.no_grad():
        variants = forwards(name, root)
        print(MARK + json.dumps(list(variants)), flush=True)
        for line in sys.stdin:
            print(MARK + json.dumps(processor_seconds(variants[line.strip()])), flush=True)


class Worker:
    """A process of its own, since malloc's settings hold for a whole process."""

    def __init__(self, root: Path, name: str, keep: bool) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.guards.engine",
                "--data-root",
                str(root),
                "--serve",
                f"{name}:{int(keep)}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.variants: list[str] = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError("a worker ended early; its message stands above")

    def time(self, variant: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(variant + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare_forwards(root: Path, repetitions: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in NETWORKS:
        workers = {keep: Worker(root, name, keep) for keep in (False, True)}
        pairs = [(keep, variant) for keep, w in workers.items() for variant in w.variants]
        times: dict[tuple[bool, str], list[float]] = {pair: [] for pair in pairs}
        for repetition in range(repetitions + 1):
            for keep, variant in pairs if repetition % 2 else reversed(pairs):
                seconds = workers[keep].time(variant)
                if repetition:  # the first one warms up
                    times[keep, variant].append(seconds)
        for worker in workers.values():
            worker.close()
        rows += _forward_rows(name, times)
        print(rows[-1], flush=True)
    return rows


def _forward_rows(name: str, times: dict[tuple[bool, str], list[float]]) -> list[dict[str, Any]]:
    medians = {pair: statistics.median(found) for pair, found in times.items()}
    best = min(value for (_, variant), value in medians.items() if variant.startswith("eager"))
    return [
        {
            "network": name,
            "batch": SHAPES[name][0],
            "variant": variant,
            "heap": "kept" if keep else "default",
            "milliseconds": 1000 * value,
            "least": 1000 * min(times[keep, variant]),
            "speed": best / value,
            "repetitions": len(times[keep, variant]),
        }
        for (keep, variant), value in medians.items()
    ]


# (b) the exported file against ONNX Runtime's own static quantisation ---------------------------


class _Reader:
    """Calibration batches in the form that onnxruntime.quantization takes."""

    def __init__(self, key: str, batches: list[Tensor]) -> None:
        self.feeds = iter([{key: batch.numpy()} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def export_float(model: nn.Module, example: Tensor, path: Path) -> None:
    """The user's network as float ONNX, by torch's own exporter."""
    free = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    with torch.no_grad():
        torch.onnx.export(
            model, (example,), str(path), dynamo=True, input_names=["x"], dynamic_shapes=free,
            external_data=False, verbose=False,
        )  # fmt: skip


def quantize_by_runtime(source: Path, batches: list[Tensor], path: Path) -> None:
    """ONNX Runtime's own static quantisation: QDQ, unsigned inputs, signed weights per channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(path), _Reader("x", batches), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def files_of(name: str, root: Path, folder: Path) -> dict[str, Path]:
    """One network as float, by ONNX Runtime's quantisation, and by ours."""
    import bitwright as bw

    paths = {
        "float": folder / "float.onnx",
        "ONNX Runtime static": folder / "static.onnx",
        "bitwright ort-cpu": folder / "ours.onnx",
    }
    batches = calibration(name, root)
    model = network(name, root)
    export_float(model, batches[0][:2], paths["float"])
    quantize_by_runtime(paths["float"], batches, paths["ONNX Runtime static"])
    result = bw.quantize(
        model, batches, recipe="fixed", target="ort-cpu", scheme="w8a8", method="nearest"
    )
    result.export(paths["bitwright ort-cpu"])
    return paths


def calibration(name: str, root: Path) -> list[Tensor]:
    """Photos where the network is trained, noise where its weights are random."""
    if name != "efficientnet_lite0":
        return [batch_of(name, 8) for _ in range(2)]
    return [x for x, _ in itertools.islice(parts_of(batches_of(root, "lite0_calib"), 25), 4)]


def _one_run(session: Any, image: Tensor) -> Callable[[], object]:
    feed = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, feed)


def compare_files(root: Path, repetitions: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in ("efficientnet_lite0", "resnet-50"):
        with tempfile.TemporaryDirectory() as folder:
            paths = files_of(name, root, Path(folder))
            sizes = {label: path.stat().st_size for label, path in paths.items()}
            sessions = {label: session(path) for label, path in paths.items()}
        runs = {label: _one_run(found, batch_of(name, 1)) for label, found in sessions.items()}
        times: dict[str, list[float]] = {label: [] for label in runs}
        for repetition in range(repetitions + 3):
            for label, work in runs.items():
                seconds = processor_seconds(work)
                if repetition > 2:
                    times[label].append(seconds)
        medians = {label: statistics.median(found) for label, found in times.items()}
        for label, value in medians.items():
            rows.append(
                {
                    "network": name,
                    "file": label,
                    "milliseconds": 1000 * value,
                    "least": 1000 * min(times[label]),
                    "against_float": medians["float"] / value,
                    "against_static": medians["ONNX Runtime static"] / value,
                    "megabytes": sizes[label] / 1e6,
                    "repetitions": repetitions,
                }
            )
            print(rows[-1], flush=True)
    return rows


# (c) memory of calibration ----------------------------------------------------------------------


def compare_memory(root: Path) -> list[dict[str, Any]]:
    """Peaks of a command that calibrates on so many photos, as its stages tell them."""
    rows = []
    for photos in PHOTOS:
        with tempfile.TemporaryDirectory() as folder:
            done = bitwright(
                Path(folder) / "run", "quantize", "--recipe", "fixed",
                f"{root}/models.py:efficientnet_lite0",
                "--data", f"{root}/loaders.py:lite0_calib", "--calib", photos,
                "--method", "nearest",
            )  # fmt: skip
            stages = {s["name"]: s["peak_rss_mb"] for s in done.read("metrics.json")["stages"]}
        rows.append(
            {
                "photos": photos,
                "captured_mb": stages["capture"],
                "peak_mb": stages["observe"],
                "processor_seconds": done.processor_s,
            }
        )
        print(rows[-1], flush=True)
    return rows


# The page ---------------------------------------------------------------------------------------


def verdict(good: bool) -> str:
    return "**met**" if good else "**missed**"


def page(
    forward: list[dict[str, Any]], files: list[dict[str, Any]], memory: list[dict[str, Any]]
) -> str:
    kept = [r for r in forward if r["heap"] == "kept" and r["variant"].startswith("captured")]
    ours = [r for r in files if r["file"].startswith("bitwright")]
    low, high = memory[0]["peak_mb"], memory[-1]["peak_mb"]
    text = [
        "# Speed and memory of the engine",
        "",
        "Written by `python -m benchmarks.guards.engine --data-root DIR`.",
        "One thread. Times are processor",
        "times (user and system), medians over repetitions in which all variants take turns. The",
        "machine had other work, so read the ratios.",
        "",
        machine("torch", "onnxruntime") + ".",
        "",
        "## The captured network against the user's own",
        "",
        "Best eager is the fastest of the user's network in two memory layouts, each with malloc's",
        "default and with `bitwright.engine.memory.keep_heap`. A speed of 1 is as fast as that;",
        "more is faster. Every variant starts from a contiguous batch, so `channels_last` pays for",
        "its conversion. Bitwright folds batch-norms, keeps `channels_last` from end to end and",
        "keeps the heap; `captured` is how it evaluates, `node by node` how it calibrates.",
        "",
        markdown(
            forward,
            {
                "network": "{network}", "batch": "{batch}", "variant": "{variant}",
                "heap": "{heap}", "ms": "{milliseconds:.1f}", "least ms": "{least:.1f}",
                "speed against the best eager": "{speed:.2f}",
            },
        ),
        "",
        "Target, at least 1.0 times the best eager, heap kept: "
        + "; ".join(
            f"{r['network']}, {r['variant']} {r['speed']:.2f} {verdict(r['speed'] >= SPEED)}"
            for r in kept
        )
        + ".",
        "",
        "## The exported file against ONNX Runtime's own quantisation",
        "",
        "Batch 1, one thread, all optimisations. *ONNX Runtime static* is `quantize_static` after",
        "`quant_pre_process`: QDQ, unsigned 8-bit activations, signed 8-bit weights per channel,",
        "the same calibration data. ResNet-50 has random weights and is calibrated on noise.",
        "",
        markdown(
            files,
            {
                "network": "{network}", "file": "{file}", "ms": "{milliseconds:.2f}",
                "least ms": "{least:.2f}", "times float": "{against_float:.2f}",
                "times ONNX Runtime static": "{against_static:.2f}", "MB": "{megabytes:.2f}",
            },
        ),
        "",
        "Target, as fast as ONNX Runtime's own or faster: "
        + "; ".join(
            f"{r['network']} {r['against_static']:.2f} {verdict(r['against_static'] >= SPEED)}"
            for r in ours
        )
        + ".",
        "",
        "## Memory of calibration",
        "",
        "Peak resident memory of a process that loads EfficientNet-Lite0, captures it and observes",
        "photos of 224 x 224 from a loader, with the default batch of 25.",
        "",
        markdown(
            memory,
            {
                "photos": "{photos}", "MB after capture": "{captured_mb:.0f}",
                "peak MB": "{peak_mb:.0f}", "processor seconds": "{processor_seconds:.0f}",
            },
        ),
        "",
        f"Target, at most 1500 MB: {verdict(high <= PEAK_MB)}. Target, within 10 % of each other: "
        f"{100 * (high / low - 1):+.1f} %, {verdict(abs(high / low - 1) <= GROWTH)}.",
        "",
    ]  # fmt: skip
    return "\n".join(text)


def missed(
    forward: list[dict[str, Any]], files: list[dict[str, Any]], memory: list[dict[str, Any]]
) -> list[str]:
    """What is beyond its bound, in words."""
    kept = [r for r in forward if r["heap"] == "kept" and r["variant"].startswith("captured")]
    said = [
        f"{r['network']}, {r['variant']}: {r['speed']:.2f} of the best eager, less than {SPEED}"
        for r in kept
        if r["speed"] < SPEED
    ]
    said += [
        f"{r['network']}: {r['against_static']:.2f} of ONNX Runtime's own, less than {SPEED}"
        for r in files
        if r["file"].startswith("bitwright") and r["against_static"] < SPEED
    ]
    peaks = [r["peak_mb"] for r in memory]
    if peaks and (peaks[-1] > PEAK_MB or peaks[-1] > (1 + GROWTH) * peaks[0]):
        said.append(f"calibration: {peaks} MB, more than {PEAK_MB} or growing by {GROWTH:.0%}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--only", choices=("forward", "files", "memory"), help="one question")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    root = data_root(args.data_root)
    torch.set_num_threads(1)
    if args.serve:
        name, keep = args.serve.split(":")
        serve_forwards(name, root, keep == "1")
        return 0
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "forward": lambda: compare_forwards(root, args.repetitions),
        "files": lambda: compare_files(root, 10 * args.repetitions),
        "memory": lambda: compare_memory(root),
    }
    for part, measure in parts.items():
        if args.only in (None, part):
            write_csv(RESULTS / f"engine_{part}.csv", measure())
    found = [read_csv(RESULTS / f"engine_{part}.csv") for part in parts]
    if all(found):
        (MEASURED / "engine.md").write_text(page(*found))
        print(f"wrote {MEASURED / 'engine.md'}")
    beyond = missed(*found)
    print("\n".join(beyond) or "within the bounds")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
