"""How far single losses add up: `python benchmarks/interaction.py --data-root DIR`.

Every unit is solved at every choice of the menu and its loss measured alone; then 30 random
allocations are run as whole networks, and their losses compared with the sum of single ones, with
and without the terms of pairs of units (the most interacting neighbours, measured at two choices
each, spread over the others). Then bits are allocated under budgets of the size by the sum alone
and with the pairs, and both are run on calibration samples that nothing else has seen.

The loss is the divergence from the float network. Test data are not touched. Writes
benchmarks/results/interaction.csv, interaction_summary.csv and interaction_budgets.csv, and
docs/interaction.md; networks that are left out by --only keep the figures that they have.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tables import DOCS, RESULTS, data_root, machine, markdown, read_csv, write_csv

from bitwright.evaluation import compare
from bitwright.graph.choice import parse_menu
from bitwright.pairing import Paired, with_pairs
from bitwright.preparing import Job, capture_network, prepare, store_at
from bitwright.recipe import make_recipe
from bitwright.run.memory import keep_heap
from bitwright.run.progress import Progress
from bitwright.search.allocate import Allocation, allocate
from bitwright.search.interaction import additivity, allocation_groups, random_allocations
from bitwright.search.sensitivity import softened
from bitwright.search.table import Table
from bitwright.sources.batches import Dataset, rebatch, take
from bitwright.sources.data import load_data
from bitwright.sources.models import load_model
from bitwright.stages import choices_of, forward_of, menu_of
from bitwright.tabulating import Base, measured_menu

MENU = "w8a8,w4a8,w8a4,w4a4,w2a4"
# The choices at which pairs are measured: in the middle of the menu, and its coarsest.
TRIED = ("w4a4", "w2a4")
ALLOCATIONS = 30
BUDGETS = ("bops<=0.014", "bops<=0.016", "bops<=0.022", "bops<=0.032")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network, its calibration data and how many samples are used for what."""

    name: str
    data: str
    calib: int
    table: int
    apart: int
    pairs: int


NETWORKS = {
    n.name: n
    for n in (
        Network("resnet20", "cifar_calib", 500, 128, 500, 40),
        Network("resnet56", "cifar_calib", 500, 128, 500, 80),
        Network("efficientnet_lite0", "lite0_calib", 128, 32, 64, 60),
    )
}


def measured(root: Path, network: Network, store: Path | None) -> tuple[Base, Table, Dataset]:
    """The solved menu and its table, and the samples that were not used for them."""
    options = {
        "menu": MENU, "budget": "size<=1", "method": "quadratic", "keep": "first,last=w8a8",
        "calib": network.calib, "table_samples": network.table,
    }  # fmt: skip
    recipe = make_recipe("fixed", options)
    loaded = load_model(f"{root}/models.py:{network.name}")
    data = load_data(f"{root}/loaders.py:{network.data}")
    job = Job(loaded.module, data, recipe, loaded.example_inputs, store=store_at(store))
    graph = capture_network(job)
    base, wanted = choices_of(graph, recipe), menu_of(graph, recipe)
    seen = {name: tuple(dict.fromkeys((base[name], *wanted[name]))) for name in wanted}
    prepared = replace(prepare(job, graph, seen, Progress()), menu=wanted)
    return (*measured_menu(job, prepared, Progress()), apart(data, network))


def apart(data: Dataset, network: Network) -> Dataset:
    """The calibration samples after those that were used."""
    batches = list(take(data, network.calib + network.apart))
    whole = list(rebatch(Dataset("all", lambda: iter(batches)), network.calib))
    return Dataset("apart", lambda: iter(whole[1:]))


