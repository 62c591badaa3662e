"""ONNX files in onnxruntime-web, ONNX Runtime's WASM build, run by node.

Nothing is installed: `npm install onnxruntime-web` in a folder of your own, and name its
node_modules by the environment variable BITWRIGHT_NODE_MODULES.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

INSTALLED = "BITWRIGHT_NODE_MODULES"
SCRIPT = Path(__file__).with_name("run_in_node.mjs")
Job = dict[str, Any]


def lacking() -> str:
    """What is missing here to run files in node; empty where nothing is."""
    if not shutil.which("node"):
        return "node is not installed"
    if not os.environ.get(INSTALLED):
        return f"{INSTALLED} names no folder node_modules that holds onnxruntime-web"
    return "" if _module().is_file() else f"{_module()} does not exist"


def version() -> str:
    """Of the installed package."""
    return str(json.loads((_module().parents[1] / "package.json").read_text())["version"])


def _module() -> Path:
    return Path(os.environ.get(INSTALLED, "")) / "onnxruntime-web" / "dist" / "ort.node.min.mjs"


def job_of(
    folder: Path, name: str, model: bytes, feed: Mapping[str, np.ndarray], optimized: bool
) -> Job:
    """A file and its inputs, written into a folder."""
    file = folder / f"{name}.onnx"
    file.write_bytes(model)
    inputs = []
    for index, (key, array) in enumerate(feed.items()):
        raw = folder / f"{name}.{index}.raw"
        raw.write_bytes(np.ascontiguousarray(array).tobytes())
        kind, shape = str(array.dtype), list(array.shape)
        inputs.append({"name": key, "type": kind, "shape": shape, "raw": str(raw)})
    return {"file": str(file), "inputs": inputs, "optimized": optimized}


def run_jobs(
    folder: Path, jobs: Sequence[Job], turns: int = 0, limit: float = 300
) -> list[tuple[np.ndarray, list[float]]]:
    """The first output of every job, and its milliseconds in each turn.

    Raises:
        RuntimeError: node cannot load or run one of them, with its words.
    """
    (folder / "jobs.json").write_text(json.dumps(jobs))
    words = ["node", str(SCRIPT), str(_module()), str(folder / "jobs.json"), str(turns)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [
        (_output(job).reshape(line["shape"]), line["ms"])
        for job, line in zip(jobs, lines, strict=True)
    ]


def _output(job: Job) -> np.ndarray:
    return np.frombuffer(Path(f"{job['file']}.out").read_bytes(), np.float32)
