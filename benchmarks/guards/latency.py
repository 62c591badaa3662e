"""Are latencies predicted: `python -m benchmarks.guards.latency --data-root DIR`.

EfficientNet-Lite0 on the target ort-cpu with the menu w8a8, w4a8, float. Its table of latencies is
measured as `bitwright measure` does it; then random mixtures and allocations under latency budgets
are exported and timed, and compared with what the table predicts. Budgets are held against invented
losses (seeded): what is tested is the latency, and measured losses would take minutes more. Last,
one `bitwright quantize` with a latency budget measures everything itself, and its file is timed.

Writes docs/measured/latency.md, benchmarks/results/latency.csv (networks) and latency_units.csv
(the table). Times are processor milliseconds of one thread, medians over repetitions in which all
networks take turns: on a machine with other work they say what wall time would be without it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import bitwright as bw
from benchmarks.tables import MEASURED, RESULTS, data_root, machine, markdown, write_csv
from bitwright.allocation.allocate import allocate
from bitwright.allocation.cost import bops, weight_bits
from bitwright.allocation.latencies import with_latencies
from bitwright.allocation.latency_csv import read_latencies, write_latencies
from bitwright.allocation.latency_table import LatencyTable, predict
from bitwright.allocation.table import Row, Table, make_table
from bitwright.cli.commands import run_quantize
from bitwright.engine.progress import Progress
from bitwright.graph.choice import Choice, parse_menu
from bitwright.graph.model_graph import ModelGraph
from bitwright.latency.measure import (
    MeasuredLatency,
    Menu,
    TimingSettings,
    latencies,
    menu_for,
    time_networks,
)
from bitwright.latency.timing import conditions_here
from bitwright.sources.models import load_model

NAME = "efficientnet_lite0"
MENU = "w8a8,w4a8,float"
BUDGETS = ("latency<=0.5", "latency<=0.6", "latency<=0.75 and size<=0.5", "latency<=0.9")
PHOTOS = 64
Figures = dict[str, Any]


def capture(root: Path) -> tuple[ModelGraph, tuple[torch.Tensor, ...]]:
    """The network, and two images of noise that it is exported and timed on."""
    model = load_model(f"{root}/models.py:{NAME}").module
    example = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return bw.capture(model, (example,)), (example,)


def invented_losses(graph: ModelGraph, menu: Menu, seed: int) -> Table:
    """Losses that fall with the bits, over three magnitudes from unit to unit."""
    r = random.Random(seed)
    rows = []
    for unit in graph.units:
        scale = r.lognormvariate(-5, 1.5)
        for choice in menu[unit.name]:
            loss = {4: 20 * scale, 8: scale, 0: 0.0}[choice.w_bits]
            bits = weight_bits(unit.params, unit.shape[unit.channel_axis], choice)
            rows.append(
                Row(unit.name, choice, loss, unit.params, bits, unit.macs, bops(unit.macs, choice))
            )
    return make_table(rows)


def sum_of_units(table: LatencyTable, choices: Mapping[str, Choice]) -> float:
    """What a table without borders would predict."""
    return sum(table.own(unit, choice) for unit, choice in choices.items())


def row_of(
    kind: str, label: str, table: LatencyTable, choices: Mapping[str, Choice], measured: float
) -> Figures:
    predicted, plain = predict(table, choices), sum_of_units(table, choices)
    counts = Counter(str(choice) for choice in choices.values())
    return {
        "kind": kind,
        "network": label,
        "bits": ", ".join(f"{n} x {choice}" for choice, n in sorted(counts.items())),
        "predicted": predicted,
        "measured": measured,
        "error": predicted / measured - 1,
        "sum_of_units": plain,
        "sum_error": plain / measured - 1,
    }


def uniform_rows(found: MeasuredLatency, menu: Menu) -> list[Figures]:
    """Networks of one choice: the table is made from them, so the error is none."""
    made = {check.label: check.measured for check in found.uniform}
    choices = {str(choice): choice for own in menu.values() for choice in own}
    return [
        row_of("uniform", label, found.table, dict.fromkeys(menu, choice), made[label])
        for label, choice in choices.items()
    ]


def allocations(graph: ModelGraph, menu: Menu, table: LatencyTable) -> dict[str, Any]:
    """The allocation of each budget, by budget and seed of the losses."""
    found = {}
    for text in BUDGETS:
        for seed in (1, 2):
            made = allocate(with_latencies(invented_losses(graph, menu, seed), table), text)
            if made.rows is None:
                print(f"{text}: {made.status}")
                continue
            label = f"{text}, losses {seed}"
            found[label] = made.choices
            print(label, f"{predict(table, made.choices):.3f} ms, {made.status}", flush=True)
    return found


def deployed(root: Path, repetitions: int) -> Figures:
    """What one command with a latency budget writes, timed in a session of its own.

    It measures its own table of losses and of latencies, whatever was timed before.
    """
    import onnxruntime as ort

    budget = "latency<=0.6"
    options = {
        "model": f"{root}/models.py:{NAME}", "data": f"{root}/loaders.py:lite0_calib",
        "calib": PHOTOS, "table_samples": PHOTOS, "target": "ort-cpu", "menu": "w8a8,float",
        "budget": budget,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_quantize("fixed", options, out, Progress())
        table = read_latencies(out / "latency.csv")
        record = json.loads((out / "allocation.json").read_text())
        session_options = ort.SessionOptions()
        session_options.intra_op_num_threads = 1
        session = ort.InferenceSession(
            str(out / "model.onnx"), session_options, providers=["CPUExecutionProvider"]
        )
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    feed = {session.get_inputs()[0].name: image.numpy()}
    taken = []
    for _ in range(repetitions + 5):
        started = time.process_time()
        session.run(None, feed)
        taken.append(1000 * (time.process_time() - started))
    choices = {unit: Choice(**bits) for unit, bits in record["choices"].items()}
    row = row_of(
        "deployed", f"quantize --budget '{budget}'", table, choices, statistics.median(taken[5:])
    )
    # What the run itself stated.
    spent = record["budgets"]["latency"]
    return {**row, "predicted": spent["used"], "error": spent["used"] / row["measured"] - 1}


def run(root: Path, repetitions: int, checks: int) -> tuple[MeasuredLatency, list[Figures], float]:
    """Measure the table, then networks that it was not made from; and how long the table took."""
    graph, example = capture(root)
    target = bw.load_target("ort-cpu")
    menu = menu_for(graph, target, parse_menu(MENU))
    settings = TimingSettings(repetitions=repetitions, checks=checks)
    started = time.perf_counter()
    found = latencies(graph, target, menu, example, settings)
    seconds = time.perf_counter() - started
    rows = uniform_rows(found, menu)
    rows += [
        row_of("mixture", check.design.label, found.table, check.design.choices, check.measured)
        for check in found.checks
    ]
    chosen = allocations(graph, menu, found.table)
    timings = time_networks(graph, target, example, chosen, settings)
    rows += [
        row_of("allocation", label, found.table, chosen[label], timing.ms)
        for label, timing in timings.items()
    ]
    rows.append(deployed(root, 2 * repetitions))
    return found, rows, seconds


COLUMNS = {
    "network": "{network}", "units": "{bits}", "predicted ms": "{predicted:.2f}",
    "measured ms": "{measured:.2f}", "error": "{error:+.1%}",
    "sum of units ms": "{sum_of_units:.2f}", "its error": "{sum_error:+.1%}",
}  # fmt: skip


def page(found: MeasuredLatency, rows: Sequence[Figures], seconds: float) -> str:
    table = found.table
    mixed = [row for row in rows if row["kind"] != "uniform"]
    worst = max(abs(row["error"]) for row in mixed)
    middle = statistics.median(abs(row["error"]) for row in mixed)
    plain = max(abs(row["sum_error"]) for row in mixed)
    file = next(row for row in rows if row["kind"] == "deployed")
    here = conditions_here("ort-cpu", 1, 1)
    columns = {str(choice): f"{{{choice}:.3f}}" for choice in table.rest}
    text = [
        "# Latency, predicted and measured",
        "",
        "Written by `python -m benchmarks.guards.latency --data-root DIR`.",
        "EfficientNet-Lite0, target",
        f"`ort-cpu`, menu `{MENU}`, batch 1, one thread. Times are processor milliseconds, medians",
        "over repetitions in which all networks take turns. The machine had other work.",
        "",
        f"{here.processor}; {machine('torch', 'onnxruntime')}.",
        "",
        "## How",
        "",
        "`bitwright measure` exports the whole network once for every choice that the runtime sees",
        "as different (six bits of a weight are held in eight, so `w6a8` is `w8a8`), runs it with",
        "ONNX Runtime's profiler, and gives each operator's time to its unit by the names that are",
        "left after fusion. Conversions belong to the unit that needs them; what is no unit is the",
        "rest. The parts are scaled to sum to the time without the profiler.",
        "",
        "A unit is as fast as its neighbours let it be. Among quantised inputs, whatever their",
        "bits, the sum of units is the network. A float unit beside them costs more than itself:",
        "the unit before it has no integer kernel any more, since its result is not quantised, and",
        "values are converted. What such a border adds is measured in networks with every third",
        "unit in float, and is added between neighbours: in the program that allocates bits these",
        "are products of choices, so a budget is held by the network and not by a sum of units,",
        "and an optimum is proven (`allocation/latencies.py`). `latency<=0.6` is a fraction of the",
        "whole float network, the rest included.",
        "",
        "`bitwright quantize` with a budget of the latency (or `--minimize latency`) measures its",
        "menu itself, once: the table goes into the run as `latency.csv`, and `bitwright allocate`",
        "and `explain` count with it.",
        "",
        "```console",
        "bitwright quantize mine.py:network --data mine.py:calibration --target ort-cpu \\",
        "    --menu w8a8,float --budget 'latency<=0.6' --out runs/fast",
        "bitwright allocate runs/fast --budget 'latency<=0.7' --out other.json",
        "```",
        "",
        "## Figures",
        "",
        "Uniform networks are what the table was made from. *Sum of units* leaves out the borders.",
        "Mixtures are random, unit by unit or in stretches. Allocations hold budgets against",
        "invented losses and were timed after the table. The last line is one command: its own",
        f"tables of losses and latencies (on {PHOTOS} photos, menu w8a8, float), the latency that",
        "it states in `allocation.json`, and its `model.onnx` timed in a session of its own.",
        "",
        markdown(rows, COLUMNS),
        "",
        f"Error of the prediction over the {len(mixed)} networks that the table was not made from:",
        f"median {middle:.1%}, at most {worst:.1%}; of the plain sum of units at most {plain:.1%}.",
        "Target, the file of a latency budget within 15 % of its prediction: "
        f"{abs(file['error']):.1%}, {'**met**' if abs(file['error']) <= 0.15 else '**missed**'}.",
        f"Measuring the table took {seconds:.0f} s for "
        f"{len(found.uniform) + len(found.checks)} networks,",
        "most of it their export.",
        "",
        *four_bits(rows),
        "## The slowest units",
        "",
        markdown(slowest(table), {"unit": "{unit}", **columns}),
        "",
        "All units are in `benchmarks/results/latency_units.csv`.",
        "",
    ]  # fmt: skip
    return "\n".join(text)


def four_bits(rows: Sequence[Figures]) -> list[str]:
    """Why 4-bit weights are slow, where they are."""
    ms = {row["network"]: row["measured"] for row in rows}
    if ms["w4a8"] < 1.2 * ms["w8a8"]:
        return []
    return [
        f"`w4a8` takes {ms['w4a8'] / ms['w8a8']:.1f} times as long as `w8a8` and",
        f"{ms['w4a8'] / ms['float']:.1f} times as long as float: ONNX Runtime finds no integer",
        "kernel for weights stored in 4 bits, dequantises them in every run, multiplies in float.",
        "",
    ]


def slowest(table: LatencyTable, count: int = 10) -> list[Figures]:
    """Milliseconds of the units that take the longest at any choice, and of the rest."""
    rows = [
        {"unit": unit, **{str(choice): table.cells[unit, choice].ms for choice in table.rest}}
        for unit in table.units
    ]
    rows.sort(key=lambda row: -max(v for v in row.values() if isinstance(v, float)))
    return [*rows[:count], {"unit": "the rest", **{str(c): ms for c, ms in table.rest.items()}}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--checks", type=int, default=8, help="random mixtures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found, rows, seconds = run(data_root(args.data_root), args.repetitions, args.checks)
    write_csv(RESULTS / "latency.csv", rows)
    write_latencies(RESULTS / "latency_units.csv", found.table)
    (MEASURED / "latency.md").write_text(page(found, rows, seconds))
    print(f"wrote {MEASURED / 'latency.md'}")


if __name__ == "__main__":
    main()
