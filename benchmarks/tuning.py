"""Tuning of stitched networks: agreement, divergence, top-1 and seconds after every stage.

    python benchmarks/tuning.py --data-root DIR [--only resnet20 ...] [--calib 1000] [--test 2000]

One sample in eight of the calibration set is kept from solving and tuning: it judges the tuning.
Tests are others again. Writes benchmarks/results/tuning.csv.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from bitwright.evaluation import compare
from bitwright.graph.simulate import stitch
from bitwright.metrics import metric
from bitwright.preparing import Job, capture_network, edges_of, prepare, work_on
from bitwright.recipe import make_recipe
from bitwright.run.memory import keep_heap, peak_rss_mb, reset_peak
from bitwright.run.progress import Progress
from bitwright.solving import solve
from bitwright.solving.assembly import assemble
from bitwright.sources.batches import Dataset, rebatch, take
from bitwright.sources.data import as_dataset
from bitwright.sources.models import example_inputs_of
from bitwright.stages import choices_of, forward_of, menu_of
from bitwright.tuners.bias import BiasTuning, tune_biases
from bitwright.tuners.bn import BatchNormTuning, tune_batchnorms
from bitwright.tuners.network import Deploy, Solved
from bitwright.tuners.report import TuneReport
from bitwright.tuners.samples import Samples, split_samples

RESULT = Path(__file__).parent / "results" / "tuning.csv"
DATA = {
    "resnet20": ("cifar_calib", "cifar_test_jpeg", 1000),
    "resnet56": ("cifar_calib", "cifar_test_jpeg", 1000),
    "efficientnet_lite0": ("lite0_calib", "lite0_val", 250),
}
KEEP = "first,last=w8a8"
RUNS = [
    ("resnet20", "w4a4", "nearest", "parallel"),
    ("resnet20", "w4a4", "quadratic", "parallel"),
    ("resnet20", "w4a4", "quadratic", "sequential"),
    ("resnet20", "w2a8", "quadratic", "parallel"),
    ("resnet56", "w4a4", "nearest", "parallel"),
    ("resnet56", "w4a4", "quadratic", "parallel"),
    ("efficientnet_lite0", "w4a8", "nearest", "parallel"),
    ("efficientnet_lite0", "w4a8", "quadratic", "parallel"),
]
PAPER = BatchNormTuning(order="together", reference="record")
# What each stage starts from, and what it does.
STAGES: dict[str, tuple[str, BatchNormTuning | BiasTuning]] = {
    "bn, the paper's": ("solved", PAPER),
    "bn": ("solved", BatchNormTuning()),
    "bias": ("solved", BiasTuning()),
    "bn, bias": ("bn", BiasTuning()),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One solved network with what tunes and tests it."""

    graph: object
    solved: Solved
    deploy: Deploy
    samples: Samples
    test: Callable[[nn.Module], dict[str, object]]
    seconds: float


def loaded(root: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, root / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def solved_case(root: Path, run: tuple[str, ...], calib: int, test: int) -> Case:
    """Solve a network on the part of its calibration set that does not judge."""
    network, scheme, method, mode = run
    loaders, most = loaded(root, "loaders"), DATA[network][2]
    options = {"scheme": scheme, "method": method, "mode": mode, "keep": KEEP}
    recipe = make_recipe("fixed", {**options, "calib": min(calib, most)})
    model = getattr(loaded(root, "models"), network)()
    data = as_dataset(getattr(loaders, DATA[network][0])())
    job = Job(model, kept(take(data, recipe.calib)), recipe, example_inputs_of(model))
    graph, progress = capture_network(job), Progress()
    prepared = prepare(job, graph, menu_of(graph, recipe), progress)
    choices = choices_of(graph, recipe)
    work = work_on(job, prepared, menu_of(graph, recipe))
    samples = split_samples(graph, work.batches)
    work = replace(work, batches=samples.fit, samples=samples.fit_count)
    edges = edges_of(job, prepared, choices)
    started = time.perf_counter()
    found = solve(work, mode, edges, lambda _: None)
    seconds = time.perf_counter() - started
    tests = take(as_dataset(getattr(loaders, DATA[network][1])()), min(test, 8 * most))
    reference = forward_of(graph, graph.module)

    def measured(module: nn.Module) -> dict[str, object]:
        return compare(reference, forward_of(graph, module), rebatch(tests, 25), metric("top1"))

    return Case(
        graph,
        {name: solution for (name, _), solution in found.items()},
        lambda solutions: assemble(graph, solutions, edges, prepared.target),
        samples,
        measured,
        seconds,
    )


def kept(data: Dataset) -> Dataset:
    """The same with every batch in memory: photographs are decoded once."""
    batches = list(data)
    return Dataset(data.spec, lambda: iter(batches))


def rows_of(run: tuple[str, ...], case: Case) -> Iterator[dict[str, object]]:
    """The network as solved, then after every stage."""
    names = ("network", "scheme", "method", "mode")
    start = dict(zip(names, run, strict=True))
    results = {"solved": case.solved}
    yield {**start, "stage": "solved", **line(case, case.solved, case.seconds, None)}
    for stage, (before, options) in STAGES.items():
        reset_peak()
        began = time.perf_counter()
        tune = tune_batchnorms if isinstance(options, BatchNormTuning) else tune_biases
        found, report = tune(case.graph, results[before], case.deploy, case.samples, options)
        results[stage] = found
        yield {**start, "stage": stage, **line(case, found, time.perf_counter() - began, report)}


def line(
    case: Case, solved: Solved, seconds: float, report: TuneReport | None
) -> dict[str, object]:
    memory = peak_rss_mb()
    found = case.test(stitch(case.graph, case.deploy(solved)))
    judged = {} if report is None else {
        "held_out_before": f"{report.before.soft:.5g}",
        "held_out_tried": f"{report.tried.soft:.5g}",
        "kept": int(report.kept),
    }  # fmt: skip
    return {
        "agreement": f"{found['agreement']:.4f}",
        "kl": f"{found['kl']:.5g}",
        "top1": f"{found['quantized']['top1']:.4f}",
        "float_top1": f"{found['float']['top1']:.4f}",
        "test_samples": found["samples"],
        "seconds": f"{seconds:.1f}",
        "peak_mb": f"{memory:.0f}",
        "fit": case.samples.fit_count,
        "held_out": case.samples.held_out_count,
        "held_out_before": "",
        "held_out_tried": "",
        "kept": "",
        **judged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(DATA))
    parser.add_argument("--calib", type=int, default=1000)
    parser.add_argument("--test", type=int, default=2000)
    arguments = parser.parse_args()
    root = arguments.data_root.absolute()
    if not (root / "models.py").is_file():
        print(f"no benchmark data at {arguments.data_root}: nothing measured")
        return
    keep_heap()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for run in RUNS:
        if run[0] not in arguments.only:
            continue
        for row in rows_of(run, solved_case(root, run, arguments.calib, arguments.test)):
            rows.append(row)
            print(row, flush=True)
    if not rows:
        return
    others = []
    if RESULT.exists():
        with RESULT.open(newline="") as file:
            others = [r for r in csv.DictReader(file) if r["network"] not in arguments.only]
    with RESULT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, *rows])


if __name__ == "__main__":
    main()
