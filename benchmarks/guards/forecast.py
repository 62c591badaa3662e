"""What `bitwright doctor` foretells of a run, beside the run.

    python -m benchmarks.guards.forecast --data-root DIR [--networks resnet20 ...] [--samples 200]

Each network in a process of its own: the forecast of the default recipe on so many calibration
samples, from a probe of a second or two, then that run, with one thread. Time is that of the
processor, which other work on the machine disturbs less; memory is the most that any stage held.
A forecast that is off by more than --most ends with 1. Writes docs/measured/forecast.md and
benchmarks/results/forecast.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    data_root,
    machine,
    markdown,
    read_csv,
    write_csv,
)
from bitwright.engine.memory import keep_heap
from bitwright.engine.progress import Event, Progress
from bitwright.engine.random_state import own_random
from bitwright.pipeline.job import Job
from bitwright.pipeline.outlook import foretell
from bitwright.pipeline.quantize import job_of_python
from bitwright.pipeline.run import begin, run
from bitwright.pipeline.within_time import scene_of

NETWORKS = (*DATA, "squeezenet")
CALIBRATION = {name: of[0] for name, of in DATA.items()} | {"squeezenet": "squeezenet_calib"}
RESULT = RESULTS / "forecast.csv"
COLUMNS = {
    "network": "{network}", "samples": "{samples}", "foretold, s": "{foretold_s:.1f}",
    "took, s": "{took_s:.1f}", "ratio": "{time_ratio:.2f}", "foretold, MB": "{foretold_mb:.0f}",
    "held, MB": "{held_mb:.0f}", "ratio of memory": "{memory_ratio:.2f}",
    "the probe took, s": "{probe_s:.1f}",
}  # fmt: skip


def stages_of(root: Path, name: str, samples: int, recipe: str) -> dict[str, Any]:
    """Both, in this process: the forecast and the run, stage by stage."""
    keep_heap()
    spent: dict[str, float] = {}

    def listen(event: Event) -> None:
        if event.kind in ("start", "end"):
            sign = 1 if event.kind == "end" else -1
            spent[event.stage] = spent.get(event.stage, 0.0) + sign * time.process_time()

    options = {"calib": samples}
    job = job_of_python(
        network_of(root, name), batches_of(root, CALIBRATION[name]), None, recipe, options
    )
    job = Job(job.model, job.data, job.plan, job.example_inputs, workers=1)
    with own_random():
        settled, graph = begin(job, Progress())
    started = time.process_time()
    scene = scene_of(settled, graph)
    outlook = foretell(scene, settled.plan, samples)
    probe = time.process_time() - started
    result = run(job, Progress([listen]))
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "run")
    told = {stage.name: stage.processor_s for stage in outlook.stages}
    took = {stage: spent.get(stage, 0.0) for stage in told}
    return {
        "network": name, "samples": samples, "foretold_s": sum(told.values()),
        "took_s": sum(took.values()), "foretold_mb": outlook.peak_mb,
        "held_mb": max(stage.peak_rss_mb for stage in result.progress.stages), "probe_s": probe,
        "stages": {stage: (round(told[stage], 2), round(took[stage], 2)) for stage in told},
        "peaks": {s.name: (round(s.peak_mb), next((round(h.peak_rss_mb)
                  for h in result.progress.stages if h.name == s.name), 0))
                  for s in outlook.stages},
    }  # fmt: skip


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    return "\n".join(
        [
            "# Forecasts of runs beside the runs",
            "",
            "Written by `python -m benchmarks.guards.forecast --data-root DIR`.",
            "The default recipe, one thread: processor seconds of the stages observe, solve,",
            "evaluate, export and verify, and the most memory of any of them, as foretold from a",
            "probe and as the run took. *Ratio*: foretold over taken.",
            "",
            markdown(rows, COLUMNS),
            "",
            f"On {machine()}.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--most", type=float, default=1.5, help="times that a forecast may be off")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    root = data_root(asked.data_root)
    if asked.one:
        print(json.dumps(stages_of(root, asked.networks[0], asked.samples, asked.recipe)))
        return 0
    off = False
    for name in asked.networks:
        command = [sys.executable, "-m", "benchmarks.guards.forecast", "--one", "--data-root"]
        command += [str(root), "--networks", name, "--samples", str(asked.samples)]
        command += ["--recipe", asked.recipe]
        row = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        print(row.pop("stages"), row.pop("peaks"), flush=True)
        for what, (told, took) in {
            "time": ("foretold_s", "took_s"), "memory": ("foretold_mb", "held_mb"),
        }.items():  # fmt: skip
            row[f"{what}_ratio"] = row[told] / row[took]
            if not 1 / asked.most <= row[f"{what}_ratio"] <= asked.most:
                off = True
                print(f"{name}: {what} {row[told]:.3g} foretold, {row[took]:.3g} taken")
        rows = [r for r in read_csv(RESULT) if r["network"] != name] + [row]
        write_csv(RESULT, rows)
        (MEASURED / "forecast.md").write_text(page(read_csv(RESULT)))
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
