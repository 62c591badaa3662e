"""Work and error of solving: `python benchmarks/operations.py --data-root DIR [--samples 200]`.

Counts the operations of every matrix product and convolution while all units are solved at w4a4
(first and last unit at 8 bits), parts them into forward passes, sums over rows and the method's
own work, and sets them beside the least that each part needs:

    forward  in sequence 2 passes over the samples, float and quantised side by side; in parallel 1;
    sums     for R rows of N inputs and C outputs: the target 2 R N C, and moments 2 R N (N + C);
    own      what the method does with a unit's sums and rows (a sweep of the quadratic solver is
             2 C N^2: shown as how many of them it took; element-wise work is not counted).

The output error is that on rows held out, over that of nearest rounding: the geometric mean over
units. Writes benchmarks/results/operations.csv and docs/operations.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tables import DOCS, RESULTS, data_root, machine, markdown, read_csv, write_csv
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode

from bitwright.graph.rows import solvable, weight_rows
from bitwright.methods.catalogue import METHODS
from bitwright.methods.problem import Method, UnitProblem, UnitSolution
from bitwright.preparing import Job, capture_network, prepare, work_on
from bitwright.recipe import make_recipe
from bitwright.run.memory import keep_heap
from bitwright.run.progress import Progress
from bitwright.solving import collect, solve
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model
from bitwright.stages import choices_of

CALIBRATION = {"resnet20": "cifar_calib", "resnet56": "cifar_calib"}
RUNS = (
    ("quadratic", "sequential"),
    ("quadratic", "parallel"),
    ("adaround", "sequential"),
    ("adaquant", "sequential"),
)
IDENTITY = ("network", "method", "mode", "samples")


@dataclass(frozen=True)
class Counted:
    """A method, the operations of each call counted."""

    inner: Method
    found: list[tuple[int, UnitSolution]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def needs(self) -> Any:
        return self.inner.needs

    def configured(self, weight_range: str) -> Counted:
        return replace(self, inner=self.inner.configured(weight_range))

    def solve(self, problem: UnitProblem) -> UnitSolution:
        # The outer counter would slow every small operation down once more.
        with _disable_current_modes(), FlopCounterMode(display=False) as counter:
            solution = self.inner.solve(problem)
        self.found.append((counter.get_total_flops(), solution))
        return solution


def measured(root: Path, network: str, method: str, mode: str, samples: int) -> dict[str, Any]:
    """One network solved by one method."""
    counted = Counted(METHODS[method])
    recipe = make_recipe(
        "fixed",
        {
            "scheme": "w4a4", "keep": "first,last=w8a8", "method": method, "mode": mode,
            "calib": samples,
        },
    )  # fmt: skip
    loaded = load_model(f"{root}/models.py:{network}")
    data = load_data(f"{root}/loaders.py:{CALIBRATION[network]}")
    job = Job(loaded.module, data, recipe, loaded.example_inputs)
    graph = capture_network(job)
    menu = {name: (choice,) for name, choice in choices_of(graph, recipe).items()}
    prepared = prepare(job, graph, menu, Progress())
    work = replace(work_on(job, prepared, menu), method=counted)
    rows = RowCount()
    started = time.process_time()
    with mock.patch.object(collect, "Gram", rows), FlopCounterMode(display=False) as counter:
        solve(work, mode, {}, lambda _: None)
    seconds = time.process_time() - started
    own = sum(count for count, _ in counted.found)
    forward = sum(
        int(count)
        for name, count in counter.get_flop_counts()["Global"].items()
        if "convolution" in str(name)
    )
    macs = sum(unit.macs for unit in graph.units)
    passes = 2 if mode == "sequential" else 1
    sweep = sum(
        2 * shape[0] * shape[1] * shape[2] ** 2
        for shape in (
            weight_rows(graph.tensor(unit.weight), unit).shape
            for unit in graph.units
            if solvable(unit)
        )
    )
    ratios = [
        s.loss_after / s.loss_before for _, s in counted.found if s.loss_after and s.loss_before
    ]
    return {
        "network": network, "method": method, "mode": mode, "samples": samples,
        "forward": forward, "forward_needed": 2 * passes * macs * samples,
        "sums": counter.get_total_flops() - forward, "sums_needed": rows.operations,
        "own": own, "sweeps": own / sweep if method == "quadratic" else "",
        "error": math.exp(statistics.fmean(map(math.log, ratios))), "seconds": seconds,
    }  # fmt: skip


@dataclass
class RowCount:
    """Stands where rows are summed up, and counts what that must cost."""

    operations: int = 0

    def of(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        groups, rows, inputs = x.shape
        outputs = y.shape[2]
        target, moments = inputs * outputs, inputs * (inputs + outputs)
        self.operations += 2 * groups * rows * (target + moments)
        return GRAM.of(x, y)


GRAM = collect.Gram
COLUMNS = {
    "network": "{network}", "method": "{method}", "mode": "{mode}", "samples": "{samples}",
    "forward, 1e9": "{f:.0f}", "of needed": "{fr:.2f}", "sums, 1e9": "{s:.0f}",
    "of needed ": "{sr:.2f}", "own, 1e9": "{o:.0f}", "sweeps": "{sweeps:.1f}",
    "output error": "{error:.3f}", "processor s": "{seconds:.0f}",
}  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """The table with its reading."""
    shown = [
        {
            **row,
            "f": row["forward"] / 1e9, "fr": row["forward"] / row["forward_needed"],
            "s": row["sums"] / 1e9, "sr": row["sums"] / row["sums_needed"],
            "o": row["own"] / 1e9,
        }
        for row in rows
    ]  # fmt: skip
    text = [
        "# Work and error of solving", "",
        "Written by `python benchmarks/operations.py --data-root DIR`.",
        machine("torch") + ".", "",
        "All units at w4a4, first and last at 8 bits. Operations of matrix products and",
        "convolutions while units are solved, beside the least that each part needs: *forward*",
        "two passes over the samples in sequence, one in parallel; *sums* the float targets and",
        "the second moments of the rows that are taken; *own* the method's work on a unit, for",
        "the quadratic solver also in sweeps of `2 C N^2` over all units. The output error is that",
        "on held-out rows over nearest rounding's, the geometric mean over units.", "",
        markdown(shown, COLUMNS), "",
    ]  # fmt: skip
    return "\n".join(text)


def runs(names: list[str], samples: int) -> Iterator[tuple[str, str, str, int]]:
    for name in names:
        for method, mode in RUNS:
            yield name, method, mode, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="*", default=list(CALIBRATION), choices=list(CALIBRATION))
    parser.add_argument("--samples", type=int, default=200)
    arguments = parser.parse_args()
    root = data_root(arguments.data_root)
    torch.set_num_threads(1)
    keep_heap()
    rows = read_csv(RESULTS / "operations.csv")
    for run in runs(arguments.only, arguments.samples):
        rows = [row for row in rows if tuple(row[k] for k in IDENTITY) != run]
        rows.append(measured(root, *run))
        print(rows[-1], flush=True)
        write_csv(RESULTS / "operations.csv", rows)
    (DOCS / "operations.md").write_text(page(rows))


if __name__ == "__main__":
    main()
