"""How many steps BRECQ takes, how coarse, and on how many samples each: on a development set.

    python benchmarks/brecq_steps.py --data-root DIR [--again]

ResNet-20, first and last unit at 8 bits, two seeds. The development set is made of the calibration
images: mirrored, moved, blurred and with noise, so that what is learned by heart helps little and
no test image chooses a default. Each line is one `bitwright quantize` in a process of its own; rows
that are in benchmarks/results/brecq_steps.csv already are not repeated unless --again is given.
Writes docs/brecq_steps.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.tables import DOCS, RESULTS, data_root, markdown, read_csv, write_csv

RESULT = RESULTS / "brecq_steps.csv"
SCHEMES, SEEDS = ("w4a8", "w4a4"), (0, 1)
DEVELOPMENT = """
import sys
sys.path.insert(0, {root!r})
import loaders
import torch
import torch.nn.functional as F

def worse():
    generator = torch.Generator().manual_seed(5)
    for batch in loaders.cifar_calib():
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        moved = F.pad(x.flip(-1), (2, 2, 2, 2), mode="reflect")[..., 1:33, 3:35]
        small = F.interpolate(moved, scale_factor=0.6, mode="bilinear", antialias=True)
        yield F.interpolate(small, size=32, mode="bilinear") + 0.12 * torch.randn(
            x.shape, generator=generator
        )
"""
SCRIPT = """
from functools import partial
from bitwright import cli, result, tuning
from bitwright.tuners import brecq

result.VERIFY_SAMPLES = 64
brecq.POSITIONS, brecq.BATCH, brecq.LEAST = {positions}, {samples}, {least}
tuning.BlockReconstruction = partial(
    brecq.BlockReconstruction, iterations={steps}, rate={rate}
)
cli.main()
"""


@dataclass(frozen=True)
class Way:
    """A recipe, and for BRECQ how it descends: a step has so many samples or positions at most."""

    recipe: str
    steps: int = 0
    rate: float = 0.0
    samples: int = 0
    positions: int = 0


WAYS = (
    Way("adaround"),
    Way("brecq", 500, 0.01, 24, 1 << 14),
    Way("brecq", 1000, 0.01, 24, 24 << 9),
    Way("brecq", 1000, 0.06, 24, 24 << 9),
    Way("brecq", 1000, 0.01, 8, 8 << 9),
    Way("brecq", 1000, 0.06, 8, 8 << 9),
)


def measure(root: Path, way: Way, scheme: str, seed: int) -> dict[str, Any]:
    """One run in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        out, loader = Path(folder) / "run", Path(folder) / "development.py"
        loader.write_text(DEVELOPMENT.format(root=str(root)))
        script = "from bitwright import cli; cli.main()"
        if way.steps:
            script = SCRIPT.format(least=max(4, way.samples // 3), **asdict(way))
        command = [
            sys.executable, "-c", script, "quantize", f"{root}/models.py:resnet20",
            "--data", f"{root}/loaders.py:cifar_calib", "--calib", "1000",
            "--eval", f"{loader}:worse", "--metric", "agreement", "--recipe", way.recipe,
            "--scheme", scheme, "--keep", "first,last=w8a8", "--target", "paper",
            "--seed", str(seed), "--out", str(out), "--quiet",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not (out / "metrics.json").is_file():
            raise SystemExit(f"exit {done.returncode}: {' '.join(command)}")
        metrics = json.loads((out / "metrics.json").read_text())
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        **asdict(way),
        "scheme": scheme,
        "seed": seed,
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "processor_s": spent,
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, a line for each way and a pair of columns for each scheme."""
    lines = []
    for way in WAYS:
        own = [r for r in rows if all(str(r[k]) == str(v) for k, v in asdict(way).items())]
        line: dict[str, Any] = {k: v or "-" for k, v in asdict(way).items()}
        for scheme in SCHEMES:
            found = [r for r in own if r["scheme"] == scheme]
            if found:
                for key in ("agreement", "kl"):
                    line[f"{scheme}_{key}"] = statistics.fmean(float(r[key]) for r in found)
        if own:
            line["s"] = statistics.fmean(float(r["processor_s"]) for r in own)
            lines.append(line)
    columns = {name: f"{{{name}}}" for name in asdict(WAYS[0])}
    for scheme in SCHEMES:
        columns[f"{scheme} agreement"] = f"{{{scheme}_agreement:.2%}}"
        columns[f"{scheme} KL"] = f"{{{scheme}_kl:.4f}}"
    columns["processor s"] = "{s:.0f}"
    text = [
        "# Steps of BRECQ",
        "",
        "Written by `python benchmarks/brecq_steps.py --data-root DIR`. ResNet-20, first and last",
        "unit at 8 bits, 1000 calibration images. Compared with the float network on a development",
        "set: the calibration images mirrored, moved, blurred and with noise. Means of seeds",
        f"{' and '.join(map(str, SEEDS))}; a step has so many samples, or as many as make so many",
        "positions of a block's output where those are fewer. The first line of BRECQ is what it",
        "did before, the last what it does.",
        "",
        markdown(lines, columns),
        "",
    ]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--again", action="store_true", help="measure rows that are there, too")
    arguments = parser.parse_args()
    root = data_root(arguments.data_root)
    rows = [] if arguments.again else read_csv(RESULT)
    for seed in SEEDS:
        for scheme in SCHEMES:
            for way in WAYS:
                run = {**asdict(way), "scheme": scheme, "seed": seed}
                if not any(all(str(r[k]) == str(v) for k, v in run.items()) for r in rows):
                    rows.append(measure(root, way, scheme, seed))
                    print(rows[-1], flush=True)
                    write_csv(RESULT, rows)
    (DOCS / "brecq_steps.md").write_text(page(rows))


if __name__ == "__main__":
    main()
