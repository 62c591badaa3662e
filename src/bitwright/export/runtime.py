"""ONNX Runtime on the CPU: sessions, and what it raises."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor

from bitwright.graph.model_graph import InputSpec

# What ONNX Runtime raises for a file that it cannot load or run.
RUNTIME_ERRORS = (
    ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidArgument,
    ort_errors.InvalidProtobuf, ort_errors.NotImplemented, ort_errors.RuntimeException,
)  # fmt: skip


def session(model: bytes | Path, optimized: bool, threads: int = 0) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, with all graph optimisations or with none."""
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = threads
    # The arena keeps the peak of every batch; the allocator of the process does that once already.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(runtime: ort.InferenceSession, feed: Mapping[str, Any]) -> list[np.ndarray]:
    """The outputs of a file on named arrays."""
    return [np.asarray(value) for value in runtime.run(None, dict(feed))]


def feed_of(inputs: Sequence[InputSpec], tensors: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """Tensors in the network's order as the arrays that a file takes by name."""
    pairs = zip(inputs, tensors, strict=True)
    return {spec.label: tensor.contiguous().cpu().numpy() for spec, tensor in pairs}


def first_line(error: BaseException) -> str:
    """What a runtime says of an error, short."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else "no message"


def list_optimized_operators(path: Path) -> dict[str, int]:
    """Which operators ONNX Runtime really runs after its optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except RUNTIME_ERRORS:
            return {}
        nodes = onnx.load(str(target), load_external_data=False).graph.node
        return dict(Counter(node.op_type for node in nodes).most_common())
