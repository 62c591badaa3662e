"""How long exact allocation takes: `python -m benchmarks.guards.allocate`.

Random tables of the size of real ones: seeded, losses that fall by a factor of four a bit, units
that differ by magnitudes. One thread; processor seconds, since machines have other work; each line
the median and the longest of several tables. Writes benchmarks/results/allocate.csv and the table
in docs/allocation.md (between its markers).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import bitwright as bw
from benchmarks.tables import DOCS, RESULTS, machine, markdown, put_between_markers, write_csv
from bitwright.allocation.cost import bops, weight_bits
from bitwright.allocation.explain import explain
from bitwright.allocation.frontier import trace
from bitwright.allocation.question import ask
from bitwright.allocation.table import Row, Table, make_table
from bitwright.graph.choice import Choice

WIDE = [Choice(w, a) for w in range(2, 9) for a in (4, 8)]
RELAXED = [Choice(w, a) for w in range(2, 9) for a in range(2, 9)]
SEEDS = range(5)
COLUMNS = {
    "what": "{what}",
    "units": "{units}",
    "choices": "{choices}",
    "median s": "{median:.2f}",
    "longest s": "{longest:.2f}",
    "largest gap": "{gap:.1g}",
    "target": "{target}",
}


def random_table(seed: int, units: int, menu: Sequence[Choice]) -> Table:
    """Units of 10^2 to 3 10^6 parameters, sensitivities over four magnitudes."""
    r = random.Random(seed)
    rows = []
    for index in range(units):
        params, macs = int(10 ** r.uniform(2, 6.5)), int(10 ** r.uniform(5, 8))
        sensitivity = 10 ** r.uniform(-4, 0)
        for choice in menu:
            noise = 4.0**-choice.w_bits + 0.7 * 4.0**-choice.a_bits
            loss = sensitivity * noise * r.uniform(0.7, 1.3) - 1e-5 * r.random()
            bits = weight_bits(params, 64, choice)
            rows.append(Row(f"unit{index}", choice, loss, params, bits, macs, bops(macs, choice)))
    return make_table(rows)


def one(budgets: str, minimize: str = "", advise: bool = False) -> Callable[[Table], float]:
    def work(table: Table) -> float:
        return gap(bw.allocate(table, budgets, minimize=minimize, advise=advise))

    return work


def gap(found: Any) -> float:
    if found.status != "optimal" or found.gap is None:
        raise SystemExit(f"not proven optimal: {found.status}, gap {found.gap}")
    return found.gap


def hundred(table: Table) -> float:
    """A hundred budgets, from all at 2 bits to all at 8."""
    return max(
        gap(bw.allocate(table, f"size<={0.065 + 0.0018 * i:.4f}", advise=False)) for i in range(100)
    )


def whole_frontier(table: Table) -> float:
    found = trace(table)
    return 0.0 if found.proven else float("nan")


def explained(table: Table) -> float:
    """One unit in the middle, every choice of it forced."""
    found = explain(ask(table, "size<=0.13"), table.units[len(table.units) // 2])
    if any(a.forced is None for a in found.alternatives):
        raise SystemExit("a forced choice was not solved")
    return 0.0


def measure(
    what: str,
    units: int,
    work: Callable[[Table], float],
    target: float,
    menu: Sequence[Choice] = RELAXED,
) -> dict[str, Any]:
    seconds, gaps = [], []
    for seed in SEEDS:
        table = random_table(seed, units, menu)
        started = time.process_time()
        gaps.append(work(table))
        seconds.append(time.process_time() - started)
    longest = max(seconds)
    reached = "met" if longest < target else "not met"
    return {
        "what": what,
        "units": units,
        "choices": len(menu),
        "median": statistics.median(seconds),
        "longest": longest,
        "gap": max(gaps),
        "target": f"< {target:g} s, {reached}" if target < float("inf") else "-",
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    none = float("inf")
    rows = [
        measure("one budget", 60, one("size<=0.13"), none),
        measure("two budgets", 60, one("size<=0.13 and bops<=0.02"), none),
        measure("100 budgets, one by one", 60, hundred, 10),
        measure("the whole frontier", 60, whole_frontier, 10),
        measure("one budget", 1000, one("size<=0.13"), 2),
        measure("one budget, with advice", 1000, one("size<=0.13", advise=True), none),
        measure("two budgets", 1000, one("size<=0.13 and bops<=0.02"), none),
        measure("least size under a loss", 1000, one("loss<=0.01", "size"), none),
        measure("the whole frontier", 1000, whole_frontier, none),
        measure("the whole frontier", 300, whole_frontier, 2, WIDE),
        measure("one budget, with advice", 2000, one("size<=0.13", advise=True), 2, WIDE),
        measure("one unit explained", 2000, explained, 2, WIDE),
        measure("two budgets", 2000, one("size<=0.13 and bops<=0.02"), none, WIDE),
    ]
    write_csv(RESULTS / "allocate.csv", rows)
    put_between_markers(
        DOCS / "allocation.md",
        f"{machine('numpy', 'scipy')}. {len(SEEDS)} tables a line.\n\n{markdown(rows, COLUMNS)}",
    )
    for row in rows:
        print(row)
    slow = [row for row in rows if row["target"].endswith("not met")]
    if slow:
        raise SystemExit(f"too slow: {', '.join(row['what'] for row in slow)}")


if __name__ == "__main__":
    main()
