"""The exported file in a runtime against the simulation: every unit, then the whole network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, fx

from bitwright.errors import RunDirectoryError
from bitwright.export.certificate import certify
from bitwright.export.end_to_end import EndToEnd
from bitwright.export.kernels import AGREEMENT, find_overflowing, kernels_note, lacks_vnni
from bitwright.export.onnx_file import output_places, unit_values
from bitwright.export.onnx_read import read_onnx
from bitwright.export.rounding import count_undecided, find_agreeing, take_comparable
from bitwright.export.runtime import RUNTIME_ERRORS, list_optimized_operators, session
from bitwright.export.runtimes import ONNX_RUNTIME, RUNTIMES, Runtime, RuntimeRefusal
from bitwright.export.speed import compare_speed
from bitwright.export.verified import (
    Certificate,
    JudgingRuntime,
    OptimizedRun,
    OtherSize,
    PlainRun,
    Verification,
)
from bitwright.graph.answers import Answer, Compared, as_parts, samples_of
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
# Without optimisations a runtime computes what units have proven already, several times as slowly.
PLAIN_SAMPLES = 256


def verify(
    path: Path,
    graph: ModelGraph,
    marked: fx.GraphModule,
    batches: Iterable[Inputs],
    progress: Callable[[int], None] = lambda _: None,
    portable: bool = False,
    runtime: Runtime = RUNTIMES[ONNX_RUNTIME],
) -> Verification:
    """Check that a runtime computes from the file what the simulation promised.

    Every unit is cut out of the file and fed with the simulation's own input, in ONNX Runtime with
    its optimisations off: it must agree to float rounding, which proves what the file says. Then
    the whole network runs on all batches as users run it, in the runtime with all optimisations
    on, and the answers are compared: 99 % of them must be the same (of embeddings: point the same
    way, token by token, see `rounding.find_agreeing`). That decides; what the same runtime answers
    without optimisations to the first samples must agree too, and is told beside it. Where there
    are fewer than `FEW_SAMPLES` samples, those that float rounding alone decides (see `rounding`)
    do not count against the file; `undecided` says how many these are, `agreement` is always that
    of all.
    Where sizes are free, a few samples run at another one too. A `certificate` tells whether all
    processors add up alike. At last the file is timed.

    Args:
        path: model.onnx.
        graph: the captured network.
        marked: the simulation, stitched with marks.
        batches, progress: inputs, a few of the first serve the units; told the samples done.
        portable: whether the sums were promised to be the same on every processor.
        runtime: that of the target.
    """
    model = read_onnx(path)
    units: dict[str, float] = {}
    runs = {on: _Runs(_Whole(runtime, path, on, graph.answer, marked)) for on in (True, False)}
    samples, of_float, few = 0, EndToEnd(graph.answer), tuple[Any, ...]()
    for inputs in batches:
        flat = bind(graph, inputs)
        if not samples:
            few = tuple(t[:UNIT_SAMPLES] if isinstance(t, Tensor) else t for t in flat)
            units = verify_units(model, marked, few)
        expected = take_comparable(graph.answer, walk(marked, flat))
        runs[True].add(marked, flat, expected, units if samples < FEW_SAMPLES else None)
        if samples < PLAIN_SAMPLES:
            runs[False].add(marked, flat, expected, units)
        if (got := runs[True].last) is not None:
            of_float.add(take_comparable(graph.answer, walk(graph.module, flat)), got)
        samples += samples_of(expected)
        progress(samples)
    used, plain = runs[True], runs[False]
    other = _at_another_size(used.whole, graph, marked, few, units)
    sums = replace(certify(graph, marked), asked=portable)
    found = _judge(units, samples, (used, plain), other, sums)
    agreed = used.agrees(samples < FEW_SAMPLES)
    optimized = _optimized(runtime, path, marked, (used, plain), agreed)
    timed = compare_speed(path, graph, marked, few) if few and not found.error else None
    own = JudgingRuntime(name=runtime.label, version=runtime.version())
    right = of_float.agreement
    return replace(found, speed=timed, optimized=optimized, runtime=own, float_agreement=right)


class _Runs:
    """The whole network in one session, compared batch by batch."""

    def __init__(self, whole: _Whole) -> None:
        self.whole = whole
        self.tally = EndToEnd(whole.answer)
        self.doubtful = self.samples = 0
        self.last: Compared | None = None

    def add(
        self,
        marked: fx.GraphModule,
        flat: tuple[Any, ...],
        expected: Compared,
        units: Mapping[str, float] | None,
    ) -> None:
        """Run a batch; with `units` see which of its differences float rounding alone decides."""
        self.samples += samples_of(expected)
        got = self.last = self.whole.run(flat, expected)
        if got is not None and self.tally.add(expected, got) and units is not None:
            answer = self.whole.answer
            self.doubtful += count_undecided(marked, flat, expected, got, units, answer)

    def agrees(self, few: bool) -> bool:
        """Whether the promise holds: of few samples for the answers that count, else of all."""
        return self.tally.agrees(self.doubtful if few else 0)


def _judge(
    units: Mapping[str, float],
    samples: int,
    runs: tuple[_Runs, _Runs],
    other: OtherSize | None,
    sums: Certificate,
) -> Verification:
    """Whether the promise holds end to end, in every unit, at another size, and in all sums.

    `runs` are that with optimisations, which is told, and that without; both must agree.
    """
    used, plain = runs
    tally, error = used.tally, used.whole.error or plain.whole.error
    few = samples < FEW_SAMPLES
    kept = used.agrees(few) and plain.agrees(True)
    bad = [name for name, difference in units.items() if not difference <= UNIT_TOLERANCE]
    sized = other is None or other.agreement >= AGREEMENT
    certain = sums.holds or not sums.asked
    return Verification(
        passed=bool(units) and not bad and not error and sized and kept and certain,
        tolerance=UNIT_TOLERANCE,
        units=units,
        samples=samples,
        undecided=used.doubtful,
        error=error,
        agreement=tally.agreement,
        max_difference=tally.worst,
        max_relative_difference=tally.relative,
        outputs=tally.by_output if used.whole.answer.heads else None,
        optimized=OptimizedRun(**_figures(tally), operators={}, note=None),
        unoptimized=PlainRun(
            **_figures(plain.tally), undecided=plain.doubtful, samples=plain.samples
        ),
        other_size=other,
        portable=sums,
        first_failure=bad[0] if bad else None,
    )


def _figures(tally: EndToEnd) -> dict[str, float]:
    return {
        "agreement": tally.agreement,
        "max_difference": tally.worst,
        "max_relative_difference": tally.relative,
    }


def _optimized(
    runtime: Runtime, path: Path, marked: fx.GraphModule, runs: tuple[_Runs, _Runs], agreed: bool
) -> OptimizedRun:
    """The run with optimisations: what really ran, and why answers are others than without."""
    (used, plain), ran, note = runs, dict[str, int](), None
    if runtime.name == ONNX_RUNTIME:
        ran = list_optimized_operators(path)
        if not agreed:
            rates = plain.tally.agreement, used.tally.agreement
            note = kernels_note(*rates, find_overflowing(marked), lacks_vnni())
    return OptimizedRun(**_figures(used.tally), operators=ran, note=note)


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


def run_as_written(part: bytes, given: Tensor) -> Tensor:
    """The result of a unit's file in ONNX Runtime, without its optimisations.

    Raises:
        *RUNTIME_ERRORS: it does not run.
    """
    runtime = session(part, optimized=False, threads=1)
    result = runtime.run(None, {runtime.get_inputs()[0].name: given.contiguous().numpy()})
    return torch.from_numpy(np.asarray(result[0]))


def verify_units(
    model: onnx.ModelProto,
    marked: fx.GraphModule,
    inputs: tuple[Any, ...],
    run: Callable[[bytes, Tensor], Tensor] = run_as_written,
) -> dict[str, float]:
    """Worst relative difference of each unit, file against simulation, on equal inputs.

    Args:
        model: the file.
        marked: the simulation, stitched with marks.
        inputs: of the network, of which each unit's are made.
        run: gives the result of a unit that was cut out, as a file, on its input.
    """
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
                got = _run_unit(whole, places[name], kept[sources[node]], run)
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


def _run_unit(
    model: ir.Model,
    place: tuple[str, str],
    value: Tensor,
    run: Callable[[bytes, Tensor], Tensor],
) -> Tensor:
    try:
        part = _cut_out(model, *place, ir.DataType.from_numpy(value.numpy().dtype))
        return run(part.SerializeToString(), value)
    except (ValueError, *RUNTIME_ERRORS):  # no such values in the file, or no such part
        return torch.empty(0)  # of no unit's shape: an infinite difference


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
    """The whole network in a runtime; what it refuses to load or run is kept as `error`."""

    def __init__(
        self, runtime: Runtime, path: Path, optimized: bool, answer: Answer, marked: fx.GraphModule
    ) -> None:
        self.error: str | None = None
        self.answer, self.places = answer, output_places(marked)
        try:
            self.loaded = runtime.load(path, optimized)
        except RuntimeRefusal as error:
            self.error = str(error)

    def run(self, flat: tuple[Any, ...], like: Compared) -> Compared | None:
        """The output that corresponds to the simulation's, or None after an error."""
        if self.error is not None:
            return None
        tensors = [t for t in flat if isinstance(t, Tensor)]
        names = self.loaded.inputs
        feed = {n: t.contiguous().cpu().numpy() for n, t in zip(names, tensors, strict=False)}
        try:
            results = self.loaded.run(feed)
        except RuntimeRefusal as error:
            self.error = str(error)
            return None
        count = len(results)
        leaves = [
            None if p is None or p >= count else torch.from_numpy(results[p]) for p in self.places
        ]
        if all(isinstance(leaves[i], Tensor) for i in self.answer.leaves):
            got = take_comparable(self.answer, leaves)
            if [part.shape for part in as_parts(got)] == [part.shape for part in as_parts(like)]:
                return got
        raise RunDirectoryError(
            "model.onnx gives no output of the network's shape: export it again."
        )
