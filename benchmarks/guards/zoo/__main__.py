"""Every network of the zoo through capture, quantisation, ONNX export and ONNX Runtime.

`python -m benchmarks.guards.zoo` quantises each architecture of `models.ZOO` (random weights) to
w8a8 by nearest rounding, writes model.safetensors and model.onnx, and verifies the file in ONNX
Runtime
on batches of two, three and five samples. Each network runs in a process of its own with one
thread and a time limit. Results go line by line to a JSONL file, so a killed run goes on where it
stopped; docs/measured/zoo.md is written from that file, and keeps the tables of targets it has no
row of.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import logging
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import bitwright as bw
from benchmarks.guards.zoo.models import KNOWN_REASONS, ZOO
from benchmarks.guards.zoo.tables import page
from benchmarks.guards.zoo.tasks import TASKS
from benchmarks.tables import MEASURED
from bitwright.export.verified import Verification
from bitwright.export.verify import verify

RESULTS = Path("/tmp/bitwright-zoo/results.jsonl")
PAGE = MEASURED / "zoo.md"
# Few but different: the example's batch, and two others.
VERIFY_SIZES = (2, 3, 5)
CALIBRATION = 8
# The smaller run on the integer chain of a CPU runtime.
CHAIN_NETWORKS = (
    "resnet-18", "resnet-50", "resnext-50-32x4d", "mobilenet-v2", "mobilenet-v3-small",
    "efficientnet-b0", "inception-v3", "googlenet", "densenet-121", "vgg-11-bn", "squeezenet-1.1",
    "shufflenet-v2", "u-net", "repvgg-a0", "preact-resnet-18",
)  # fmt: skip
# Attention with its products and its softmax on the grid too, masked and not.
ATTENTION = "paper+matmul+softmax"
ATTENTION_NETWORKS = (
    "bert", "minilm", "distilbert", "roberta", "xlm-roberta", "camembert", "albert", "electra",
    "mobilebert", "squeezebert", "deberta", "deberta-v2", "mpnet", "roformer", "modernbert",
    "nomic-bert", "eurobert", "esm", "convbert", "gpt2", "opt", "bloom", "llama", "qwen2",
    "t5-encoder", "vit", "deit", "beit", "dinov2", "clip-vision", "swin", "swinv2", "pvt-v2",
    "segformer-classifier",
)  # fmt: skip


def fresh(inputs: object, size: int, generator: torch.Generator) -> Any:
    """Other inputs of the same kind: noise for floats, other ids for ids, the example's masks."""

    def renew(key: str, value: Tensor) -> Tensor:
        shape = (size, *value.shape[1:])
        if value.is_floating_point():
            return torch.randn(shape, generator=generator)
        rows = torch.arange(size) % value.shape[0]
        if "mask" in key or "bbox" in key or value.dtype == torch.bool:
            return value[rows]
        return torch.randint(
            int(value.min()), int(value.max()) + 1, shape, generator=generator, dtype=value.dtype
        )

    if isinstance(inputs, dict):
        return {key: renew(key, value) for key, value in inputs.items()}
    return tuple(renew("", value) for value in inputs)


