"""Weights as sums of low-bit tensors: a device of 2 and 4 bits, with points and without.

    python -m benchmarks.study.multipoint --data-root DIR [--only resnet20 ...] [--budgets 6]

At budgets of the bit operations, from all units at w2a8 to all at w8a8, bits are allocated from a
menu of single tensors and from one with sums of them; both on one store and on the test data.
Errors of single units, and the least bit operations at which low-bit tensors alone do as w8a8 does
(`--lossless` finds those), are closed questions: their figures stay in docs/measured/multipoint.md.
Writes benchmarks/results/multipoint_frontiers.csv and the table between that page's markers.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.data import DATA, Menu, figures_of
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    data_root,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)

NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0")
MENUS = {"one point": "w{2,4}a8", "points": "w2a8x{1..4},w4a8x{1..2}"}
# Shares of float's bit operations: 2 x 8 and 8 x 8 of 32 x 32.
LEAST, MOST = 16 / 1024, 64 / 1024
CSV = RESULTS / "multipoint_frontiers.csv"
COLUMNS = {
    "network": "{network}", "BOPs allowed": "{budget:.3g}", "menu": "{menu}",
    "BOPs used": "{bops:.3g}", "predicted loss": "{predicted:.3g}",
    "agreement, test": "{agreement:.2%}", "standard error": "{stderr:.2%}",
    "more than one point": "{more:+.2%} ± {more_stderr:.2%}", "top-1": "{top1:.2%}",
    "KL": "{kl:.3g}",
}  # fmt: skip


def study(root: Path, network: str, store: Path, budgets: int) -> Iterator[dict[str, object]]:
    """A row for every budget and menu."""
    options = {"method": "quadratic", "mode": "parallel", "calib": 512}
    menu = Menu(root, network, store, options)
    for step in range(1, budgets + 1):
        limit = LEAST + (MOST - LEAST) * step / budgets
        for name, choices in MENUS.items():
            found = menu.at(menu=choices, budget=f"bops<={limit:.7f}")
            row = {"network": network, "budget": limit, "menu": name}
            yield {**row, "predicted": found.allocation["objective"], **figures_of(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(DATA))
    parser.add_argument("--budgets", type=int, default=6)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    root = data_root(given.data_root)
    torch.set_num_threads(1)
    rows = read_csv(CSV)
    with tempfile.TemporaryDirectory() as folder:
        for network in given.only:
            rows = [r for r in rows if r["network"] != network]
            for row in study(root, network, given.store or Path(folder), given.budgets):
                print(row, flush=True)
                rows.append(row)
            write_csv(CSV, rows)
    put_between_markers(MEASURED / "multipoint.md", markdown(rows, COLUMNS))


if __name__ == "__main__":
    main()
