"""One `bitwright quantize` in a process of its own: accuracy, time, memory, verification."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.command import bitwright
from benchmarks.study.paper.networks import NETWORKS, Scale, test_data


def quantized(
    root: Path, name: str, scale: Scale, options: Mapping[str, str], store: Path | None = None
) -> dict[str, object]:
    """The figures of one run of the command; exit code and verification are among them."""
    network = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "quantize", f"{root}/models.py:{name}",
            "--data", f"{root}/loaders.py:{network.calibration}",
            "--eval", test_data(root, network, scale, Path(folder)), "--calib", str(scale.calib),
        ]  # fmt: skip
        for key, value in options.items():
            arguments += [f"--{key.replace('_', '-')}", value]
        if store is not None:
            arguments += ["--store", str(store)]
        done = bitwright(Path(folder) / "run", *arguments)
        metrics, verified, peak = done.read("metrics.json"), done.read("verify.json"), done.peak_mb
        allocation = done.read("allocation.json")["choices"]
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
        "processor_s": done.processor_s,
        "peak_mb": peak,
        "unit_error": max(verified["units"].values(), default=0.0),
        "runtime_agreement": verified["agreement"],
        "exit": done.code,
    }
