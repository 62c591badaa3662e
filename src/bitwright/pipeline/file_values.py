"""Values inside two files on the same samples: looked at in groups, so that memory is bounded."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from bitwright.diagnosis.file_graph import FileGraph, Tap
from bitwright.diagnosis.file_match import MatchedTensor
from bitwright.errors import InputError
from bitwright.export.runtimes import ONNX_RUNTIME, LoadedFile, RuntimeRefusal, find_runtime

# What the values of a group may take, of both files and a batch together.
GROUP_BYTES = 256 << 20
# Beyond this a file cannot be handed over in memory.
_WHOLE_BYTES = (1 << 31) - (1 << 24)

Arrays = Mapping[str, np.ndarray]


@dataclass
class TensorTally:
    """Running sums of one matched tensor.

    Equation: |b - a| / |a| over all samples in the Euclidean norm; of each sample its own.
    """

    signal: float = 0.0
    noise: float = 0.0
    most: float = 0.0
    off: float = 0.0
    read_signal: float = 0.0
    read_noise: float = 0.0
    samples: list[float] = field(default_factory=list)
    same: bool = True
    broken: bool = False
    numeric: bool = True

    def add(self, a: np.ndarray, b: np.ndarray, count: int) -> None:
        """One batch of both; `count` samples stand along the first axis where that is the batch."""
        if a.shape != b.shape:
            self.same = False
            return
        # In one file alone; infinities that both have at the same places are equal.
        odd = ~(np.isfinite(a) & np.isfinite(b)) & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        self.broken |= bool(odd.any())
        a, b = (np.nan_to_num(v, nan=0.0, posinf=0.0, neginf=0.0) for v in (a, b))
        rows = count if a.ndim and a.shape[0] == count else 1
        one, gap = a.reshape(rows, -1), (b - a).reshape(rows, -1)
        signals, noises = np.square(one).sum(1), np.square(gap).sum(1)
        self.signal, self.noise = self.signal + signals.sum(), self.noise + noises.sum()
        if a.size:
            self.most = max(self.most, float(np.abs(one).max()))
            self.off = max(self.off, float(np.abs(gap).max()))
        apart = odd.reshape(rows, -1).any(1)
        found = [
            math.inf if bad else _ratio(n, s)
            for n, s, bad in zip(noises, signals, apart, strict=True)
        ]
        self.samples += found if rows == count else found * count

    def add_read(self, before: np.ndarray, after: np.ndarray) -> None:
        """The second file's own value before and behind its quantiser."""
        if before.shape == after.shape:
            self.read_signal += float(np.square(before).sum())
            self.read_noise += float(np.square(after - before).sum())

    @property
    def difference(self) -> float:
        """Relative, over all samples."""
        return math.inf if self.broken else _ratio(self.noise, self.signal)

    @property
    def rounding(self) -> float:
        """What the second file's own quantiser adds, relative."""
        return _ratio(self.read_noise, self.read_signal)

    @property
    def worst(self) -> float:
        """The largest difference of a number, of the largest number."""
        if self.broken:
            return math.inf
        return self.off / self.most if self.most else (math.inf if self.off else 0.0)


def _ratio(noise: float, signal: float) -> float:
    if not noise:
        return 0.0
    return math.sqrt(noise / signal) if signal else math.inf


