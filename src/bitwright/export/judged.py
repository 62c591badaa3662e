"""A file judged as its target says: in which runtime, and by whose published rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, fx

from bitwright.export.kernels import AGREEMENT
from bitwright.export.onnx_file import output_places
from bitwright.export.onnx_read import read_onnx
from bitwright.export.rounding import find_agreeing, take_comparable
from bitwright.export.runtime import feed_of
from bitwright.export.runtimes import (
    ONNX_RUNTIME,
    LoadedFile,
    Runtime,
    RuntimeRefusal,
    require_runtime,
)
from bitwright.export.tensorrt_rules import find_breaches
from bitwright.export.verified import AsRun, Rules, Verification
from bitwright.export.verify import UNIT_SAMPLES, verify, verify_units
from bitwright.graph.answers import Compared
from bitwright.graph.execute import Inputs, bind, walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target

# Of a unit's largest value. A runtime may divide by a scale in another order than ONNX says, which
# moves an input that lies between two steps by one of them; what is wrong is off by far more.
AS_RUN_TOLERANCE = 0.05


def judge_file(
    target: Target,
    path: Path,
    graph: ModelGraph,
    marked: fx.GraphModule,
    batches: Iterable[Inputs],
    progress: Callable[[int], None] = lambda _: None,
    portable: bool = False,
) -> Verification:
    """What `verify` finds, and what else the target asks of its files.

    In another runtime than ONNX Runtime the whole network and every unit are run too, as users run
    them: 99 % of the answers must be the simulation's, and units be within `AS_RUN_TOLERANCE`.
    Where the runtime itself cannot be asked its rules are, and no node may break one.

    Raises:
        InputError: the target's runtime is not installed; with the command that installs it.
    """
    runtime, kept = require_runtime(target.runtime), list(batches)
    found = verify(path, graph, marked, kept, progress, portable)
    if runtime.name != ONNX_RUNTIME and kept:
        own = _run_in(runtime, path, graph, marked, kept)
        close = all(difference <= AS_RUN_TOLERANCE for difference in own.units.values())
        good = close and not own.error and own.agreement >= AGREEMENT
        found = replace(found, as_run=own, passed=_is_proven(found) and good)
    if target.rules:
        broken = {breach.node: breach.rule for breach in find_breaches(read_onnx(path))}
        rules = Rules(of=target.rules, broken=broken)
        found = replace(found, rules=rules, passed=found.passed and not broken)
    return found


def _is_proven(found: Verification) -> bool:
    """Whether the file is right operator by operator; how ONNX Runtime speeds it up is no matter.

    That is for files of other runtimes: they are run there as their users run them.
    """
    plain = found.unoptimized
    whole = plain is not None and plain.agreement >= AGREEMENT
    sized = found.other_size is None or found.other_size.agreement >= AGREEMENT
    sums = found.portable is None or found.portable.holds or not found.portable.asked
    return found.passed or (
        whole and sized and sums and not found.error and all(map(found.agrees, found.units))
    )


def _run_in(
    runtime: Runtime, path: Path, graph: ModelGraph, marked: fx.GraphModule, kept: Sequence[Inputs]
) -> AsRun:
    """The whole network on all batches, and its units on a few samples of the first."""
    units = _run_units(runtime, path, graph, marked, kept[0])
    same = rows = 0
    error = None
    try:
        loaded = runtime.load(path)
        for inputs in kept:
            flat = bind(graph, inputs)
            expected = take_comparable(graph.answer, walk(marked, flat))
            agree = find_agreeing(graph.answer, expected, _run_whole(loaded, graph, marked, flat))
            same, rows = same + int(agree.sum()), rows + agree.numel()
    except RuntimeRefusal as refusal:
        error = str(refusal)
    return AsRun(
        runtime=runtime.label,
        version=runtime.version(),
        agreement=same / max(rows, 1),
        units=units,
        error=error,
    )


def _run_whole(
    loaded: LoadedFile, graph: ModelGraph, marked: fx.GraphModule, flat: Sequence[object]
) -> Compared:
    """The answers of a batch."""
    tensors = [value for value in flat if isinstance(value, Tensor)]
    specs = [spec for spec in graph.inputs if spec.label in loaded.inputs]
    results = loaded.run(feed_of(specs, tensors))
    leaves = [None if p is None else torch.from_numpy(results[p]) for p in output_places(marked)]
    return take_comparable(graph.answer, leaves)


def _run_units(
    runtime: Runtime, path: Path, graph: ModelGraph, marked: fx.GraphModule, inputs: Inputs
) -> dict[str, float]:
    """The worst relative difference of each unit in a runtime with its optimisations."""

    def run(part: bytes, given: Tensor) -> Tensor:
        try:
            loaded = runtime.load(_of_shape(part, given.shape), threads=1)
            results = loaded.run({loaded.inputs[0]: given.contiguous().numpy()})
        except RuntimeRefusal:
            return torch.empty(0)  # of no unit's shape: an infinite difference
        return torch.from_numpy(results[0])

    flat = bind(graph, inputs)
    few = tuple(t[:UNIT_SAMPLES] if isinstance(t, Tensor) else t for t in flat)
    return verify_units(read_onnx(path), marked, few, run)


def _of_shape(part: bytes, shape: Iterable[int]) -> bytes:
    """The file of a unit for inputs of one shape: OpenVINO reads none of unknown rank."""
    model = onnx.ModelProto.FromString(part)
    kind = model.graph.input[0].type.tensor_type
    kind.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, list(shape)).tensor_type.shape)
    content: bytes = model.SerializeToString()
    return content