def answers(net: torch.nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that a network gives."""
    given = net(**inputs) if isinstance(inputs, dict) else net(*inputs)
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]


class Row(dict[str, Any]):
    """One network's result, filled as far as it comes; `phase` is where it is."""

    def at(self, phase: str) -> None:
        self["phase"] = phase


def examine(row: Row, name: str, target: str) -> None:
    """Take one network down the whole road."""
    row.at("build")
    torch.manual_seed(1)
    model = ZOO[name]()
    row["params"] = sum(p.numel() for p in model.parameters())
    generator = torch.Generator().manual_seed(7)
    example = model.example_inputs
    calibration = [(fresh(example, 2, generator), None) for _ in range(CALIBRATION // 2)]
    row.at("quantize")
    result = bw.quantize(model, calibration, recipe="fixed", scheme="w8a8", target=target, batch=2)
    graph = result.graph
    row["units"] = len(graph.units)
    row["edges"] = len(result.assignment.edges)
    row["folded"] = len(graph.folded)
    row["float_ops"] = {
        f["op"]: f["count"] for f in result.census["float_ops"] if "no weights" in f["reason"]
    }
    row["computed_operands"] = sum(
        f["count"] for f in result.census["float_ops"] if "computed" in f["reason"]
    )
    row["notes"] = [f"{n['place']}: {n['text']}" for n in result.census["notes"]]
    row["quantization_noise"] = result.metrics["relative_noise"] ** 0.5
    row["quantization_agreement"] = result.metrics["agreement"]
    fixed = next((s.shape[0] for s in graph.inputs if s.shape[0] is not None), None)
    sizes = VERIFY_SIZES if fixed is None else (fixed, fixed)
    row["batches"] = list(sizes)
    batches = [fresh(example, size, generator) for size in sizes]
    with tempfile.TemporaryDirectory() as folder:
        row.at("packed")
        out = Path(folder) / "run"
        result.save(out, verify=False)
        row["packed_bytes"], row["onnx_bytes"] = (
            (out / name).stat().st_size for name in ("model.safetensors", "model.onnx")
        )
        again = bw.load(out, model)
        with torch.no_grad():
            first, second = (answers(net, batches[0]) for net in (result.model, again))
        if not all(map(torch.equal, first, second)):
            raise AssertionError("model.safetensors read back computes something else")
        row.at("verify")
        marked = bw.stitch(graph, result.assignment, marks=True)
        found = verify(out / "model.onnx", graph, marked, batches)
    row["verify"] = {k: v for k, v in found.items() if k != "units"}
    row["units_checked"] = len(found.units)
    row["worst_unit"] = max(found.units.values(), default=None)
    calls = sum(len(unit.calls) for unit in graph.units)
    row["verified"] = found.passed and row["units_checked"] == calls
    if not row["verified"]:
        row["reason"] = "verification: " + failure(found, calls)
    row.at("done")


def failure(found: Verification, calls: int) -> str:
    """Why a verification did not pass."""
    if found.error:
        return f"ONNX Runtime: {found.error}"
    if len(found.units) != calls:
        return f"{calls - len(found.units)} of {calls} unit calls were not found in the file"
    if found.first_failure:
        return f"unit {found.first_failure} differs by {found.units[found.first_failure]}"
    return f"end-to-end agreement {found.agreement:.3f}, {found.undecided} undecided"


def child(name: str, target: str, out: str) -> None:
    """One network in this process; whatever happens becomes a row."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    row = Row(name=name, target=target, verified=False)
    start = time.perf_counter()
    try:
        examine(row, name, target)
    except BaseException as error:  # noqa: BLE001 - the reason is what is recorded
        text = " ".join(str(error).split()) or "no message"
        row["reason"] = f"{row['phase']}: {type(error).__name__}: {text[:400]}"
        row["traceback"] = traceback.format_exc()[-6000:]
    row["seconds"] = round(time.perf_counter() - start, 1)
    Path(out).write_text(json.dumps(row))


Job = tuple[str, str]


def warm() -> None:
    """Import here, once, what every child would import: forked processes share it."""
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        net = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval()
        bw.quantize(net, [torch.randn(4, 4)], recipe="fixed").export(Path(folder) / "x.onnx")


def run_all(todo: list[Job], jobs: int, limit: float) -> Iterator[dict[str, Any]]:
    """Run jobs in forked processes (torch is imported once), at most so many at a time."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(todo), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                name, target = waiting.pop(0)
                out = Path(folder) / f"{name}-{target}.json"
                process = context.Process(target=child, args=(name, target, str(out)))
                process.start()
                running[process] = (name, target, out, time.perf_counter())
            time.sleep(0.05)
            for process, (name, target, out, start) in list(running.items()):
                took = time.perf_counter() - start
                if process.is_alive() and took < limit:
                    continue
                late = process.is_alive()
                if late:
                    process.kill()
                process.join()
                del running[process]
                if out.exists() and not late:
                    yield json.loads(out.read_text())
                    continue
                reason = f"no result after {limit:.0f} s" if late else f"exit {process.exitcode}"
                yield {
                    "name": name, "target": target, "verified": False, "reason": reason,
                    "phase": "process", "seconds": round(took, 1),
                }  # fmt: skip


def read(path: Path) -> dict[Job, dict[str, Any]]:
    """The last result of every network; a line cut off by a crash is ignored."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[row["name"], row["target"]] = row
    return found


def line(row: dict[str, Any]) -> str:
    """A result for the terminal."""
    verdict = "verified" if row["verified"] else f"NO  {row.get('reason', '')[:150]}"
    if row["verified"]:
        end = row["verify"]
        verdict += f" unit {row['worst_unit']:.0e} agreement {end['agreement']:.3f}"
        verdict += f" difference {end['max_relative_difference']:.0e}"
    return f"{row['name']:30s} {row['target']:8s} {row['seconds']:6.1f} s  {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="only these networks")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a network may take")
    parser.add_argument("--target", choices=("all", "paper", "ort-cpu", ATTENTION), default="all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSONL file")
    parser.add_argument("--again", action="store_true", help="run those with a result too")
    parser.add_argument("--failed", action="store_true", help="run those not verified again")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    jobs = [(n, "paper") for n in ZOO] + [(n, "ort-cpu") for n in CHAIN_NETWORKS]
    jobs += [(n, ATTENTION) for n in ATTENTION_NETWORKS]
    jobs = [j for j in jobs if options.target in ("all", j[1])]
    unknown = set(options.only) - set(ZOO)
    if unknown:
        parser.error(f"unknown networks {sorted(unknown)}")
    jobs = [j for j in jobs if not options.only or j[0] in options.only]
    known = read(options.results)
    done = {j for j, r in known.items() if not (options.failed and not r["verified"])}
    todo = [j for j in jobs if options.again or options.only or j not in done]
    random.Random(0).shuffle(todo)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    if todo:
        warm()
    with options.results.open("a") as file:
        for row in run_all(todo, options.jobs, options.timeout):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(line(row), flush=True)
    rows = read(options.results)
    options.page.parent.mkdir(parents=True, exist_ok=True)
    more = {
        "tasks": list(TASKS),
        "ort-cpu": list(CHAIN_NETWORKS),
        ATTENTION: list(ATTENTION_NETWORKS),
    }
    old = options.page.read_text() if options.page.is_file() else ""
    text = page(rows, [name for name in ZOO if name not in TASKS], more, KNOWN_REASONS, old)
    options.page.write_text(text)
    print(next(part for part in text.splitlines() if part.startswith("**Target")))
    return 0 if all(r["verified"] or r["name"] in KNOWN_REASONS for r in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
