"""Exact allocation against greedy and uniform, on held-out data: six budgets a network.

    python -m benchmarks.study.budgets --data-root DIR [--only resnet20 ...] [--menu "w{2..8}a8"]

Every unit is solved at every choice of the menu and the table is measured once; then each budget of
the size, evenly spaced from all units at 4 bits to all at 8, is allocated by the integer program
and by both greedy rules, and the best uniform configuration of no greater size stands beside. All
are stitched from the same solutions and run on data that was not used for calibration. Thirty
random allocations tell how far the sum of single losses can be trusted. Writes
docs/measured/budgets.md, docs/budgets_NETWORK.svg and benchmarks/results/budgets.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from scipy.stats import spearmanr

from benchmarks.tables import MEASURED, RESULTS
from bitwright.allocation.allocate import SOLVERS, allocate
from bitwright.allocation.frontier import trace
from bitwright.allocation.table import Table, write_table
from bitwright.engine.memory import keep_heap
from bitwright.engine.progress import Progress
from bitwright.evaluation.compare import compare
from bitwright.evaluation.forward import forward_of
from bitwright.graph.choice import Choice
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.job import Job, capture_network, prepare, store_at
from bitwright.pipeline.plan import Plan, choices_of, menu_of
from bitwright.pipeline.tabulate import measured_menu
from bitwright.report.chart import draw
from bitwright.sensitivity.interaction import random_allocations
from bitwright.sensitivity.table import Base
from bitwright.sources.batches import rebatch
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model

DATA = {
    "resnet20": ("cifar_calib", "cifar_test_jpeg"),
    "resnet56": ("cifar_calib", "cifar_test_jpeg"),
    "efficientnet_lite0": ("lite0_calib", "lite0_val"),
}
BUDGETS = 6


def measured(root: Path, network: str, menu: str, store: Path) -> tuple[Base, Table]:
    """The solved menu and its table."""
    calibration, _ = DATA[network]
    options = {"menu": menu, "budget": "size<=1", "method": "quadratic", "keep": "first,last=w8a8"}
    plan = Plan.of(make_recipe("fixed", options))
    loaded = load_model(f"{root}/models.py:{network}")
    data = load_data(f"{root}/loaders.py:{calibration}")
    job = Job(loaded.module, data, plan, loaded.example_inputs, store=store_at(store))
    graph = capture_network(job)
    base, wanted = choices_of(graph, plan), menu_of(graph, plan)
    seen = {name: tuple(dict.fromkeys((base[name], *wanted[name]))) for name in wanted}
    prepared = replace(prepare(job, graph, seen, Progress()), menu=wanted)
    return measured_menu(job, prepared, Progress())


class Judge:
    """Runs configurations on held-out data; each only once."""

    def __init__(self, base: Base, root: Path, network: str) -> None:
        self.base = base
        self.data = load_data(f"{root}/loaders.py:{DATA[network][1]}")
        self.known: dict[tuple[tuple[str, Choice], ...], dict[str, float]] = {}

    def __call__(self, choices: dict[str, Choice]) -> dict[str, float]:
        key = tuple(sorted(choices.items(), key=lambda item: item[0]))
        if key not in self.known:
            self.known[key] = self._run(choices)
        return self.known[key]

    def _run(self, choices: dict[str, Choice]) -> dict[str, float]:
        from bitwright.evaluation.metrics import metric

        graph = self.base.prepared.graph
        module = self.base.solutions.module(choices)
        forwards = (forward_of(graph, graph.module), forward_of(graph, module))
        found = compare(*forwards, rebatch(self.data, 50), metric("top1"))
        agreement, count = found["agreement"], found["samples"]
        return {
            "top1": found["quantized"]["top1"],
            "float_top1": found["float"]["top1"],
            "agreement": agreement,
            "stderr": math.sqrt(agreement * (1 - agreement) / count),
            "kl": found["kl"],
        }


def uniform_choices(table: Table, choice: Choice) -> dict[str, Choice]:
    """One choice wherever there is one."""
    return {
        unit: choice if choice in {r.choice for r in table.of(unit)} else table.of(unit)[0].choice
        for unit in table.units
    }


def size_of(table: Table, choices: dict[str, Choice]) -> int:
    return sum(r.weight_bits for u in table.units for r in table.of(u) if r.choice == choices[u])


def study(root: Path, network: str, menu: str, store: Path) -> list[dict[str, object]]:
    """All rows of one network."""
    base, table = measured(root, network, menu, store)
    write_table(RESULTS / f"budgets_table_{network}.csv", table)
    (MEASURED / f"budgets_{network}.svg").write_text(draw(trace(table, "size")))
    judge = Judge(base, root, network)
    whole = 32 * sum(table.of(u)[0].params for u in table.units)
    low, high = (size_of(table, uniform_choices(table, Choice(bits, 8))) for bits in (4, 8))
    rows: list[dict[str, object]] = []
    for step in range(BUDGETS):
        limit = low + (high - low) * step // (BUDGETS - 1)
        budget = f"size<={math.ceil(1e6 * limit / whole) / 1e6}"
        configurations = {}
        for solver in SOLVERS:
            found = allocate(table, budget, solver=solver)
            if found.rows is not None:
                configurations[solver] = (dict(found.choices), found.loss)
            if found.uniform is not None and solver == SOLVERS[0]:
                same = uniform_choices(table, found.uniform.choice)
                configurations["uniform"] = (same, found.uniform.loss)
        for solver, (choices, loss) in configurations.items():
            rows.append({
                "network": network, "menu": menu, "budget": budget, "solver": solver,
                "size": size_of(table, choices) / whole, "predicted_loss": loss, **judge(choices),
            })  # fmt: skip
            print(rows[-1], flush=True)
    rows.append(additivity(base, table, network, menu))
    print(rows[-1], flush=True)
    return rows


def additivity(base: Base, table: Table, network: str, menu: str) -> dict[str, object]:
    """Rank agreement of predicted and measured loss over random allocations."""
    free = {u: tuple(r.choice for r in table.of(u)) for u in table.units}
    told, seen = [], []
    for allocation in random_allocations(free, 30, 0):
        choices = {u: allocation.get(u, table.of(u)[0].choice) for u in table.units}
        rows = [r for u in table.units for r in table.of(u) if r.choice == choices[u]]
        told.append(sum(r.loss or 0.0 for r in rows))
        seen.append(base.run(choices)["loss"])
    return {
        "network": network, "menu": menu, "budget": "30 random", "solver": "spearman",
        "agreement": float(spearmanr(told, seen).statistic),
    }  # fmt: skip


def page(rows: list[dict[str, object]]) -> str:
    lines = [
        "# Budgets: exact allocation, greedy rules, uniform bits",
        "",
        "Written by `python -m benchmarks.study.budgets --data-root DIR`.",
        "Sizes are of model.safetensors",
        "as a fraction of the float weights; agreement and top-1 on data not used for calibration,",
        "all configurations stitched from the same solutions (parallel mode, nothing tuned).",
        "",
    ]
    for network in dict.fromkeys(str(r["network"]) for r in rows):
        own = [r for r in rows if r["network"] == network]
        lines += [
            f"## {network}",
            "",
            f"Menu `{own[0]['menu']}`, first and last unit at 8 bits. "
            f"![frontier](budgets_{network}.svg)",
            "",
            "| budget | solver | size | predicted loss | agreement | stderr | top-1 | KL |",
            "| --- " * 8 + "|",
        ]
        for r in own:
            if r["solver"] == "spearman":
                continue
            lines.append(
                f"| {r['budget']} | {r['solver']} | {float(r['size']):.4f} "
                f"| {float(r['predicted_loss']):.4g} | {float(r['agreement']):.2%} "
                f"| {float(r['stderr']):.2%} | {float(r['top1']):.2%} | {float(r['kl']):.4g} |"
            )
        for r in own:
            if r["solver"] == "spearman":
                lines += ["", "Spearman's rank correlation of predicted and measured loss over 30 "
                          f"random allocations: {float(r['agreement']):.3f}.", ""]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(DATA))
    parser.add_argument("--menu", default="w{2..8}a8")
    parser.add_argument("--store", type=Path, default=None)
    arguments = parser.parse_args()
    root = arguments.data_root.absolute()
    if not (root / "models.py").is_file():
        print(f"no benchmark data at {arguments.data_root}: nothing measured")
        return
    keep_heap()
    torch.set_num_threads(1)
    result = RESULTS / "budgets.csv"
    rows: list[dict[str, object]] = []
    if result.is_file():
        with result.open(newline="") as file:
            rows = [r for r in csv.DictReader(file) if r["network"] not in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.only:
            store = arguments.store or Path(folder)
            rows += study(root, network, arguments.menu, store)
            names = list(dict.fromkeys(k for row in rows for k in row))
            with result.open("w", newline="") as file:
                writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            (MEASURED / "budgets.md").write_text(page(rows))


if __name__ == "__main__":
    main()
