"""Does a file keep the latency that its budget promised?

    python -m benchmarks.guards.latency --data-root DIR [--repetitions 25] [--checks 8]

EfficientNet-Lite0 on the target ort-cpu. `bitwright measure` times every unit, and random mixtures
that its table was not made from; then one `bitwright quantize` with a latency budget measures
everything itself, and its file is timed in a session of its own. Ends with 1 where a prediction is
off by more than 15 %. Times are processor milliseconds of one thread, medians. Writes
benchmarks/results/latency.csv; docs/measured/latency.md has more networks, measured once.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import bitwright
from benchmarks.runtime import session
from benchmarks.tables import RESULTS, data_root, read_csv, write_csv

NAME = "efficientnet_lite0"
BOUND = 0.15
MENU = "w8a8,w4a8,float"
BUDGET = "latency<=0.6"
PHOTOS = 64
Figures = dict[str, Any]


def mixtures(root: Path, repetitions: int, checks: int) -> list[Figures]:
    """What `bitwright measure` predicts of networks that its table was not made from."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "bitwright.cli", "measure", f"{root}/models.py:{NAME}",
            "--menu", MENU, "--target", "ort-cpu", "--out", f"{folder}/latency.csv",
            "--repetitions", str(repetitions), "--checks", str(checks), "--json",
        ]  # fmt: skip
        found = json.loads(subprocess.check_output(command, text=True))
    return [
        {
            "kind": "mixture",
            "network": network["label"],
            "predicted": network["predicted"],
            "measured": network["measured"],
            "error": network["predicted"] / network["measured"] - 1,
        }
        for network in found["networks"]
        # The table was made from those of one choice.
        if network["label"] not in MENU.split(",")
    ]


def deployed(root: Path, repetitions: int) -> Figures:
    """What one command with a latency budget states, and its file's median in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        done = bitwright(
            Path(folder) / "run", "quantize", "--recipe", "fixed", f"{root}/models.py:{NAME}",
            "--data", f"{root}/loaders.py:lite0_calib", "--calib", PHOTOS,
            "--table-samples", PHOTOS, "--target", "ort-cpu", "--menu", "w8a8,float",
            "--budget", BUDGET,
        )  # fmt: skip
        stated = done.read("allocation.json")["budgets"]["latency"]["used"]
        runtime = session(done.out / "model.onnx")
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    feed = {runtime.get_inputs()[0].name: image.numpy()}
    taken = []
    for _ in range(repetitions + 5):
        started = time.process_time()
        runtime.run(None, feed)
        taken.append(1000 * (time.process_time() - started))
    measured = statistics.median(taken[5:])
    return {
        "kind": "deployed",
        "network": f"quantize --budget '{BUDGET}'",
        "predicted": stated,
        "measured": measured,
        "error": stated / measured - 1,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--checks", type=int, default=8, help="random mixtures")
    given = parser.parse_args()
    root = data_root(given.data_root)
    rows = [*mixtures(root, given.repetitions, given.checks), deployed(root, given.repetitions)]
    # The lines of budgets that were held against invented losses stay as they were measured.
    kinds = {row["kind"] for row in rows}
    others = [row for row in read_csv(RESULTS / "latency.csv") if row["kind"] not in kinds]
    write_csv(RESULTS / "latency.csv", [*others, *rows])
    beyond = []
    for row in rows:
        said = f"{row['network']}: {row['error']:+.1%}"
        print(said, flush=True)
        beyond += [said] if abs(row["error"]) > BOUND else []
    print(f"off by more than {BOUND:.0%}: {'; '.join(beyond)}" if beyond else "within the bound")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
