"""Fixed 4 bits, solved in sequence, biases tuned: five seeds beside those without tuning."""

from __future__ import annotations

import csv
import statistics

from benchmarks.study.paper.cells import Cell, cell, measured
from benchmarks.study.paper.networks import KEEP
from benchmarks.study.paper.records import Row
from benchmarks.study.paper.study import Study, percent
from benchmarks.tables import RESULTS, markdown

SEEDS = {"resnet20": 5, "resnet56": 3}
METHODS = ("quadratic", "adaquant")


def cells(study: Study) -> list[Cell]:
    """The runs."""
    return [
        cell(name, method, seed, method=method, mode="sequential", scheme="w4a4", keep=KEEP,
             tune="bias")
        for name in study.of(tuple(SEEDS))
        for method in METHODS
        for seed in range(1 if study.scale.quick else SEEDS[name])
    ]  # fmt: skip


def run(study: Study) -> None:
    """Measure what is missing, write the page."""
    records = measured(study, "fixed_tuned", cells(study))
    with (RESULTS / "solve.csv").open(newline="") as file:
        plain = [
            row
            for row in csv.DictReader(file)
            if (row["scheme"], row["mode"], row["first and last"], row["calib"])
            == ("w4a4", "sequential", "w8a8", "1000")
        ]
    shown = []
    for name in SEEDS:
        for method in METHODS:
            before = [r for r in plain if (r["network"], r["method"]) == (name, method)]
            after = records.where(network=name, label=method)
            if after:
                shown += [_line(name, method, "none", before), _line(name, method, "bias", after)]
    columns = {"network": "{network}", "method": "{method}", "tuning": "{tune}", "seeds": "{n}",
               "float top-1": "{f}", "top-1": "{t}", "agreement": "{a}", "deviation": "{d}",
               "KL": "{k}"}  # fmt: skip
    text = [
        "# Fixed 4 bits with tuned biases", "",
        "Written by `python -m benchmarks.study.paper --only fixed_tuned`:",
        "w4a4, first and last unit at",
        "8 bits, solved in sequence. With tuning an eighth of the calibration samples judges and",
        "is not solved on. Lines without tuning are those of [solve.md](../solve.md).", "",
        markdown([line for line in shown if line], columns), "",
    ]  # fmt: skip
    study.publish("fixed_tuned", "\n".join(text))


def _line(name: str, method: str, tune: str, rows: list[Row]) -> dict[str, object]:
    if not rows:
        return {}
    mean = {
        k: statistics.fmean(float(r[k]) for r in rows)
        for k in ("float_top1", "top1", "agreement", "kl")
    }
    spread = [float(r["agreement"]) for r in rows]
    return {
        "network": name, "method": method, "tune": tune, "n": len(rows),
        "f": percent(mean["float_top1"]), "t": percent(mean["top1"]),
        "a": percent(mean["agreement"]), "k": f"{mean['kl']:.3g}",
        "d": percent(statistics.stdev(spread)) if spread[1:] else "-",
    }  # fmt: skip
