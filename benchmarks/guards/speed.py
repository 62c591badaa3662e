"""How fast is the file of every target, in every runtime, beside its float network?

    python -m benchmarks.guards.speed --data-root DIR [--work DIR] [--only lite0] [--threads 1,2]

EfficientNet-Lite0 and the sentence encoder all-MiniLM-L6-v2 (64 tokens), rounded to nearest on a
few samples: speed does not depend on the numbers. The files of one network are timed by one
`bitwright bench`, in turns, so all figures are ratios within one run. Prints them as a table (x:
times as fast as float of 32 bits in the same runtime), with the files' sizes, and writes
benchmarks/results/speed.csv and docs/measured/speed.md. Ends with 1 where a file of a target that
is for speed is slower than float in ONNX Runtime, or one of 4 bits slower than 0.97 of the one of
8. Files in the folder of `--work` are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import bitwright as bw
from benchmarks.data import batches_of, network_of
from benchmarks.guards.files import text_of
from benchmarks.study.text import encoder_folder, lines_of
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    data_root,
    machine,
    markdown,
    read_csv,
    write_csv,
)

Row = dict[str, Any]
SAMPLES = 16
# Of each network: target and scheme of every file.
FILES = {
    "lite0": [
        ("ort-cpu", "w8a8"), ("ort-cpu", "w4a8"), ("ort-cpu", "w2a8"), ("ort-cpu", "w4a4"),
        ("paper", "w8a8"), ("ort-linear", "w8a8"), ("weights-only", "w8a8"),
        ("weights-only", "w4a8"),
    ],
    "minilm": [
        ("ort-linear", "w8a8"), ("ort-linear", "w4a8"), ("weights-only", "w8a8"),
        ("weights-only", "w4a8"),
    ],
}  # fmt: skip
# Targets whose files are for speed; the others are for small size and for study.
FAST = ("ort-cpu", "ort-linear")
LEAST_OF_EIGHT_BITS = 0.97
QUICK: dict[str, Any] = {
    "recipe": "fixed", "method": "nearest", "weight_range": "minmax", "activation_range": "minmax",
    "mode": "parallel", "calib": SAMPLES, "tune": "",
}  # fmt: skip


def sources(network: str, root: Path, work: Path) -> tuple[torch.nn.Module, Any]:
    """The network and its samples."""
    if network == "lite0":
        return network_of(root, "efficientnet_lite0"), batches_of(root, "lite0_calib")
    texts = work / "texts.jsonl"
    rows = [{"text": row["text"]} for row in lines_of(root, "agnews_dev10k")[:SAMPLES]]
    texts.write_text("\n".join(map(json.dumps, rows)))
    return text_of(str(encoder_folder(work)), texts)


def make_files(network: str, root: Path, work: Path) -> list[Path]:
    """A file of every target and scheme; those that are there already are kept."""
    model, samples = sources(network, root, work)
    found = []
    for target, scheme in FILES[network]:
        path = work / f"{network}-{target}-{scheme}.onnx"
        if not path.is_file():
            bw.quantize(model, samples, target=target, scheme=scheme, **QUICK).export(path)
            print(f"made {path.name}", flush=True)
        found.append(path)
    return found


def timed(network: str, files: list[Path], threads: str, repetitions: int) -> list[Row]:
    """What `bitwright bench` says of one network: a row a file, runtime and number of threads."""
    command = [
        sys.executable, "-m", "bitwright.cli", "bench", *map(str, files), "--json", "--threads",
        threads, "--repetitions", str(repetitions), "--out", str(files[0].parent / "bench.html"),
        "--quiet", "--beside", "--precise",
    ]  # fmt: skip
    found = json.loads(subprocess.check_output(command, text=True))
    return [
        {
            "network": network,
            "file": row["file"].removeprefix(f"{network}-"),
            "runtime": row["runtime"],
            "threads": row["threads"],
            "times": row["times"],
            "low": row["low_times"],
            "high": row["high_times"],
            "ms": row["ms"],
            "mb": found["files"][row["file"]] / 1e6,
            "error": row["error"],
        }
        for row in found["rows"]
    ]


def shown(rows: list[Row]) -> str:
    """The table of issue and page: files down, runtimes and threads across."""
    columns = dict.fromkeys((row["runtime"], row["threads"]) for row in rows)
    table = []
    for network, file in dict.fromkeys((row["network"], row["file"]) for row in rows):
        own = [row for row in rows if (row["network"], row["file"]) == (network, file)]
        cells = {f"{r['runtime']} {r['threads']}": _cell(r) for r in own}
        table.append({"network": network, "file": file, "mb": own[0]["mb"], **cells})
    headings = {"network": "{network}", "file": "{file}", "MB": "{mb:.1f}"}
    headings |= {f"{r}, {t} thread{'s' * (t > 1)}": f"{{{r} {t}}}" for r, t in columns}
    return markdown(table, headings)


def _cell(row: Row) -> str:
    if row.get("error"):
        return "does not load"
    return f"{row['times']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def page(rows: list[Row]) -> str:
    """The page of the documentation."""
    return "\n".join(
        [
            "# The speed of every target's file",
            "",
            "Written by `python -m benchmarks.guards.speed --data-root DIR`. Times as fast as",
            "the float network in the same runtime, floats of 32 bits in both: medians of ratios",
            "within a turn, with quartiles ([how](../speed.md)). One sample a run; of MiniLM 64",
            "tokens. Weights are rounded to the nearest: speed does not depend on the numbers.",
            "*onnxruntime static* and *dynamic* are the files of ONNX Runtime's own quantisers.",
            "",
            shown(rows),
            "",
            f"On {machine('onnxruntime', 'openvino')}, which did other work at the time.",
            "",
        ]
    )


def faults(rows: list[Row]) -> list[str]:
    """What is slower than it must be in ONNX Runtime on one thread."""
    found = []
    own = {
        (row["network"], row["file"]): row["times"]
        for row in rows
        if row["runtime"] == "onnxruntime" and row["threads"] == 1
    }
    for (network, file), times in own.items():
        target, _, scheme = file.rpartition("-")
        if target in FAST and times is not None and times < 1:
            found.append(f"{network} {file} is slower than float: {times:.2f}")
        eight = own.get((network, f"{target}-w8a8"))
        if scheme in ("w4a8", "w2a8") and eight and times < LEAST_OF_EIGHT_BITS * eight:
            found.append(f"{network} {file} has {times / eight:.2f} of the speed of 8 bits")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--work", help="where files are made and kept; a temporary folder without")
    parser.add_argument("--only", choices=FILES, help="one network")
    parser.add_argument("--threads", default="1", help="such as 1,2")
    parser.add_argument("--repetitions", type=int, default=25)
    given = parser.parse_args()
    root = data_root(given.data_root)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(given.work or folder).absolute()
        work.mkdir(parents=True, exist_ok=True)
        for network in [given.only] if given.only else FILES:
            files = make_files(network, root, work)
            rows += timed(network, files, given.threads, given.repetitions)
    made = {row["network"] for row in rows}
    others = [row for row in read_csv(RESULTS / "speed.csv") if row["network"] not in made]
    write_csv(RESULTS / "speed.csv", [*others, *rows])
    (MEASURED / "speed.md").write_text(page([*others, *rows]))
    print(shown(rows))
    wrong = faults(rows)
    print("; ".join(wrong) if wrong else "every file for speed is faster than float")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
