"""One `bitwright quantize` in a process of its own: accuracy, time, memory, verification."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.study.paper.networks import NETWORKS, Scale, test_data


def quantized(
    root: Path, name: str, scale: Scale, options: Mapping[str, str], store: Path | None = None
) -> dict[str, object]:
    """The figures of one run of the command; exit code and verification are among them."""
    network = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [
            sys.executable, "-m", "bitwright.cli", "quantize", f"{root}/models.py:{name}",
            "--data", f"{root}/loaders.py:{network.calibration}",
            "--eval", test_data(root, network, scale, Path(folder)),
            "--calib", str(scale.calib), "--out", str(out), "--quiet",
        ]  # fmt: skip
        for key, value in options.items():
            command += [f"--{key.replace('_', '-')}", value]
        if store is not None:
            command += ["--store", str(store)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        metrics = json.loads((out / "metrics.json").read_text())
        verified = json.loads((out / "verify.json").read_text())
        allocation = json.loads((out / "allocation.json").read_text())["choices"]
    bits = [(c["w_bits"], c["a_bits"]) for c in allocation.values()]
    return {
        "float_top1": metrics["float"]["top1"],
        "top1": metrics["quantized"]["top1"],
        "agreement": metrics["agreement"],
        "kl": metrics["kl"],
        "samples": metrics["samples"],
        "size": metrics["size"]["ratio"],
        "w4a4_units": bits.count((4, 4)) / len(bits),
        "units": len(bits),
        "processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": max(s["peak_rss_mb"] for s in metrics["stages"]),
        "unit_error": max(verified["units"].values(), default=0.0),
        "runtime_agreement": verified["agreement"],
        "exit": done.returncode,
    }