def random_rows(base: Base, network: Network, paired: Paired) -> tuple[list[Figures], Figures]:
    """Random allocations, predicted and measured; and how well ranks and sizes agree."""
    menu = base.prepared.menu
    allocations = random_allocations(menu, ALLOCATIONS, seed=0)
    mixed = base.measured(allocation_groups(base.changes, allocations))
    plain = additivity(base.single, mixed, allocations)
    soft = additivity(softened(base.single), softened(mixed), allocations, paired.terms)
    pairwise = soft.pairwise or soft.predicted
    rows = [
        {
            "network": network.name, "allocation": i,
            "plain_predicted": plain.predicted[i], "plain_measured": plain.measured[i].loss,
            "plain_stderr": plain.measured[i].stderr, "predicted": soft.predicted[i],
            "pairwise": pairwise[i], "measured": soft.measured[i].loss,
            "stderr": soft.measured[i].stderr,
        }
        for i in range(ALLOCATIONS)
    ]  # fmt: skip
    return rows, {
        "network": network.name,
        "units": len(menu),
        "pairs": paired.pairs,
        "measured_pairs": paired.measured,
        "plain_rank": plain.rank,
        "rank": soft.rank,
        "rank_pairwise": soft.rank_pairwise,
        "plain_error": _error(rows, "plain_predicted", "plain_measured"),
        "error": _error(rows, "predicted", "measured"),
        "error_pairwise": _error(rows, "pairwise", "measured"),
    }


def _error(rows: Sequence[Figures], name: str, truth: str) -> float:
    """The median of the relative errors."""
    return statistics.median(abs(row[name] / row[truth] - 1) for row in rows)


def budget_rows(
    base: Base, table: Table, paired: Paired, network: Network, held_out: Dataset
) -> list[Figures]:
    """Bits allocated with and without the pairs, run on samples that nothing else has seen."""
    rows = []
    for budget in BUDGETS:
        for name, own in (("additive", table), ("pairwise", paired.table)):
            found = allocate(own, budget, advise=False)
            if found.rows is None:
                print(f"{network.name}, {budget}: {found.status}")
                continue
            rows.append(_run(base, found, held_out))
            rows[-1] |= {"network": network.name, "budget": budget, "allocation": name}
            print(rows[-1], flush=True)
    return rows


def _run(base: Base, found: Allocation, held_out: Dataset) -> Figures:
    graph = base.prepared.graph
    forwards = (forward_of(graph, m) for m in (graph.module, base.solutions.module(found.choices)))
    seen = compare(*forwards, rebatch(held_out, 25), None)
    return {
        "predicted": found.loss,
        "measured": base.run(found.choices)["loss"] - base.figures["loss"],
        "kl": seen["kl"],
        "agreement": seen["agreement"],
        "noise": seen["relative_noise"],
        "status": found.status,
    }


def study(root: Path, network: Network, store: Path | None) -> dict[str, list[Figures]]:
    """Everything of one network."""
    started = time.process_time()
    base, table, held_out = measured(root, network, store)
    solved = time.process_time()
    tried = dict.fromkeys(table.units, parse_menu(",".join(TRIED)))
    paired = with_pairs(base, table, tried, network.pairs)
    rows, summary = random_rows(base, network, paired)
    summary |= {
        "table_seconds": solved - started, "seconds": time.process_time() - started,
        "samples": network.table,
    }  # fmt: skip
    print(summary, flush=True)
    budgets = budget_rows(base, table, paired, network, held_out)
    return {"interaction": rows, "interaction_summary": [summary], "interaction_budgets": budgets}


RANKS = {
    "network": "{network}", "units": "{units}", "samples": "{samples}", "pairs": "{pairs}",
    "plain: Spearman": "{plain_rank:.3f}", "error": "{plain_error:.0%}",
    "softened: Spearman": "{rank:.3f}", "error ": "{error:.0%}",
    "with pairs: Spearman": "{rank_pairwise:.3f}", "error  ": "{error_pairwise:.0%}",
    "table s": "{table_seconds:.0f}", "all s": "{seconds:.0f}",
}  # fmt: skip
GAINS = {
    "network": "{network}", "budget": "{budget}", "allocation": "{allocation}",
    "predicted": "{predicted:.4g}", "measured": "{measured:.4g}", "held-out KL": "{kl:.4g}",
    "held-out agreement": "{agreement:.2%}", "held-out noise": "{noise:.3%}",
}  # fmt: skip


