"""The whole command on real networks: `python -m benchmarks.guards.road --data-root DIR`.

Runs `bitwright quantize` as a user would, once for each line of RUNS, and collects top-1,
agreement, the verification, sizes, time and memory into docs/measured/road.md,
docs/measured/road.svg and benchmarks/results/road.csv. A line that is measured again replaces its
earlier figures.
"""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import Done, bitwright
from benchmarks.guards.road_chart import chart
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    ROOT,
    data_root,
    machine,
    markdown,
    put_between_markers,
    read_csv,
    write_csv,
)

CSV = RESULTS / "road.csv"
PHOTOS = ("lite0_calib", "lite0_val")
CIFAR = ("cifar_calib", "cifar_test_jpeg")
# Network, calibration data, evaluation data, target, scheme.
RUNS = (
    ("efficientnet_lite0", *PHOTOS, "paper", "w8a8"),
    ("efficientnet_lite0", *PHOTOS, "ort-cpu", "w8a8"),
    ("resnet20", *CIFAR, "paper", "w8a8"),
    ("resnet56", *CIFAR, "paper", "w8a8"),
    ("mobilenet_v1", "mobilenet_calib", "mobilenet_val", "paper", "w8a8"),
    ("mobilenet_v2_dogs", "dogs_calib", "dogs_test", "paper", "w8a8"),
    ("squeezenet", "squeezenet_calib", "squeezenet_val", "paper", "w8a8"),
    ("resnet20", *CIFAR, "paper", "w4a8"),
    ("resnet56", *CIFAR, "paper", "w4a8"),
    ("efficientnet_lite0", *PHOTOS, "paper", "w4a8"),
)
# What must not get worse: every file is verified, and agreement falls by no more than this.
FALL = 0.005


def options(row: tuple[str, ...], root: str) -> list[str]:
    """The arguments of `bitwright` for one line."""
    network, calibration, evaluation, target, scheme = row
    return [
        "quantize", "--recipe", "fixed",
        f"{root}/models.py:{network}", "--data", f"{root}/loaders.py:{calibration}",
        "--eval", f"{root}/loaders.py:{evaluation}", "--target", target, "--scheme", scheme,
        "--method", "nearest",
    ]  # fmt: skip


def name_of(row: tuple[str, ...]) -> str:
    return f"{row[0]}-{row[3]}-{row[4]}"


def measure(row: tuple[str, ...], root: Path, out: Path, threads: int) -> dict[str, Any]:
    """Run the command in a process of its own and read its run directory."""
    done = bitwright(out, *options(row, str(root)), threads=threads, quiet=False)
    return {
        "network": row[0], "target": row[3], "scheme": row[4], "method": "nearest",
        **figures(done), "exit": done.code, "seconds": done.seconds,
        "processor_seconds": done.processor_s, "threads": threads,
    }  # fmt: skip


def figures(done: Done) -> dict[str, Any]:
    """What a run directory says."""
    metrics, verified = done.read("metrics.json"), done.read("verify.json")
    census = done.read("census.json")
    units = verified["units"]
    size = metrics["size"]
    stages = {stage["name"]: stage for stage in metrics["stages"]}
    return {
        "calibration": census["calibration_samples"],
        "images": metrics["samples"],
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "relative_noise": metrics["relative_noise"],
        "verified": verified["passed"],
        "units": len(units),
        "worst_unit": max(units.values()),
        "runtime_agreement": verified["agreement"],
        "runtime_difference": verified["max_relative_difference"],
        "optimized_agreement": verified["optimized"]["agreement"],
        "verify_samples": verified["samples"],
        "float_mb": size["float_bytes"] / 1e6,
        "packed_ratio": size["file_bytes"] / size["float_bytes"],
        "onnx_ratio": size["onnx_bytes"] / size["float_bytes"],
        "observe_seconds": stages["observe"]["seconds"],
        "solve_seconds": stages["solve"]["seconds"],
        "peak_mb": done.peak_mb,
    }


COLUMNS = {
    "network": "{network}", "target": "{target}", "scheme": "{scheme}", "images": "{images}",
    "float top-1": "{float_top1:.2%}", "quantised top-1": "{top1:.2%}",
    "agreement": "{agreement:.2%}", "KL": "{kl:.2g}", "verified": "{verdict}",
    "model.safetensors": "{packed_ratio:.3f}", "model.onnx": "{onnx_ratio:.3f}",
    "seconds": "{seconds:.0f}", "processor s": "{processor_seconds:.0f}",
    "peak MB": "{peak_mb:.0f}",
}  # fmt: skip


