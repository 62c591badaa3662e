"""Exact allocation against greedy and uniform, on held-out data: six budgets a network.

    python -m benchmarks.study.budgets --data-root DIR [--only resnet20 ...] [--menu "w{2..8}a8"]

Every budget of the size, evenly spaced from all units at 4 bits to all at 8, is allocated by the
integer program and by both greedy rules, and the best uniform configuration of no greater size
stands beside. All are `bw.quantize` on one store: the menu is solved once and its table measured
once. Writes docs/measured/budgets.md and benchmarks/results/budgets.csv.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.data import DATA, Menu, figures_of, uniform_of
from benchmarks.tables import MEASURED, RESULTS, data_root, markdown, read_csv, write_csv

SOLVERS = ("ip", "greedy-accuracy", "greedy-compression")
NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0")
BUDGETS = 6
KEEP = "first,last=w8a8"
CSV = RESULTS / "budgets.csv"
COLUMNS = {
    "budget": "{budget}", "solver": "{solver}", "size": "{size:.4f}",
    "predicted loss": "{predicted_loss:.4g}", "agreement": "{agreement:.2%}",
    "stderr": "{stderr:.2%}", "top-1": "{top1:.2%}", "KL": "{kl:.4g}",
}  # fmt: skip
HEAD = """\
# Budgets: exact allocation, greedy rules, uniform bits

Written by `python -m benchmarks.study.budgets --data-root DIR`.
Sizes are of model.safetensors as a fraction of the float weights; agreement and top-1 on data not
used for calibration, all configurations stitched from the same solutions (parallel mode, nothing
tuned). The measured tables (one row for every choice of every unit) are not in the repository:
`bitwright quantize` writes them as table.csv.
"""


def row_at(rows: Sequence[Any], bits: int) -> Any:
    """A unit's row at these bits, or the only one it has."""
    return next((row for row in rows if row.choice.w_bits == bits), rows[0])


def sizes_of(menu: Menu) -> list[float]:
    """The budgets, from the size of all units at 4 bits to that of all at 8."""
    table = menu.at(budget="size<=1").table
    whole = sum(32 * table.of(unit)[0].params for unit in table.units)
    low, high = (
        sum(row_at(table.of(unit), bits).weight_bits for unit in table.units) / whole
        for bits in (4, 8)
    )
    return [low + (high - low) * step / (BUDGETS - 1) for step in range(BUDGETS)]


def study(menu: Menu) -> Iterator[dict[str, object]]:
    """A row for every budget and way to choose the bits."""
    said = {"network": menu.network, "menu": menu.options["menu"]}
    for size in sizes_of(menu):
        budget = f"size<={size + 1e-6:.6f}"
        made = {solver: menu.at(budget=budget, solver=solver) for solver in SOLVERS}
        predicted = {solver: found.allocation["objective"] for solver, found in made.items()}
        uniform = uniform_of(made["ip"])
        if uniform is not None:
            predicted["uniform"] = made["ip"].allocation["uniform"]["loss"]
            made["uniform"] = uniform
        for solver, found in made.items():
            row = {"budget": budget, "solver": solver, "predicted_loss": predicted[solver]}
            yield {**said, **row, **figures_of(found)}


def page(rows: list[dict[str, object]]) -> str:
    text = [HEAD]
    for network in dict.fromkeys(str(r["network"]) for r in rows):
        own = [r for r in rows if r["network"] == network]
        shown = [r for r in own if r["solver"] != "spearman"]
        text += [
            f"## {network}", "",
            f"Menu `{own[0]['menu']}`, first and last unit at 8 bits. "
            f"![frontier](budgets_{network}.svg)", "", markdown(shown, COLUMNS), "",
        ]  # fmt: skip
        text += [
            "Spearman's rank correlation of predicted and measured loss over 30 random "
            f"allocations: {float(str(r['agreement'])):.3f}.\n"
            for r in own
            if r["solver"] == "spearman"
        ]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(DATA))
    parser.add_argument("--menu", default="w{2..8}a8")
    parser.add_argument("--calib", type=int, default=1000)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--page", action="store_true", help="write the page, measure nothing")
    given = parser.parse_args()
    root = data_root(given.data_root)
    torch.set_num_threads(1)
    options = {"menu": given.menu, "method": "quadratic", "mode": "parallel", "keep": KEEP,
               "calib": given.calib}  # fmt: skip
    rows = read_csv(CSV)
    with tempfile.TemporaryDirectory() as folder:
        for network in () if given.page else given.only:
            menu = Menu(root, network, given.store or Path(folder), options)
            # What random allocations told of a network is a closed question, and stays.
            rows = [r for r in rows if r["network"] != network or r["solver"] == "spearman"]
            for row in study(menu):
                print(row, flush=True)
                rows.append(row)
            write_csv(CSV, rows)
    (MEASURED / "budgets.md").write_text(page(rows))


if __name__ == "__main__":
    main()
