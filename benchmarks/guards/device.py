"""What a device is worth: the same run on the CPU and on it, stage by stage.

    python -m benchmarks.guards.device --data-root DIR [--device cuda] [--networks resnet20 ...]
        [--samples 400] [--method quadratic]

Without the device it says so and ends with 0. Else each network runs twice in a process of its own,
on one thread of the CPU and on the device; it prints the seconds of every stage, their ratio, the
share of integers that are the same, and both networks' agreement with float. Bits need not be
equal; an agreement that differs by more than --most ends with 1. Writes docs/measured/device.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import MEASURED, data_root, machine, markdown
from bitwright.engine.device import check_device

STAGES = ("observe", "solve", "evaluate")
COLUMNS = {
    "network": "{network}", "stage": "{stage}", "CPU, s": "{cpu:.2f}", "device, s": "{device:.2f}",
    "times": "{times:.1f}", "same integers": "{same:.2%}", "agreement, CPU": "{agreed_cpu:.2%}",
    "agreement, device": "{agreed_device:.2%}",
}  # fmt: skip


def compare(root: Path, name: str, device: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One network on both: a row a stage."""
    results = {
        place: bw.quantize(
            network_of(root, name), batches_of(root, DATA[name][0]), device=place, workers=1,
            **options,
        )
        for place in ("cpu", device)
    }  # fmt: skip
    here, there = results["cpu"], results[device]
    equal = total = 0
    for unit, own in here.assignment.weights.items():
        other = there.assignment.weights[unit].q
        equal, total = equal + int((own.q == other).sum()), total + own.q.numel()
    rows = []
    for stage in STAGES:
        times = {
            place: sum(s.seconds for s in result.progress.stages if s.name == stage)
            for place, result in results.items()
        }
        rows.append(
            {
                "network": name, "stage": stage, "cpu": times["cpu"], "device": times[device],
                "times": times["cpu"] / max(times[device], 1e-9), "same": equal / total,
                "agreed_cpu": here.metrics["agreement"],
                "agreed_device": there.metrics["agreement"],
            }
        )  # fmt: skip
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+", default=("resnet20",), choices=tuple(DATA))
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--method", default="quadratic")
    parser.add_argument("--most", type=float, default=0.02, help="agreements may differ by")
    asked = parser.parse_args()
    root = data_root(asked.data_root)
    try:
        check_device(asked.device)
    except bw.BitwrightError as error:
        print(f"skipped: {error}")
        return 0
    options = {"calib": asked.samples, "method": asked.method, "scheme": "w4a8"}
    rows = [row for name in asked.networks for row in compare(root, name, asked.device, options)]
    table = markdown(rows, COLUMNS)
    print(table)
    text = [
        "# A run on a device", "", "Written by `python -m benchmarks.guards.device`.", "", table,
        "", f"Beside one thread of {machine()}.", "",
    ]  # fmt: skip
    (MEASURED / "device.md").write_text("\n".join(text))
    return int(any(abs(r["agreed_cpu"] - r["agreed_device"]) > asked.most for r in rows))


if __name__ == "__main__":
    sys.exit(main())