def page(summaries: Sequence[Figures], budgets: Sequence[Figures]) -> str:
    return "\n".join([
        "# Do single losses add up?",
        "",
        "Written by `python benchmarks/interaction.py --data-root DIR` (one thread).",
        f"{machine('torch', 'scipy')}.",
        "",
        "An allocation is chosen by a sum: what each unit's choice does to the loss when all other",
        f"units stay at 8 bits. Here {ALLOCATIONS} random allocations a network are run as whole",
        f"networks and compared with that sum. Menu `{MENU}`, first and last unit at 8 bits,",
        "quadratic solver, nothing tuned. Random allocations range from coarse to fine: each first",
        "draws how frequent every choice is in it.",
        "",
        "*Plain*: the KL divergence from the float network, on so many calibration samples.",
        "*Softened*: T^2 times the divergence of answers softened by a temperature T of three",
        "standard deviations of the scores. Divergence between confident answers is nearly all due",
        "to a few samples, which every disturbance moves; softened, every sample has its say. The",
        "table's `loss_delta` is the plain one; allocations go by `loss_fitted`, the softened one",
        "in the plain one's units.",
        "",
        "*With pairs*: the most interacting pairs of units (neighbours, and units that lose most)",
        f"were measured together at {' and '.join(f'`{c}`' for c in TRIED)}; what two units lose",
        "beyond the sum of each, as far as it is no noise, is added to the prediction",
        "(`search/interaction.py`).",
        "",
        markdown(summaries, RANKS),
        "",
        "*Error*: of the predicted change of the loss relative to the measured one, the median.",
        "Seconds are of the processor: solving and measuring the table, and all of it.",
        "",
        "## What the correction gains",
        "",
        "Bits allocated under budgets of the bit operations by the sum alone and with the pairs.",
        "*Predicted* and *measured* are the change of the plain loss on the table's samples, the",
        "rest is on calibration samples that were used for nothing else; noise is the squared",
        "difference of the outputs relative to their squares.",
        "",
        markdown(budgets, GAINS),
        "",
        *_verdict(summaries, budgets),
        "",
    ])  # fmt: skip


def _verdict(summaries: Sequence[Figures], budgets: Sequence[Figures]) -> list[str]:
    """What the figures say, counted."""
    ranks = [s["rank_pairwise"] - s["rank"] for s in summaries]
    pairs: dict[tuple[str, str], dict[str, float]] = {}
    for row in budgets:
        place = pairs.setdefault((row["network"], row["budget"]), {})
        place[row["allocation"]] = row["noise"]
    both = [p for p in pairs.values() if len(p) == 2]
    better = sum(p["pairwise"] < p["additive"] for p in both)
    same = sum(p["pairwise"] == p["additive"] for p in both)
    return [
        f"The pairs changed the rank correlation by {' and '.join(f'{r:+.3f}' for r in ranks)}. Of",
        f"{len(both)} allocations with them {same} were the same as without, {better} had less",
        f"noise on held-out samples, and {len(both) - same - better} more.",
        "`bitwright quantize --pairwise N` runs both and keeps the better one.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--store", type=Path, default=None, help="keeps solutions and losses")
    args = parser.parse_args()
    keep_heap()
    torch.set_num_threads(1)
    root = data_root(args.data_root)
    for name in args.only:
        found = study(root, NETWORKS[name], args.store)
        for kind, rows in found.items():
            path = RESULTS / f"{kind}.csv"
            known = [row for row in read_csv(path) if row["network"] != name]
            order = list(NETWORKS)
            write_csv(path, sorted([*known, *rows], key=lambda row: order.index(row["network"])))
        summaries = read_csv(RESULTS / "interaction_summary.csv")
        (DOCS / "interaction.md").write_text(
            page(summaries, read_csv(RESULTS / "interaction_budgets.csv"))
        )
    print(f"wrote {DOCS / 'interaction.md'}")


if __name__ == "__main__":
    main()
