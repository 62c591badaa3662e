"""The exported file in ONNX Runtime against the simulation: every unit, then the whole network."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from google.protobuf.message import DecodeError
from onnx.utils import Extractor
from torch import Tensor, fx

from bitwright.errors import RunDirectoryError
from bitwright.export.onnx_file import unit_values
from bitwright.graph.custom_ops import FAKE_QUANTIZE, MARK
from bitwright.graph.execute import Inputs, bind, class_rows, first_tensor, walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.sites import is_zero_pad
from bitwright.graph.units import input_of
from bitwright.numerics.losses import agreement

UNIT_TOLERANCE = 1e-5
# A float rounding may tip an activation over a grid boundary, so end to end the promise is
# agreement of the answers.
AGREEMENT = 0.99
UNIT_SAMPLES = 4


def session(model: bytes | Path, optimized: bool, threads: int = 0) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, with all graph optimisations or with none."""
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def verify(
    path: Path,
    graph: ModelGraph,
    marked: fx.GraphModule,
    batches: Iterable[Inputs],
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Check that ONNX Runtime computes from the file what the simulation promised.

    Every unit is cut out of the file and fed with the simulation's own input, optimisations off: it
    must agree to float rounding. Then the whole network runs on all batches, optimisations off and
    on, and the answers are compared.

    Args:
        path: model.onnx.
        graph: the captured network.
        marked: the simulation, stitched with marks.
        batches: inputs; a few samples of the first serve the units.
        progress: told the samples done.
    """
    model = _load(path)
    found: dict[str, Any] = {"passed": False, "tolerance": UNIT_TOLERANCE}
    whole = {flag: session(path, flag) for flag in (False, True)}
    tallies = {flag: _EndToEnd() for flag in (False, True)}
    samples = 0
    for inputs in batches:
        flat = bind(graph, inputs)
        if not samples:
            few = tuple(t[:UNIT_SAMPLES] if isinstance(t, Tensor) else t for t in flat)
            found["units"] = verify_units(model, marked, few)
        expected = first_tensor(walk(marked, flat))
        for flag, runtime in whole.items():
            tallies[flag].add(expected, _run_whole(runtime, flat, expected))
        samples += expected.shape[0]
        progress(samples)
    units = found.get("units", {})
    bad = [name for name, difference in units.items() if not difference <= UNIT_TOLERANCE]
    found.update(tallies[False].result())
    found["samples"] = samples
    found["first_failure"] = bad[0] if bad else None
    found["optimized"] = {**tallies[True].result(), "operators": _optimized_operators(path)}
    found["passed"] = bool(units) and not bad and found["agreement"] >= AGREEMENT
    return found


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise RunDirectoryError(
            f"{path} does not exist. Write it with 'bitwright export RUN', then verify."
        )
    try:
        return onnx.load(str(path))
    except DecodeError as error:
        raise RunDirectoryError(
            f"{path} is damaged: {error}. Write it again with 'bitwright export RUN'."
        ) from error


def verify_units(
    model: onnx.ModelProto, marked: fx.GraphModule, inputs: tuple[Any, ...]
) -> dict[str, float]:
    """Worst relative difference of each unit, file against simulation, on equal inputs."""
    places = unit_values(model)
    extractor = Extractor(model)
    sources = _unit_sources(marked)
    wanted = set(sources.values())
    kept: dict[fx.Node, Tensor] = {}
    differences: dict[str, float] = {}

    def visit(node: fx.Node, value: object) -> None:
        if node in wanted and isinstance(value, Tensor):
            kept[node] = value
        if node.target is MARK and isinstance(value, Tensor):
            name = str(node.args[1])
            if name in places and node in sources:
                got = _run_unit(extractor, places[name], kept[sources[node]])
                differences[name] = _difference(value, got)

    walk(marked, inputs, visit)
    return differences


def _unit_sources(marked: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """For each mark, the node whose float value feeds the unit."""
    found = {}
    for node in marked.graph.nodes:
        if node.target is MARK:
            call = node.args[0]
            assert isinstance(call, fx.Node)
            source = input_of(call)
            if is_zero_pad(source):
                source = source.all_input_nodes[0]
            if source.target is FAKE_QUANTIZE:
                source = source.all_input_nodes[0]
            found[node] = source
    return found


def _run_unit(extractor: Extractor, place: tuple[str, str], value: Tensor) -> Tensor:
    start, end = place
    array = value.contiguous().numpy()
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    part = _extract(extractor, start, end, element)
    runtime = session(part.SerializeToString(), optimized=False, threads=1)
    result = runtime.run(None, {runtime.get_inputs()[0].name: array})
    return torch.from_numpy(np.asarray(result[0]))


def _extract(extractor: Extractor, start: str, end: str, element: int) -> onnx.ModelProto:
    """The part of the file between two values, as a model of its own with free shapes."""
    nodes = _between(extractor, start, end)
    used = {name for node in nodes for name in node.input}
    model = extractor.model
    weights = [t for t in model.graph.initializer if t.name in used and t.name != start]
    graph = onnx.helper.make_graph(
        nodes,
        "unit",
        [onnx.helper.make_tensor_value_info(start, element, None)],
        [onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None)],
        weights,
    )
    return onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _between(extractor: Extractor, start: str, end: str) -> list[onnx.NodeProto]:
    makers = {o: node for node in extractor.model.graph.node for o in node.output}
    needed: set[str] = set()
    todo = [end]
    while todo:
        name = todo.pop()
        if name == start or name in needed or name not in makers:
            continue
        needed.add(name)
        todo += makers[name].input
    return [n for n in extractor.model.graph.node if any(o in needed for o in n.output)]


def _difference(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(1e-12)
    return float((expected - got).abs().max() / scale)


def _run_whole(runtime: ort.InferenceSession, flat: tuple[Any, ...], like: Tensor) -> Tensor:
    tensors = [t for t in flat if isinstance(t, Tensor)]
    names = [i.name for i in runtime.get_inputs()]
    feed = {n: t.contiguous().cpu().numpy() for n, t in zip(names, tensors, strict=False)}
    for result in runtime.run(None, feed):
        if isinstance(result, np.ndarray) and result.shape == tuple(like.shape):
            return torch.from_numpy(result)
    raise RunDirectoryError("model.onnx gives no output of the network's shape: export it again.")


class _EndToEnd:
    """Sums over batches of whole-network comparisons."""

    def __init__(self) -> None:
        self.same = self.rows = 0
        self.worst = 0.0
        self.scale = 1e-12

    def add(self, expected: Tensor, got: Tensor) -> None:
        same, rows = agreement(class_rows(expected), class_rows(got))
        self.same += same
        self.rows += rows
        self.worst = max(self.worst, float((expected - got).abs().max()))
        self.scale = max(self.scale, float(expected.abs().max()))

    def result(self) -> dict[str, float]:
        return {
            "agreement": self.same / max(self.rows, 1),
            "max_difference": self.worst,
            "max_relative_difference": self.worst / self.scale,
        }


def _optimized_operators(path: Path) -> dict[str, int]:
    """Which operators ONNX Runtime really runs after its optimisations."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(str(target), load_external_data=False).graph.node
        return dict(Counter(node.op_type for node in nodes).most_common())