# The lines and columns of the README.
SHORT = ("efficientnet_lite0-*-w8a8", "resnet*")
SHORT_COLUMNS = {
    "network": "{network}", "scheme": "{scheme}", "target": "{target}",
    "float top-1": "{float_top1:.2%}", "quantised top-1": "{top1:.2%}",
    "same answer as float": "{agreement:.2%}", "verified in ONNX Runtime": "{verdict}",
    "file against float": "{packed_ratio:.3f}",
}  # fmt: skip


def short(rows: list[dict[str, Any]]) -> str:
    """The README's table."""
    kept = [
        {**row, "verdict": verdict(row)}
        for row in rows
        if any(fnmatch.fnmatch(name_of_row(row), p) for p in SHORT)
    ]
    return markdown(kept, SHORT_COLUMNS)


def verdict(row: dict[str, Any]) -> str:
    state = "yes" if row["verified"] else "**no**"
    return (
        f"{state}, {row['units']} units, {row['runtime_agreement']:.2%} / "
        f"{row['optimized_agreement']:.2%}"
    )


def page(rows: list[dict[str, Any]], threads: int) -> str:
    """docs/measured/road.md."""
    example = shlex.join(options(RUNS[0], "DIR")).replace(" --", " \\\n    --")
    shown = [{**row, "verdict": verdict(row)} for row in rows]
    return "\n".join(
        [
            "# The command on real networks",
            "",
            "Written by `python -m benchmarks.guards.road --data-root DIR`.",
            "Each line is one run of",
            "`bitwright quantize`, by nearest rounding, every unit at the same bits, the first and",
            "the last included; nothing was tuned or learned. Calibration: up to 1000 unlabelled",
            "samples that are in no test set.",
            "",
            markdown(shown, COLUMNS),
            "",
            "![Top-1 of the float and the quantised network](road.svg)",
            "",
            "- *Agreement* is the share of images that get the float network's answer. It is the",
            "  finer figure: with 650 images one standard error of top-1 is about 1.5 points, and",
            "  with 5000 about 0.6.",
            "- *Verified*: whether `model.onnx` passed in ONNX Runtime; how many units were",
            "  checked one by one; how many answers agree with the simulation end to end, without",
            "  and with ONNX Runtime's optimisations.",
            "- *model.safetensors* and *model.onnx* are file sizes against the float tensors.",
            "- *Seconds* are those of the whole command: start, capture, calibration, evaluation",
            "  of both networks, export, verification, report. The machine had other work, so",
            "  they are indicative; processor seconds are less disturbed.",
            f"- {machine('torch', 'onnxruntime')}; {threads} thread{'s' if threads > 1 else ''}.",
            "",
            "The first line again, by hand:",
            "",
            "```console",
            f"bitwright {example} --out runs/lite0",
            "```",
            "",
            "The networks and photos are no part of this repository. `DIR` holds `models.py` and",
            "`loaders.py`, whose functions return the networks and the labelled batches.",
            "",
        ]
    )


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of RUNS; what is no longer listed goes."""
    found = {(r["network"], r["target"], r["scheme"]): r for r in rows}
    return [found[key] for key in ((r[0], r[3], r[4]) for r in RUNS) if key in found]


def name_of_row(row: dict[str, Any]) -> str:
    return f"{row['network']}-{row['target']}-{row['scheme']}"


def worse(row: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """What is beyond its bound, in words; `before` is what the repository had."""
    name, said = name_of_row(row), []
    if not row["verified"]:
        said.append(f"{name}: not verified")
    if before is not None and row["agreement"] < before["agreement"] - FALL:
        said.append(f"{name}: agreement {row['agreement']:.2%}, it was {before['agreement']:.2%}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--only", default="*", help="pattern such as 'resnet*' or '*-w4a8'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", help="keep the run directories in this folder")
    parser.add_argument("--page", action="store_true", help="write the page again, measure nothing")
    args = parser.parse_args()
    root = data_root(args.data_root)
    rows, beyond = read_csv(CSV), []
    with tempfile.TemporaryDirectory() as folder:
        for row in () if args.page else RUNS:
            if not fnmatch.fnmatch(name_of(row), args.only):
                continue
            print(f"== {name_of(row)}", flush=True)
            before = {name_of_row(r): r for r in rows}
            rows.append(measure(row, root, Path(args.runs or folder) / name_of(row), args.threads))
            beyond += worse(rows[-1], before.get(name_of(row)))
            write_csv(CSV, ordered(rows))
    rows = ordered(rows)
    (MEASURED / "road.md").write_text(page(rows, args.threads))
    (MEASURED / "road.svg").write_text(chart(rows))
    put_between_markers(ROOT / "README.md", short(rows))
    print(f"wrote {MEASURED / 'road.md'}")
    print("\n".join(beyond) or "within the bounds")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