def load_tapped(model: onnx.ModelProto, names: Sequence[str]) -> LoadedFile:
    """A file that gives these values and nothing else, run as it is written.

    Raises:
        RuntimeRefusal: ONNX Runtime does not load it.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = {value.name: value for value in model.graph.output}
    inner = {value.name: value for value in model.graph.value_info}
    del made.graph.output[:]
    for name in names:
        value = known.get(name) or inner.get(name) or onnx.ValueInfoProto(name=name)
        made.graph.output.append(value)
    return load_model(made, optimized=False)


def load_model(model: onnx.ModelProto, optimized: bool) -> LoadedFile:
    """A file in memory, of any size, in ONNX Runtime.

    Raises:
        RuntimeRefusal: it cannot be loaded.
    """
    runtime = find_runtime(ONNX_RUNTIME)
    if model.ByteSize() < _WHOLE_BYTES:
        return runtime.load(model.SerializeToString(), optimized)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path, save_as_external_data=True, location="weights")
        return runtime.load(path, optimized)


def estimate_bytes(model: onnx.ModelProto, feed: Arrays) -> dict[str, int]:
    """What the values of a file take on a batch, as far as its shapes can be told."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for value in light.graph.input:
        if value.name in feed:
            array = feed[value.name]
            kind = onnx.helper.make_tensor_type_proto(
                value.type.tensor_type.elem_type, list(array.shape)
            )
            value.type.CopyFrom(kind)
    del light.graph.value_info[:]
    try:
        light = onnx.shape_inference.infer_shapes(light)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    found = {}
    for value in (*light.graph.value_info, *light.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = 8 * math.prod(d.dim_value for d in dims)
    return found


def group_tensors(
    tensors: Sequence[MatchedTensor],
    sizes: tuple[Mapping[str, int], Mapping[str, int]],
    bound: int = GROUP_BYTES,
) -> Iterator[list[MatchedTensor]]:
    """Tensors in order, in groups whose values fit together; what has no known size is large."""
    usual = max([*sizes[0].values(), *sizes[1].values()], default=bound // 8)
    group: list[MatchedTensor] = []
    held = 0
    for one in tensors:
        size = sum(own.get(tap.value, usual) for own, tap in zip(sizes, one.taps, strict=True)) + (
            sizes[1].get(one.read.value, usual) if one.read else 0
        )
        if group and held + size > bound:
            yield group
            group, held = [], 0
        group.append(one)
        held += size
    if group:
        yield group


def tally_tensors(
    graphs: tuple[FileGraph, FileGraph],
    tensors: Sequence[MatchedTensor],
    feeds: Callable[[], Iterator[tuple[Arrays, Arrays, int]]],
    tick: Callable[[int], None] = lambda _: None,
) -> dict[str, TensorTally]:
    """Every matched tensor of both files on all samples.

    Args:
        graphs: of both files.
        tensors: the matched ones.
        feeds: starts a pass: inputs of the first, of the second, and how many samples they are.
        tick: told the tensors done.

    Raises:
        InputError: a file does not run.
    """
    first = next(feeds(), None)
    if first is None or not tensors:
        return {}
    sizes = tuple(estimate_bytes(g.model, f) for g, f in zip(graphs, first[:2], strict=True))
    tallies: dict[str, TensorTally] = {}
    for group in group_tensors(tensors, (sizes[0], sizes[1])):
        tallies |= _tally_group(graphs, group, feeds)
        tick(len(tallies))
    return tallies


def _tally_group(
    graphs: tuple[FileGraph, FileGraph],
    group: Sequence[MatchedTensor],
    feeds: Callable[[], Iterator[tuple[Arrays, Arrays, int]]],
) -> dict[str, TensorTally]:
    tallies = {one.name: TensorTally() for one in group}
    wanted = _wanted(graphs, group)
    try:
        loaded = [
            load_tapped(g.model, names) if names else None
            for g, names in zip(graphs, wanted, strict=True)
        ]
        for mine, theirs, count in feeds():
            values = [
                dict(feed) | (dict(zip(names, file.run(feed), strict=True)) if file else {})
                for file, names, feed in zip(loaded, wanted, (mine, theirs), strict=True)
            ]
            for one in group:
                _add(tallies[one.name], one, (values[0], values[1]), count)
    except RuntimeRefusal as error:
        raise InputError(f"ONNX Runtime cannot run the files: {error}") from error
    return tallies


def _wanted(
    graphs: tuple[FileGraph, FileGraph], group: Sequence[MatchedTensor]
) -> tuple[list[str], list[str]]:
    reads: Sequence[Tap] = [one.read for one in group if one.read]
    found = []
    for side, graph in enumerate(graphs):
        taps = [one.taps[side] for one in group] + (list(reads) if side else [])
        names = dict.fromkeys(tap.value for tap in taps if tap.value not in graph.inputs)
        found.append(list(names))
    return found[0], found[1]


def _add(tally: TensorTally, one: MatchedTensor, values: tuple[Arrays, Arrays], count: int) -> None:
    given = [own[tap.value] for tap, own in zip(one.taps, values, strict=True)]
    if any(v.dtype.kind != "f" and t.scale is None for v, t in zip(given, one.taps, strict=True)):
        tally.numeric = False  # a shape, an index, a condition
        return
    a, b = (tap.numbers(value) for tap, value in zip(one.taps, given, strict=True))
    tally.add(a, b, count)
    if one.read is not None and one.taps[1].scale is None:
        tally.add_read(b, one.read.numbers(values[1][one.read.value]))
