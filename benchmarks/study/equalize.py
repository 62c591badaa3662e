"""What evening out the channels of streams by data brings at four bits.

    python -m benchmarks.study.equalize --data-root DIR [--only resnet20 ...] [--seeds 3]

Quadratic in sequence, w4a4, first and last layer at eight bits, target `paper`. Calibration images
are drawn by the seed; agreement and both divergences are those of other calibration images, so test
data choose nothing. Processor seconds of one thread: of the step alone, and of the solving. Prints
a table, keeps its rows in benchmarks/results/equalize.csv and writes docs/measured/equalize.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import MEASURED, RESULTS, data_root, markdown, read_csv, write_csv
from bitwright.engine.progress import Event, Progress
from bitwright.numerics.losses import kl_divergence

RESULT = RESULTS / "equalize.csv"
Row = dict[str, Any]

# Calibration images; the judges are the others, at most so many.
IMAGES = {"resnet20": 500, "resnet56": 500, "mobilenet_v2_dogs": 200}
JUDGES = 500
STEPS = ("none", "balance", "equalize-learned")
SOFT = 4.0
COLUMNS = {
    "network": "{network}", "`--prepare`": "{step}", "seeds": "{seeds}", "images": "{images}",
    "judges": "{judges}", "agreement": "{agreement:.2%}", "KL": "{kl:.4g}",
    "KL at temperature 4": "{soft:.4g}", "step, s": "{step_s:.0f}", "solve, s": "{solve_s:.0f}",
}  # fmt: skip
PAGE = """# Channels evened out by data

`python -m benchmarks.study.equalize`: quadratic in sequence, w4a4, first and last layer at eight
bits. Mean over seeds; every seed draws its calibration images and is judged on others that the run
did not see, in part images that the network was trained on, so agreement is high and the divergence
says more. Processor seconds of one thread.

{table}

What the steps compute is told in
[methods](../methods.md#streams-of-channels-evened-out-by-data).
"""


def split(root: Path, name: str, seed: int) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Calibration images, and labelled images that are not among them."""
    every = list(batches_of(root, DATA[name][0]))
    x, y = (torch.cat(parts) for parts in zip(*every, strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    count = IMAGES[name]
    chosen, rest = order[:count], order[count : count + JUDGES]
    return list(x[chosen].split(50)), list(zip(x[rest].split(50), y[rest].split(50), strict=True))


def measure(root: Path, name: str, step: str, seed: int) -> Row:
    """One network after one step."""
    images, held = split(root, name, seed)
    began: dict[str, float] = {}
    taken: dict[str, float] = {"prepare": 0.0}

    def tell(event: Event) -> None:
        if event.kind == "start":
            began[event.stage] = time.process_time()
        elif event.kind == "end":
            taken[event.stage] = time.process_time() - began[event.stage]

    network = network_of(root, name)
    result = bw.quantize(
        network, images, evaluation=held, recipe="fixed", scheme="w4a4", method="quadratic",
        mode="sequential", keep="first,last=w8a8", calib=IMAGES[name], seed=seed, workers=1,
        prepare="" if step == "none" else step, progress=Progress([tell]),
    )  # fmt: skip
    soft = []
    with torch.inference_mode():
        for x, _ in held:
            pair = network(x) / SOFT, result.model(x) / SOFT
            soft.append(float(kl_divergence(*pair)) * SOFT**2 * len(x))
    judges = sum(len(x) for x, _ in held)
    return {
        "network": name, "step": step, "seed": seed, "images": IMAGES[name], "judges": judges,
        "agreement": result.metrics.agreement, "kl": result.metrics.kl,
        "soft": sum(soft) / judges, "step_s": round(taken["prepare"], 1),
        "solve_s": round(taken["solve"], 1),
    }  # fmt: skip


def average(rows: list[Row]) -> list[Row]:
    """Means over the seeds."""
    found = []
    for key in dict.fromkeys((row["network"], row["step"]) for row in rows):
        own = [row for row in rows if (row["network"], row["step"]) == key]
        means = {
            k: statistics.fmean(r[k] for r in own)
            for k in ("agreement", "kl", "soft", "step_s", "solve_s")
        }
        found.append({**own[0], **means, "seeds": len(own)})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    root = data_root(asked.data_root)
    torch.set_num_threads(1)
    for name in asked.only:
        for seed in range(asked.seeds):
            for step in STEPS:
                row = measure(root, name, step, seed)
                print(row, flush=True)
                others = (r for r in read_csv(RESULT))
                same = (name, step, seed)
                kept = [r for r in others if (r["network"], r["step"], r["seed"]) != same]
                write_csv(RESULT, [*kept, row])
    table = markdown(average(read_csv(RESULT)), COLUMNS)
    print(table)
    (MEASURED / "equalize.md").write_text(PAGE.format(table=table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
