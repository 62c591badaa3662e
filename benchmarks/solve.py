"""Methods that solve units on data: agreement, top-1, processor time, peak memory.

    python benchmarks/solve.py --data-root DIR [--only resnet20 ...] [--calib 1000]

Each line is one run of `bitwright quantize` in a process of its own, first and last units at 8
bits unless `all` is said. Writes docs/solve.md and benchmarks/results/solve.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DATA = {
    "resnet20": ("cifar_calib", "cifar_test_jpeg"),
    "resnet56": ("cifar_calib", "cifar_test_jpeg"),
    "efficientnet_lite0": ("lite0_calib", "lite0_val"),
    "mobilenet_v1": ("mobilenet_calib", "mobilenet_val"),
    "mobilenet_v2_dogs": ("dogs_calib", "dogs_test"),
}
KEEP = "first,last=w8a8"
RUNS = [
    ("resnet20", "w4a4", "quadratic", "sequential", KEEP),
    ("resnet20", "w4a4", "quadratic", "parallel", KEEP),
    ("resnet20", "w4a4", "nearest", "parallel", KEEP),
    ("resnet20", "w4a4", "quadratic", "sequential", ""),
    ("resnet20", "w4a8", "quadratic", "sequential", ""),
    ("resnet56", "w4a4", "quadratic", "sequential", KEEP),
    ("resnet56", "w4a4", "nearest", "parallel", KEEP),
    ("efficientnet_lite0", "w4a8", "quadratic", "sequential", KEEP),
    ("efficientnet_lite0", "w4a4", "quadratic", "sequential", KEEP),
    ("efficientnet_lite0", "w4a8", "nearest", "parallel", KEEP),
]


def measure(root: Path, run: tuple[str, ...], calib: int) -> dict[str, object]:
    """One run in a fresh folder."""
    network, scheme, method, mode, keep = run
    calibration, test = DATA[network]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable, "-m", "bitwright.cli", "quantize", f"{root}/models.py:{network}",
            "--data", f"{root}/loaders.py:{calibration}", "--eval", f"{root}/loaders.py:{test}",
            "--scheme", scheme, "--method", method, "--mode", mode, "--keep", keep,
            "--calib", str(calib), "--out", str(out), "--quiet",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        metrics = json.loads((out / "metrics.json").read_text())
        verified = json.loads((out / "verify.json").read_text())
    stages = {s["name"]: s for s in metrics["stages"]}
    return {
        "network": network,
        "scheme": scheme,
        "method": method,
        "mode": mode if method != "nearest" else "-",
        "first and last": "w8a8" if keep else "as all",
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "solve_s": stages["solve"]["seconds"],
        "processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": max(s["peak_rss_mb"] for s in metrics["stages"]),
        "runtime_agreement": verified["agreement"],
        "calib": calib,
        "exit": done.returncode,
    }


def page(rows: list[dict[str, object]]) -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Solving units on data",
        "",
        "Written by `python benchmarks/solve.py --data-root DIR`. Each line is one run of",
        "`bitwright quantize` with the target `paper`, one seed, one thread. Calibration:",
        "unlabelled samples that are in no test set; tests: 5000 CIFAR-10 images, 650 photos.",
        "Processor seconds are those of the whole command, evaluation and verification",
        "included; the machine had other work.",
        "",
        "| network | scheme | first, last | method | mode | samples | float top-1 | top-1 "
        "| agreement | KL | solve s | processor s | peak MB |",
        "| --- " * 13 + "|",
    ]
    lines += [
        f"| {r['network']} | {r['scheme']} | {r['first and last']} | {r['method']} | {r['mode']} "
        f"| {r['calib']} | {r['float_top1']:.2%} | {r['top1']:.2%} | {r['agreement']:.2%} "
        f"| {r['kl']:.3g} | {r['solve_s']:.0f} | {r['processor_s']:.0f} | {r['peak_mb']:.0f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(DATA))
    parser.add_argument("--calib", type=int, default=1000)
    arguments = parser.parse_args()
    root = arguments.data_root.absolute()
    if not (root / "models.py").is_file():
        print(f"no benchmark data at {arguments.data_root}: nothing measured")
        return
    rows = []
    for run in RUNS:
        if run[0] not in arguments.only:
            continue
        rows.append(measure(root, run, arguments.calib))
        print(rows[-1], flush=True)
    result = HERE / "results" / "solve.csv"
    with result.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE.parent / "docs" / "solve.md").write_text(page(rows))


if __name__ == "__main__":
    main()
