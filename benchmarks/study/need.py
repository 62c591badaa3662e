"""Whole networks solved from rows by need, beside the many rows of before.

    python -m benchmarks.study.need --data-root DIR [--only resnet20 ...] [--seeds 3]

Both ways take the same calibration images, drawn by the seed; agreement, top-1 and KL are those of
images that the run did not see: calibration images left over, or (dogs, whose calibration images
are few) the test images. Processor seconds of the stages `observe` and `solve` in one process on
one thread. Prints a table and keeps its rows in benchmarks/results/need.csv.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import RESULTS, data_root, markdown, read_csv, write_csv
from bitwright.engine.progress import Event, Progress
from bitwright.solving import collect

RESULT = RESULTS / "need.csv"
Batches = list[tuple[Tensor, Tensor]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How a network is quantised and from how many images; what it is judged on."""

    scheme: str
    images: int
    judged_on_tests: bool = False


SETTINGS = {
    "resnet20": Setting("w4a4", 300),
    "efficientnet_lite0": Setting("w4a8", 400),
    "mobilenet_v2_dogs": Setting("w4a8", 300, judged_on_tests=True),
}
# Rows of a unit: so many, or so many for each of its inputs where that is more.
RULES = {
    "many rows": (1 << 16, 48),
    "8192, 32 N": (1 << 13, 32),
    "by need": (collect.ROWS, collect.ROWS_PER_INPUT),
}
COLUMNS = {
    "network": "{network}", "rows": "{rows}", "seeds": "{seeds}", "images": "{images}",
    "judged on": "{samples}", "agreement": "{agreement:.2%}", "deviation": "{deviation:.2%}",
    "KL": "{kl:.4g}", "deviation of KL": "{kl_deviation:.2g}", "observe, s": "{observe_s:.0f}",
    "solve, s": "{solve_s:.0f}",
}  # fmt: skip


def split(root: Path, name: str, seed: int) -> tuple[list[Tensor], Batches]:
    """Calibration images, and labelled images that are not among them."""
    setting = SETTINGS[name]
    every = list(batches_of(root, DATA[name][0]))
    x, y = (torch.cat(parts) for parts in zip(*every, strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    chosen, rest = order[: setting.images], order[setting.images :]
    if setting.judged_on_tests:
        return list(x[chosen].split(50)), list(batches_of(root, DATA[name][1]))
    return list(x[chosen].split(50)), list(zip(x[rest].split(100), y[rest].split(100), strict=True))


def measure(root: Path, name: str, seed: int, rule: str) -> Row:
    """One network solved with the rows of one rule."""
    setting = SETTINGS[name]
    images, held = split(root, name, seed)
    started: dict[str, float] = {}
    taken: dict[str, float] = {}

    def tell(event: Event) -> None:
        if event.kind == "start":
            started[event.stage] = time.process_time()
        elif event.kind == "end":
            taken[event.stage] = time.process_time() - started[event.stage]

    collect.ROWS, collect.ROWS_PER_INPUT = RULES[rule]
    metrics = bw.quantize(
        network_of(root, name), images, evaluation=held, recipe="fixed", scheme=setting.scheme,
        method="quadratic", mode="sequential", keep="first,last=w8a8", calib=setting.images,
        seed=seed, workers=1, progress=Progress([tell]),
    ).metrics  # fmt: skip
    return {
        "network": name, "rows": rule, "seed": seed, "images": setting.images,
        "samples": metrics.samples, "agreement": metrics.agreement, "kl": metrics.kl,
        "top1": metrics.after["top1"], "observe_s": round(taken["observe"], 1),
        "solve_s": round(taken["solve"], 1),
    }  # fmt: skip


def average(rows: list[Row]) -> list[Row]:
    """Mean and deviation over the seeds."""
    found = []
    for key in dict.fromkeys((row["network"], row["rows"]) for row in rows):
        own = [row for row in rows if (row["network"], row["rows"]) == key]
        mean = {
            k: statistics.fmean(r[k] for r in own)
            for k in ("agreement", "kl", "observe_s", "solve_s")
        }
        spread = {
            name: statistics.stdev(r[k] for r in own) if own[1:] else float("nan")
            for name, k in (("deviation", "agreement"), ("kl_deviation", "kl"))
        }
        found.append({**own[0], **mean, **spread, "seeds": len(own)})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    root = data_root(asked.data_root)
    torch.set_num_threads(1)
    for name in asked.only:
        for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
            for rule in RULES:
                row = measure(root, name, seed, rule)
                print(row, flush=True)
                identity = (name, rule, seed)
                others = (r for r in read_csv(RESULT))
                kept = [r for r in others if (r["network"], r["rows"], r["seed"]) != identity]
                write_csv(RESULT, [*kept, row])
    print(markdown(average(read_csv(RESULT)), COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
