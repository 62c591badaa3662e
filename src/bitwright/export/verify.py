"""The exported file in ONNX Runtime against the simulation: every unit, then the whole network."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor, fx

from bitwright.errors import RunDirectoryError
from bitwright.export.certificate import certify
from bitwright.export.kernels import AGREEMENT, find_overflowing, kernels_note, lacks_vnni
from bitwright.export.onnx_file import output_places, unit_values
from bitwright.export.onnx_read import read_onnx
from bitwright.export.rounding import count_undecided, find_agreeing, take_comparable
from bitwright.export.runtime import RUNTIME_ERRORS, first_line, session
from bitwright.export.speed import compare_speed
from bitwright.export.verified import Certificate, OptimizedRun, OtherSize, Verification
from bitwright.graph.answers import Answer
from bitwright.graph.custom_ops import DEQUANTIZE, FAKE_QUANTIZE, MARK
from bitwright.graph.execute import Inputs, bind, walk
from bitwright.graph.free_sizes import least_step, resize_free, takes_free_images
from bitwright.graph.model_graph import ModelGraph, get_tensor
from bitwright.graph.sites import is_zero_pad
from bitwright.graph.units import input_of

UNIT_TOLERANCE = 1e-5
# Below so many samples a few answers that float rounding decides can break 99 %: there, and only
# there, disagreements that `rounding.count_undecided` explains do not count.
FEW_SAMPLES = 500
UNIT_SAMPLES = 4


def verify(
    path: Path,
    graph: ModelGraph,
    marked: fx.GraphModule,
    batches: Iterable[Inputs],
    progress: Callable[[int], None] = lambda _: None,
    portable: bool = False,
) -> Verification:
    """Check that ONNX Runtime computes from the file what the simulation promised.

    Every unit is cut out of the file and fed with the simulation's own input, optimisations off: it
    must agree to float rounding. Then the whole network runs on all batches, optimisations off and
    on, and the answers are compared: 99 % of them must be the same (of embeddings: point the same
    way, token by token, see `rounding.find_agreeing`). Where there are fewer than
    `FEW_SAMPLES` samples, those that float rounding alone decides (see `rounding`) do not count
    against the file; `undecided` says how many these are, `agreement` is always that of all.
    Free heights and widths: a few samples run at another size too. A `certificate` tells whether
    all processors add up alike. At last the file is timed beside the float network.

    Args:
        path: model.onnx.
        graph: the captured network.
        marked: the simulation, stitched with marks.
        batches: inputs; a few samples of the first serve the units.
        progress: told the samples done.
        portable: whether the sums were promised to be the same on every processor.
    """
    model = read_onnx(path)
    units: dict[str, float] = {}
    answer, places = graph.answer, output_places(marked)
    whole = {flag: _Whole(path, flag, answer, places) for flag in (False, True)}
    tallies = {flag: _EndToEnd(answer) for flag in (False, True)}
    samples, doubtful, few = 0, 0, tuple[Any, ...]()
    for inputs in batches:
        flat = bind(graph, inputs)
        if not samples:
            few = tuple(t[:UNIT_SAMPLES] if isinstance(t, Tensor) else t for t in flat)
            units = verify_units(model, marked, few)
        expected = take_comparable(answer, walk(marked, flat))
        for flag, runtime in whole.items():
            got = runtime.run(flat, expected)
            missed = 0 if got is None else tallies[flag].add(expected, got)
            if got is not None and missed and not flag and samples < FEW_SAMPLES:
                doubtful += count_undecided(marked, flat, expected, got, units, answer)
        samples += expected.shape[0]
        progress(samples)
    error = whole[False].error or whole[True].error
    optimized = _optimized(path, marked, tallies[False].agreement, tallies[True])
    other = _at_another_size(whole[False], graph, marked, few, units)
    sums = replace(certify(graph, marked), asked=portable)
    found = _judge(units, (samples, doubtful), tallies[False], error, optimized, other, sums)
    timed = compare_speed(path, graph, marked, few) if few and not error else None
    return replace(found, speed=timed)


def _judge(
    units: Mapping[str, float],
    counted: tuple[int, int],
    tally: _EndToEnd,
    error: str | None,
    optimized: OptimizedRun,
    other: OtherSize | None,
    sums: Certificate,
) -> Verification:
    """Whether the promise holds end to end, in every unit, at another size, and in all sums.

    `counted` are the samples, and those of them that float rounding alone decides.
    """
    samples, doubtful = counted
    bad = [name for name, difference in units.items() if not difference <= UNIT_TOLERANCE]
    kept = tally.agrees(doubtful if samples < FEW_SAMPLES else 0)
    sized = other is None or other.agreement >= AGREEMENT
    certain = sums.holds or not sums.asked
    return Verification(
        passed=bool(units) and not bad and not error and sized and kept and certain,
        tolerance=UNIT_TOLERANCE,
        units=units,
        samples=samples,
        undecided=doubtful,
        error=error,
        agreement=tally.agreement,
        max_difference=tally.worst,
        max_relative_difference=tally.relative,
        optimized=optimized,
        other_size=other,
        portable=sums,
        first_failure=bad[0] if bad else None,
    )


def _optimized(path: Path, marked: fx.GraphModule, plain: float, tally: _EndToEnd) -> OptimizedRun:
    """The run with optimisations, beside the agreement without."""
    return OptimizedRun(
        agreement=tally.agreement,
        max_difference=tally.worst,
        max_relative_difference=tally.relative,
        operators=_list_optimized_operators(path),
        note=kernels_note(plain, tally.agreement, find_overflowing(marked), lacks_vnni()),
    )


def _at_another_size(
    runtime: _Whole,
    graph: ModelGraph,
    marked: fx.GraphModule,
    few: tuple[Any, ...],
    units: Mapping[str, float],
) -> OtherSize | None:
    """A few samples at the next larger size, where sizes are free: the share that agrees.

    What float rounding alone decides counts as agreeing.
    """
    if not few or runtime.error is not None or not takes_free_images(graph.inputs):
        return None
    step = least_step(lambda leaves: walk(marked, tuple(leaves)), graph.inputs, few)
    if not step:
        return None
    flat = tuple(resize_free(graph.inputs, few, step))
    expected = take_comparable(graph.answer, walk(marked, flat))
    try:
        got = runtime.run(flat, expected)
    except RunDirectoryError:  # an output of another shape
        got = None
    if got is None:
        return OtherSize(larger_by=step, agreement=0.0)
    agree = find_agreeing(graph.answer, expected, got)
    same = int(agree.sum())
    if same < agree.numel():
        same += count_undecided(marked, flat, expected, got, units, graph.answer)
    return OtherSize(larger_by=step, agreement=same / max(agree.numel(), 1))


def verify_units(
    model: onnx.ModelProto, marked: fx.GraphModule, inputs: tuple[Any, ...]
) -> dict[str, float]:
    """Worst relative difference of each unit, file against simulation, on equal inputs."""
    places = unit_values(model)
    whole = ir.from_proto(model)
    sources = _unit_sources(marked)
    wanted = set(sources.values())
    kept = {n: get_tensor(marked, str(n.target)) for n in wanted if n.op == "get_attr"}
    differences: dict[str, float] = {}

    def visit(node: fx.Node, value: object) -> None:
        if node in wanted and isinstance(value, Tensor):
            kept[node] = value
        if node.target is MARK and isinstance(value, Tensor):
            name = str(node.args[1])
            if name in places and node in sources:
                got = _run_unit(whole, places[name], kept[sources[node]])
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
            if (
                call.target is DEQUANTIZE
            ):  # of rows that were looked up: what is given is their indices
                call = call.all_input_nodes[0]
            source = input_of(call)
            if is_zero_pad(source):
                source = source.all_input_nodes[0]
            if source.target is FAKE_QUANTIZE:
                source = source.all_input_nodes[0]
            found[node] = source
    return found


def _run_unit(model: ir.Model, place: tuple[str, str], value: Tensor) -> Tensor:
    array = value.contiguous().numpy()
    try:
        part = _cut_out(model, *place, ir.DataType.from_numpy(array.dtype))
        runtime = session(part.SerializeToString(), optimized=False, threads=1)
        result = runtime.run(None, {runtime.get_inputs()[0].name: array})
    except (ValueError, *RUNTIME_ERRORS):  # no such values in the file, or no such part
        return torch.empty(0)  # of no unit's shape: an infinite difference
    return torch.from_numpy(np.asarray(result[0]))


def _cut_out(model: ir.Model, start: str, end: str, kind: ir.DataType) -> onnx.ModelProto:
    """The part of the file between two values, as a model of its own with free shapes.

    Raises:
        ValueError: it has no such values, or what lies between them needs more.
    """
    part = ir.convenience.extract(model.graph, [start], [end])
    part.initializers.pop(start, None)
    for value, own in ((part.inputs[0], kind), (part.outputs[0], ir.DataType.FLOAT)):
        value.type, value.shape = ir.TensorType(own), None
    return ir.to_proto(ir.Model(part, ir_version=model.ir_version))


def _difference(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(1e-12)
    return float((expected - got).abs().max() / scale)


class _Whole:
    """The whole network in ONNX Runtime; what it refuses to load or run is kept as `error`."""

    def __init__(
        self, path: Path, optimized: bool, answer: Answer, places: list[int | None]
    ) -> None:
        self.error: str | None = None
        self.answer, self.places = answer, places
        try:
            self.session = session(path, optimized)
        except RUNTIME_ERRORS as error:
            self.error = first_line(error)

    def run(self, flat: tuple[Any, ...], like: Tensor) -> Tensor | None:
        """The output that corresponds to the simulation's, or None after an error."""
        if self.error is not None:
            return None
        tensors = [t for t in flat if isinstance(t, Tensor)]
        names = [i.name for i in self.session.get_inputs()]
        feed = {n: t.contiguous().cpu().numpy() for n, t in zip(names, tensors, strict=False)}
        try:
            results = self.session.run(None, feed)
        except RUNTIME_ERRORS as error:
            self.error = first_line(error)
            return None
        count = len(results)
        leaves = [
            None if p is None or p >= count else torch.from_numpy(np.asarray(results[p]))
            for p in self.places
        ]
        if all(isinstance(leaves[i], Tensor) for i in self.answer.leaves):
            got = take_comparable(self.answer, leaves)
            if got.shape == like.shape:
                return got
        raise RunDirectoryError(
            "model.onnx gives no output of the network's shape: export it again."
        )


class _EndToEnd:
    """Sums over batches of whole-network comparisons."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.same = self.rows = 0
        self.worst = 0.0
        self.scale = 1e-12

    def add(self, expected: Tensor, got: Tensor) -> int:
        """Take in a batch; returns how many answers differ."""
        agree = find_agreeing(self.answer, expected, got)
        same, rows = int(agree.sum()), agree.numel()
        self.same += same
        self.rows += rows
        self.worst = max(self.worst, float((expected - got).abs().max()))
        self.scale = max(self.scale, float(expected.abs().max()))
        return rows - same

    def agrees(self, left_out: int) -> bool:
        """Whether the promise holds for the answers that count."""
        return self.rows > 0 and self.same >= AGREEMENT * (self.rows - left_out)

    @property
    def agreement(self) -> float:
        """Share of the answers that are the same."""
        return self.same / max(self.rows, 1)

    @property
    def relative(self) -> float:
        """The worst difference against the largest number."""
        return self.worst / self.scale


def _list_optimized_operators(path: Path) -> dict[str, int]:
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
