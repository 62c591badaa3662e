"""ONNX Runtime on one thread."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort


def session(path: Path, optimised: bool = True) -> ort.InferenceSession:
    """A session of a file, with all optimisations or none."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
