"""The gradient methods beside an earlier commit.

    python -m benchmarks.guards.gradient --data-root DIR
    [--before COMMIT] [--network resnet20] [--methods adaround adaquant] [--images 200] [--seeds 5]
    [--steps N] [--tuning 400]

Runs of this tree and of the source at COMMIT take turns, each in a process of its own on one
thread; a pair has the same seed, images and steps. Written are the processor time of the whole
call, and agreement and divergence from float on calibration images that
the run did not see. Ends with 1 where a call takes more than half of the time it took, or the mean
divergence over the seeds is larger by more than two standard errors. Writes
docs/measured/gradient_methods.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import io
import json
import math
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import MEASURED, ROOT, data_root, machine, markdown, read_csv, write_csv
from benchmarks.tables import RESULTS as FOLDER
from bitwright.methods.catalogue import METHODS

# The last commit whose gradient methods went through autograd at 1024 rows a step.
BEFORE = "2430b23"
MOST = 0.5
RESULT = FOLDER / "gradient_methods.csv"
SCHEMES = {"efficientnet_lite0": "w4a8"}
MARK = "RESULT "
IDENTITY = ("network", "method", "steps", "images", "seed", "code")


def cut(root: Path, name: str, images: int, others: int) -> tuple[list[Any], torch.Tensor]:
    """Calibration images, and others of the same set that the run does not see."""
    kept: list[torch.Tensor] = []
    for inputs, _ in batches_of(root, DATA[name][0]):
        kept += inputs.split(10)
        if 10 * len(kept) >= images + others:
            break
    count = images // 10
    return kept[:count], torch.cat(kept[count:])[:others]


def run_once(asked: argparse.Namespace) -> dict[str, float]:
    """One run in this process."""
    torch.set_num_threads(1)
    root, name = Path(asked.data_root), asked.network
    images, others = cut(root, name, asked.images, asked.tuning)
    method: Any = asked.methods[0]
    if asked.steps:
        method = replace(METHODS[method], iterations=asked.steps)
    model, begun = network_of(root, name), time.process_time()
    result = bw.quantize(
        model, images, scheme=SCHEMES.get(name, "w4a4"), method=method, mode="parallel",
        keep="first,last=w8a8", target="paper", seed=asked.seed,
    )  # fmt: skip
    whole = time.process_time() - begun
    with torch.no_grad():
        parts = others.split(50)
        true, ours = (torch.cat([net(x) for x in parts]) for net in (model, result.model))
    divergence = torch.nn.functional.kl_div(
        ours.log_softmax(-1), true.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    agreement = (true.argmax(1) == ours.argmax(1)).double().mean()
    return {"processor_s": whole, "agreement": float(agreement), "kl": float(divergence)}


def in_a_process(source: Path, arguments: list[str]) -> dict[str, float]:
    """One run with the package of a source folder."""
    paths = os.pathsep.join([str(source), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.guards.gradient", "--here", *arguments],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        check=True, cwd=ROOT,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith(MARK))
    found: dict[str, float] = json.loads(line.removeprefix(MARK))
    return found


def source_at(commit: str, folder: Path) -> Path:
    """The package's source at a commit of this repository."""
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True)
    if packed.returncode:
        sys.exit(f"--before {commit}: git has no such commit here: {packed.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def measure(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs of runs by turns."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        sides = {"before": source_at(asked.before, Path(folder)), "now": ROOT / "src"}
        for method in asked.methods:
            for seed in range(asked.seeds):
                for code, source in sides.items():
                    own = {"network": asked.network, "methods": method, "steps": asked.steps,
                           "images": asked.images, "seed": seed, "tuning": asked.tuning,
                           "data-root": asked.data_root}  # fmt: skip
                    given = [str(part) for k, v in own.items() for part in (f"--{k}", v)]
                    found = in_a_process(source, given)
                    own["method"] = own.pop("methods")
                    row = {k: own[k] for k in IDENTITY if k in own} | {"code": code} | found
                    rows.append(row)
                    print(row, flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for each network, method and number of steps."""
    groups: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        sides = groups.setdefault(tuple(row[k] for k in IDENTITY[:4]), {})
        sides.setdefault(row["code"], []).append(row)
    lines = []
    for key, sides in groups.items():
        line = dict(zip(IDENTITY[:4], key, strict=True))
        line["seeds"] = len(sides["now"])
        line["steps"] = line["steps"] or "its own"
        for code, runs in sides.items():
            for name in ("processor_s", "agreement", "kl"):
                line[f"{code}_{name}"] = statistics.fmean(run[name] for run in runs)
        ratios = [
            a["processor_s"] / b["processor_s"]
            for a, b in zip(sides["now"], sides["before"], strict=True)
        ]
        away = [a["kl"] - b["kl"] for a, b in zip(sides["now"], sides["before"], strict=True)]
        line |= {"ratio": statistics.fmean(ratios), "least": min(ratios), "most": max(ratios)}
        line["away"] = statistics.fmean(away)
        spread = statistics.stdev(away) if away[1:] else math.nan
        line["error"] = spread / math.sqrt(len(away))
        line["apart"] = f"{line['away']:+.4f}"
        line["apart"] += f" +- {line['error']:.4f}" if away[1:] else " (one seed)"
        lines.append(line)
    return lines


COLUMNS = {
    "network": "{network}", "method": "{method}", "steps": "{steps}", "images": "{images}",
    "seeds": "{seeds}", "processor s, before": "{before_processor_s:.1f}",
    "now": "{now_processor_s:.1f}", "ratio": "{ratio:.2f}",
    "least to most": "{least:.2f} to {most:.2f}",
    "agreement, before": "{before_agreement:.2%}", "agreement, now": "{now_agreement:.2%}",
    "KL, before": "{before_kl:.4f}", "KL, now": "{now_kl:.4f}",
    "difference of KL": "{apart}",
}  # fmt: skip


def page(lines: list[dict[str, Any]], commit: str) -> str:
    """The page of the documentation."""
    return "\n".join(
        [
            "# The gradient methods, before and now",
            "",
            "Written by `python -m benchmarks.guards.gradient --data-root DIR`.",
            f"*Before* is the source at commit {commit}: autograd, `torch.optim.Adam`, 1024 rows",
            "a step. *Now*: slopes in closed form, in place, 256 rows a step; second moments in",
            "place of rows where no activation follows ([methods](../methods.md#adaround)).",
            "Processor time of the whole call on one thread, by turns, on a machine that does",
            "other work; capture, statistics and the rest are the same and in both figures.",
            "Agreement and KL: calibration images that the run did not see.",
            "",
            markdown(lines, COLUMNS),
            "",
            f"On {machine('torch')}.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--before", default=BEFORE)
    parser.add_argument("--network", default="resnet20", choices=tuple(DATA))
    parser.add_argument("--methods", nargs="+", default=["adaround", "adaquant"])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--tuning", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="0: the method's own number")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.data_root = str(data_root(asked.data_root))
    if asked.here:
        print(MARK + json.dumps(run_once(asked)))
        return 0
    rows = measure(asked)
    new = {tuple(str(row[k]) for k in IDENTITY) for row in rows}
    known = [r for r in read_csv(RESULT) if tuple(str(r[k]) for k in IDENTITY) not in new]
    write_csv(RESULT, [*known, *rows])
    lines = summary(read_csv(RESULT))
    (MEASURED / "gradient_methods.md").write_text(page(lines, asked.before))
    own = summary(rows)
    for line in own:
        print(f"{line['network']} {line['method']}: {line['ratio']:.2f} of the processor time")
    return int(any(line["ratio"] > MOST or line["away"] > 2 * line["error"] for line in own))


if __name__ == "__main__":
    sys.exit(main())
