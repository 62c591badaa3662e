"""A file as runtimes deploy it, and what each executes of it in which type."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bitwright.export.runtime import RUNTIME_ERRORS, first_line
from bitwright.export.runtimes import ONNX_RUNTIME, LoadedFile, RuntimeRefusal, find_runtime
from bitwright.latency.feeds import ArrayFeed
from bitwright.latency.time_here import middle_mean

# Runs of which a profile is made; the first two bring weights into the caches.
_WARM, _PROFILED = 2, 7


@dataclass(frozen=True)
class OperatorShare:
    """Operators of one kind that ran in one type, and their share of the time."""

    operator: str
    type: str
    count: int
    share: float


def load_deployed(name: str, path: Path, threads: int, precise: bool = False) -> LoadedFile:
    """A file as a runtime deploys it: its own memory, and its own types of floats or 32 bits.

    Raises:
        RuntimeRefusal: the runtime does not load it.
    """
    if name == ONNX_RUNTIME:
        # The session of verifications gives the arena up, which costs time that nobody deploys.
        return _OrtFile(path, _options(threads))
    return find_runtime(name).load(path, threads=threads, precise=precise)


def profile_operators(name: str, path: Path, feed: ArrayFeed) -> tuple[OperatorShare, ...]:
    """What a runtime executes of a file, in which type, by its own profile of one thread.

    Raises:
        RuntimeRefusal: the runtime does not load or run it.
    """
    profile = _ort_profile if name == ONNX_RUNTIME else _openvino_profile
    return _shares(profile(path, feed))


def _shares(times: Iterable[tuple[str, str, float]]) -> tuple[OperatorShare, ...]:
    """Operators of one kind and type put together, those that take most first."""
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for operator, kind, ms in times:
        taken[operator, kind].append(ms)
    whole = sum(map(sum, taken.values())) or 1.0
    found = [
        OperatorShare(operator, kind, len(ms), sum(ms) / whole)
        for (operator, kind), ms in taken.items()
    ]
    return tuple(sorted(found, key=lambda s: (-s.share, s.operator, s.type)))


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


class _OrtFile:
    """A session of ONNX Runtime."""

    def __init__(self, path: Path, options: ort.SessionOptions) -> None:
        try:
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except RUNTIME_ERRORS as error:
            raise RuntimeRefusal(first_line(error)) from error
        self.inputs = tuple(value.name for value in self.session.get_inputs())

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs."""
        try:
            return [np.asarray(value) for value in self.session.run(None, dict(feed))]
        except (*RUNTIME_ERRORS, ValueError) as error:
            raise RuntimeRefusal(first_line(error)) from error


def _ort_profile(path: Path, feed: ArrayFeed) -> list[tuple[str, str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        options = _options(1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        loaded = _OrtFile(path, options)
        for _ in range(_WARM + _PROFILED):
            loaded.run(feed)
        events = json.loads(Path(loaded.session.end_profiling()).read_text())
    taken: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for event in events:
        args = event.get("args", {})
        if event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            key = str(args["op_name"]), _first_type(args), int(args["node_index"])
            taken[key].append(float(event["dur"]) / 1000)
    return [(op, kind, middle_mean(ms[_WARM:])) for (op, kind, _), ms in taken.items()]


def _first_type(args: Mapping[str, Any]) -> str:
    """The type of the first input: what the kernel computes on."""
    inputs = args.get("input_type_shape") or args.get("output_type_shape") or [{"unknown": []}]
    return str(next(iter(inputs[0])))


def _openvino_profile(path: Path, feed: ArrayFeed) -> list[tuple[str, str, float]]:
    core = importlib.import_module("openvino").Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERF_COUNT": "YES"}
    taken: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, tuple[str, str]] = {}
    try:
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        request = compiled.create_infer_request()
        for turn in range(_WARM + _PROFILED):
            request.infer(dict(feed))
            for one in request.profiling_info if turn >= _WARM else ():
                if str(one.status).endswith("EXECUTED"):
                    taken[one.node_name].append(one.real_time.total_seconds() * 1000)
                    kinds[one.node_name] = (one.node_type, _openvino_type(one.exec_type))
    except RuntimeError as error:
        raise RuntimeRefusal(first_line(error)) from error
    return [(*kinds[name], middle_mean(ms)) for name, ms in taken.items()]


def _openvino_type(kernel: str) -> str:
    """The type that stands behind a kernel's name.

    >>> _openvino_type("brgconv_avx512_i8"), _openvino_type("jit_avx512_FP32")
    ('int8', 'float')
    """
    last = kernel.rsplit("_", 1)[-1].lower()
    known: Mapping[str, str] = {"i8": "int8", "u8": "uint8", "f32": "float", "fp32": "float"}
    return known.get(last, last)
