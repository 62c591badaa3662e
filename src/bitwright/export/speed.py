"""Whether a file is faster than float: both run in turns, for a moment, as they are deployed."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from torch import Tensor, fx

from bitwright.errors import CaptureError
from bitwright.export.float_twin import float_twin
from bitwright.export.onnx_file import export_onnx
from bitwright.export.runtime import RUNTIME_ERRORS, feed_of, session
from bitwright.export.verified import Speed
from bitwright.graph.custom_ops import DEQUANTIZE, FAKE_QUANTIZE
from bitwright.graph.model_graph import ModelGraph

# Seconds that both take together, and in how many turns.
SECONDS, LEAST_TURNS, MOST_TURNS = 0.5, 3, 25
# A run shorter than this is repeated: the clock and the call from Python would weigh too much.
LEAST_SECONDS = 0.002


def compare_speed(
    path: Path, graph: ModelGraph, marked: fx.GraphModule, flat: tuple[Any, ...]
) -> Speed | None:
    """Time a file against the same network in float: one sample, one thread, on this processor.

    The time is the process's own, so that a machine's other work does not count; files take turns.
    It is a hint, not a benchmark (`bitwright measure` is finer).

    Args:
        path: model.onnx.
        graph: the captured network.
        marked: the simulation.
        flat: inputs of the network, of which one sample is taken.

    Returns:
        Milliseconds of both and their ratio (above 1 the file is slower); None where the network
        in float cannot be had or run.
    """
    tensors = [t for t in flat if isinstance(t, Tensor)]
    free = all(s.shape and s.shape[0] is None for s in graph.inputs)
    one = [t[:1] for t in tensors] if free else tensors
    try:
        beside = _float_file(path, graph, marked, tuple(t[:2] for t in tensors))
        if beside is None:
            return None
        sessions = [session(source, optimized=True, threads=1) for source in (beside, path)]
        feed = feed_of(graph.inputs, one)
        turns = _turns([_runner(each, feed) for each in sessions])
    except RUNTIME_ERRORS:
        return None
    before, after = (1000 * statistics.median(column) for column in zip(*turns, strict=True))
    return Speed(
        float_ms=before,
        quantized_ms=after,
        ratio=after / before,
        samples=one[0].shape[0] if one and one[0].dim() else 1,
        threads=1,
        turns=len(turns),
    )


def _float_file(
    path: Path, graph: ModelGraph, marked: fx.GraphModule, example: tuple[Tensor, ...]
) -> bytes | None:
    """The float network as a file: of the quantised one, or exported where that has sums.

    Or where it multiplies integers whose scales are taken as it runs: it has no float products.
    """
    if not any(_is_sum(node) or _is_at_run(node) for node in marked.graph.nodes):
        twin = float_twin(onnx.load(str(path)))
        return None if twin is None else twin.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = export_onnx(graph, graph.module, example, Path(folder) / "float.onnx")
        except CaptureError:
            return None
        return made.path.read_bytes()


def _is_at_run(node: fx.Node) -> bool:
    """Whether a value is quantised by the range that it has as the network runs."""
    return node.target is FAKE_QUANTIZE and node.args[6:7] == (True,)


def _is_sum(node: fx.Node) -> bool:
    """Whether a weight is a sum of several tensors: its file has more operators than float."""
    return node.target is DEQUANTIZE and node.args[6:7] not in ((), (1,))


def _runner(runtime: ort.InferenceSession, feed: Mapping[str, Any]) -> Callable[[], object]:
    return lambda: runtime.run(None, dict(feed))


def _turns(runs: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of one run of each, turn by turn, after two that do not count."""
    warm = [min(_seconds(run, 1) for _ in range(2)) for run in runs]
    inner = [math.ceil(LEAST_SECONDS / max(seconds, LEAST_SECONDS / 1000)) for seconds in warm]
    found: list[list[float]] = []
    started = time.perf_counter()
    while len(found) < MOST_TURNS:
        if len(found) >= LEAST_TURNS and time.perf_counter() - started > SECONDS:
            break
        found.append([_seconds(run, count) for run, count in zip(runs, inner, strict=True)])
    return found


def _seconds(run: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - started) / times
