"""Methods that solve units on data: agreement, top-1, processor time, peak memory.

    python -m benchmarks.study.solve --data-root DIR [--only resnet20 ...] [--methods quadratic ...]
                               [--seeds 5] [--calib 1000 [100 10 1]]

Each run is one `bitwright quantize` in a process of its own, first and last units at 8 bits unless
`as all` is said. Runs already in benchmarks/results/solve.csv are repeated only where --again is
given; docs/measured/solve.md shows mean and deviation over the seeds that are there. Several
values of --calib give figure 1 of the paper: accuracy against the size of the calibration set.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from benchmarks.command import bitwright
from benchmarks.data import DATA
from benchmarks.tables import MEASURED, RESULTS

KEEP = "first,last=w8a8"
RUNS = [
    (network, scheme, mode, keep)
    for network, scheme, keep in [
        ("resnet20", "w4a4", KEEP),
        ("resnet20", "w4a4", ""),
        ("resnet56", "w4a4", KEEP),
        ("efficientnet_lite0", "w4a8", KEEP),
        ("efficientnet_lite0", "w4a4", KEEP),
        ("mobilenet_v1", "w4a4", KEEP),
        ("mobilenet_v2_dogs", "w4a4", KEEP),
    ]
    for mode in ("sequential", "parallel")
]
METHODS = ("nearest", "quadratic", "adaquant", "adaround")
IDENTITY = ("network", "scheme", "method", "mode", "first and last", "calib", "seed")
RESULT = RESULTS / "solve.csv"
# Small calibration sets are drawn anew for every seed: what varies is who is in them.
SUBSET = """
import sys
import torch
sys.path.insert(0, {root!r})
import loaders

def subset():
    batches = [b[0] if isinstance(b, (tuple, list)) else b for b in loaders.{loader}()]
    samples = torch.cat(batches)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed({seed}))
    return list(samples[order[:{calib}]].split(50))
"""


def measure(root: Path, run: dict[str, str]) -> dict[str, object]:
    """One run in a fresh folder."""
    network = run["network"]
    keep = KEEP if run["first and last"] == "w8a8" else ""
    calibration, test = DATA[network]
    with tempfile.TemporaryDirectory() as folder:
        data = f"{root}/loaders.py:{calibration}"
        if int(run["calib"]) < 1000:
            loader = Path(folder) / "subset.py"
            loader.write_text(SUBSET.format(root=str(root), loader=calibration, **run))
            data = f"{loader}:subset"
        done = bitwright(
            Path(folder) / "run", "quantize", "--recipe", "fixed", f"{root}/models.py:{network}",
            "--data", data, "--eval", f"{root}/loaders.py:{test}",
            "--scheme", run["scheme"], "--method", run["method"], "--mode", run["mode"],
            "--keep", keep, "--calib", run["calib"], "--seed", run["seed"],
        )  # fmt: skip
        metrics, verified, peak = done.read("metrics.json"), done.read("verify.json"), done.peak_mb
    stages = {s["name"]: s for s in metrics["stages"]}
    return {
        **run,
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "solve_s": stages["solve"]["seconds"],
        "processor_s": done.processor_s,
        "peak_mb": peak,
        "runtime_agreement": verified["agreement"],
        "exit": done.code,
    }


def page(rows: list[dict[str, str]]) -> str:
    """The table as a page of the documentation."""
    lines = [
        "# Solving units on data",
        "",
        "Written by `python -m benchmarks.study.solve --data-root DIR`.",
        "Each line is the mean of some",
        "runs of `bitwright quantize` with the target `paper`, with the standard deviation over",
        "seeds. Calibration: unlabelled samples that are in no test set; tests: 5000 CIFAR-10",
        "images (a lossy copy), 650 photos, 740 photos of dogs. Solve seconds are wall time of",
        "that stage on a machine that had other work, processor seconds those of the whole",
        "command, evaluation and verification included.",
        "",
        "| network | scheme | first, last | method | mode | samples | seeds | float top-1 | top-1 "
        "| agreement | deviation | KL | solve s | processor s | peak MB |",
        "| --- " * 15 + "|",
    ]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in IDENTITY[:-1]), []).append(row)
    for key, found in sorted(groups.items()):
        network, scheme, method, mode, kept, calib = key
        mean = {k: statistics.fmean(float(r[k]) for r in found) for k in FIGURES}
        spread = statistics.stdev(float(r["agreement"]) for r in found) if found[1:] else None
        lines.append(
            f"| {network} | {scheme} | {kept} | {method} | {mode} | {calib} | {len(found)} "
            f"| {mean['float_top1']:.2%} | {mean['top1']:.2%} | {mean['agreement']:.2%} "
            f"| {'-' if spread is None else f'{spread:.2%}'} | {mean['kl']:.3g} "
            f"| {mean['solve_s']:.0f} | {mean['processor_s']:.0f} | {mean['peak_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


FIGURES = ("float_top1", "top1", "agreement", "kl", "solve_s", "processor_s", "peak_mb")


def wanted(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Every run that was asked for; the mode makes no difference to methods without data."""
    return [
        {
            "network": network,
            "scheme": scheme,
            "method": method,
            "mode": mode,
            "first and last": "w8a8" if keep else "as all",
            "calib": str(calib),
            "seed": str(seed),
        }
        for network, scheme, mode, keep in RUNS
        for method in arguments.methods
        for calib in arguments.calib
        for seed in range(arguments.seeds)
        if network in arguments.only
        and scheme in arguments.schemes
        and mode in arguments.modes
        and (method != "nearest" or (mode == "parallel" and seed == 0))
    ]


def known() -> list[dict[str, str]]:
    """Runs that were measured before."""
    if not RESULT.is_file():
        return []
    with RESULT.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(DATA))
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--schemes", nargs="*", default=("w4a4", "w4a8"))
    parser.add_argument("--modes", nargs="*", default=("sequential", "parallel"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--calib", type=int, nargs="*", default=[1000])
    parser.add_argument("--again", action="store_true", help="measure known runs anew")
    arguments = parser.parse_args()
    root = arguments.data_root.absolute()
    if not (root / "models.py").is_file():
        print(f"no benchmark data at {arguments.data_root}: nothing measured")
        return
    rows = known()
    there = {tuple(row[k] for k in IDENTITY) for row in rows}
    for run in wanted(arguments):
        identity = tuple(run[k] for k in IDENTITY)
        if identity in there and not arguments.again:
            continue
        rows = [row for row in rows if tuple(row[k] for k in IDENTITY) != identity]
        rows.append({k: str(v) for k, v in measure(root, run).items()})
        print(rows[-1], flush=True)
        with RESULT.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    (MEASURED / "solve.md").write_text(page(rows))


if __name__ == "__main__":
    main()
