"""How long a file takes to load, and what it holds of memory, in a process of its own.

Run as a file: RUNTIME THREADS FILE FEED.npz. Nothing but numpy and the runtime is imported, so that
what is counted is theirs.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# The first load reads the file from the disk; the median is of the others' kind.
LOADS = 3


def _ort_loader(path: str, threads: int) -> Callable[[], Callable[[Mapping[str, Any]], object]]:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4

    def load() -> Callable[[Mapping[str, Any]], object]:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda feed: session.run(None, dict(feed))

    return load


def _ov_loader(path: str, threads: int) -> Callable[[], Callable[[Mapping[str, Any]], object]]:
    core = importlib.import_module("openvino").Core()
    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}

    def load() -> Callable[[Mapping[str, Any]], object]:
        request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
        return lambda feed: request.infer(dict(feed))

    return load


def resident_mb() -> float:
    """What the process holds now; its peak where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1000
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main(arguments: list[str]) -> None:
    """Load, run once, and write what it took as JSON."""
    runtime, threads, path, feed_file = arguments
    loader = (_ort_loader if runtime == "onnxruntime" else _ov_loader)(path, int(threads))
    with np.load(feed_file) as stored:
        feed = {name: stored[name] for name in stored.files}
    before = resident_mb()
    seconds = []
    started = time.perf_counter()
    run = loader()
    seconds.append(time.perf_counter() - started)
    run(feed)
    held = resident_mb() - before
    for _ in range(LOADS - 1):
        started = time.perf_counter()
        loader()
        seconds.append(time.perf_counter() - started)
    found = {"load_ms": 1000 * statistics.median(seconds), "memory_mb": max(held, 0.0)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
