"""Two ONNX files side by side: where their values part, how that grows, and how fast each is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from bitwright.diagnosis.file_difference import (
    FileComparison,
    FileTimes,
    OutputDifference,
    SampleDifference,
    TensorDifference,
)
from bitwright.diagnosis.file_graph import FileGraph
from bitwright.diagnosis.file_match import MatchedTensor, Matching, match_files
from bitwright.engine.progress import Progress
from bitwright.errors import InputError, RecipeError
from bitwright.export.onnx_read import read_onnx
from bitwright.export.runtimes import ONNX_RUNTIME, LoadedFile, RuntimeRefusal
from bitwright.graph.execute import class_rows
from bitwright.latency.bench import BenchFile, BenchSettings, bench
from bitwright.latency.feeds import FileInput, inputs_of
from bitwright.numerics.losses import agreement
from bitwright.pipeline.file_data import FileData, check_feeds, read_file_data
from bitwright.pipeline.file_values import Arrays, TensorTally, load_model, tally_tensors
from bitwright.sources.images import ImageOptions

# What rounding of floats in another order leaves, and no more: a difference begins beyond it.
SAME = 1e-4
# So many samples, and places where a difference grows, are named.
NAMED = 5
# What a runtime's optimisations may change without a word.
OPTIMIZED = 1e-3
# What mends a file that cannot be read.
AGAIN = "Give the path of a whole ONNX file."


@dataclass(frozen=True)
class CompareSettings:
    """What is compared, and how far.

    `samples`: at most so many; `tolerance`: the relative difference that outputs may have, 0 for no
    bound; `turns` of timing each file, 0 for none; `image`: what is stated of pictures; `free`:
    sizes of free axes of made inputs.
    """

    samples: int = 32
    tolerance: float = 0.0
    turns: int = 25
    image: ImageOptions | None = None
    free: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.samples <= 1_000_000 or not 0 <= self.turns <= 100_000:
            raise RecipeError("--samples are 1 or more, and --repetitions 0 or more.")
        if not 0 <= self.tolerance < math.inf:
            raise RecipeError(f"--tolerance {self.tolerance} is no relative difference: 0 or more.")


def compare(
    first: Path | str,
    second: Path | str,
    data: str,
    settings: CompareSettings | None = None,
    progress: Progress | None = None,
) -> FileComparison:
    """Run two ONNX files on the same samples and compare every value that both have.

    Args:
        first: the file of reference.
        second: the other one.
        data: a D, or `random` for made inputs.
        settings: samples, tolerance, timing, pictures.
        progress: told of the stages.

    Raises:
        InputError: a path is no ONNX file, or the files are of different networks.
        DataError: the data are no inputs of the files.
    """
    chosen, told = settings or CompareSettings(), progress or Progress()
    paths = (Path(first), Path(second))
    models = read_onnx(paths[0], AGAIN), read_onnx(paths[1], AGAIN)
    # A runtime checks a file's form: what it loads can be walked.
    with told.stage("load"):
        loaded = [_load_both(*pair) for pair in zip(models, paths, strict=True)]
    graphs = FileGraph(models[0]), FileGraph(models[1])
    matching = match_files(*graphs)
    inputs = inputs_of(models[0]), inputs_of(models[1])
    given = read_file_data(inputs[0], data, chosen.samples, chosen.image, chosen.free)
    check_feeds(paths[0], inputs[0], given)
    feeds = _Feeds(given, dict(matching.inputs), inputs[1])
    with told.stage("outputs"):
        outputs = tuple(_outputs(graphs, loaded, matching, feeds))
    shown = tuple(found for one in outputs if (found := one.result(given)) is not None)
    if not shown:
        raise InputError("no output of the files is a tensor of numbers: nothing can be compared.")
    with told.stage("values", len(matching.tensors)) as tick:
        tallies = tally_tensors(graphs, matching.tensors, feeds, tick)
    tensors = _tensors(matching.tensors, tallies)
    return FileComparison(
        first=str(first),
        second=str(second),
        data=data,
        samples=sum(given.counts),
        tolerance=chosen.tolerance,
        passed=not chosen.tolerance or all(o.difference <= chosen.tolerance for o in shown),
        outputs=shown,
        tensors=tensors,
        alone=matching.alone,
        begins=next((t.name for t in tensors if t.difference > SAME), None),
        grows=_grows(tensors),
        times=_times(paths, feeds, chosen, told) if chosen.turns else None,
        notes=(*given.notes, *_notes(shown, tallies, graphs)),
    )


@dataclass(frozen=True, eq=False)
class _Feeds:
    """Passes over the samples, for both files by their own names."""

    data: FileData
    names: Mapping[str, str]
    inputs: Sequence[FileInput]

    def __call__(self) -> Iterator[tuple[Arrays, Arrays, int]]:
        kinds = {spec.name: spec.dtype for spec in self.inputs}
        for feed, count in zip(self.data.batches, self.data.counts, strict=True):
            own = {self.names[k]: v for k, v in feed.items() if k in self.names}
            yield feed, {k: v.astype(kinds[k], copy=False) for k, v in own.items()}, count


def _outputs(
    graphs: tuple[FileGraph, FileGraph],
    loaded: Sequence[tuple[LoadedFile, LoadedFile]],
    matching: Matching,
    feeds: _Feeds,
) -> list[_OutputTally]:
    """The outputs of both files as users run them, and as they are written."""
    found = [_OutputTally(*names) for names in matching.outputs]
    for mine, theirs, count in feeds():
        values = [
            [
                dict(zip(graph.outputs, _run(files[way], feed), strict=True))
                for graph, files, feed in zip(graphs, loaded, (mine, theirs), strict=True)
            ]
            for way in (0, 1)
        ]
        for one in found:
            one.add(values[0], values[1], count)
    return found


def _load_both(model: onnx.ModelProto, path: Path) -> tuple[LoadedFile, LoadedFile]:
    """A file with all optimisations, and as it is written."""
    try:
        return load_model(model, optimized=True), load_model(model, optimized=False)
    except RuntimeRefusal as error:
        raise InputError(f"ONNX Runtime cannot load {path}: {error}") from error


def _run(file: LoadedFile, feed: Arrays) -> list[np.ndarray]:
    try:
        return file.run(feed)
    except RuntimeRefusal as error:
        raise InputError(f"ONNX Runtime cannot run a file on --data: {error}") from error


class _OutputTally:
    """Running sums of one output of both files."""

    def __init__(self, name: str, other: str) -> None:
        self.names = (name, other)
        self.between = TensorTally()
        self.own = (TensorTally(), TensorTally())
        self.same = self.rows = 0.0

    def add(self, fast: Sequence[Arrays], plain: Sequence[Arrays], count: int) -> None:
        """One batch, optimised and not, of both files."""
        a, b = (np.asarray(own[name]) for own, name in zip(fast, self.names, strict=True))
        if any(value.dtype.kind not in "fiub" for value in (a, b)):
            self.between.numeric = False
            return
        self.between.add(a.astype(np.float64), b.astype(np.float64), count)
        for tally, own, quick, name in zip(self.own, plain, (a, b), self.names, strict=True):
            tally.add(np.asarray(own[name]).astype(np.float64), quick.astype(np.float64), count)
        if a.shape == b.shape and a.ndim > 1 and a.dtype.kind == "f":
            one, other = (class_rows(torch.from_numpy(v.astype(np.float32))) for v in (a, b))
            if one.shape[1] > 1:
                same, rows = agreement(one, other)
                self.same, self.rows = self.same + float(same), self.rows + rows

    def result(self, given: FileData) -> OutputDifference | None:
        """All of it as plain numbers; None of what is no tensor of numbers.

        Raises:
            InputError: the output has another shape in the second file.
        """
        if not self.between.numeric:
            return None
        if not self.between.same:
            raise InputError(
                f"the output {self.names[0]!r} has another shape in the second file. Give two "
                "files of the same network."
            )
        samples = self.between.samples
        worst = sorted(range(len(samples)), key=lambda i: (-samples[i], i))[:NAMED]
        return OutputDifference(
            name=self.names[0],
            other=self.names[1],
            difference=self.between.difference,
            worst=self.between.worst,
            agreement=self.same / self.rows if self.rows else None,
            samples=tuple(
                SampleDifference(index=i, name=given.names[i], difference=samples[i]) for i in worst
            ),
            per_sample=tuple(samples),
            optimized=tuple(tally.difference for tally in self.own),
        )


def _tensors(
    matched: Sequence[MatchedTensor], tallies: Mapping[str, TensorTally]
) -> tuple[TensorDifference, ...]:
    """What was found of every tensor that has the same shape in both files."""
    found: dict[str, TensorDifference] = {}
    for one in matched:
        tally = tallies.get(one.name)
        if tally is None or not tally.same or not tally.numeric:
            continue
        above = [found[name].difference for name in one.enters if name in found]
        found[one.name] = TensorDifference(
            name=one.name,
            other=one.other,
            kind=one.kind,
            by=one.by,
            difference=tally.difference,
            worst=tally.worst,
            enters=max(above, default=0.0),
            rounding=tally.rounding if one.read is not None else None,
            sample=int(np.argmax(tally.samples)) if tally.samples else 0,
        )
    return tuple(found.values())


def _grows(tensors: Sequence[TensorDifference]) -> tuple[str, ...]:
    """Where most of the difference arises."""
    growing = [one for one in tensors if one.added > SAME]
    return tuple(one.name for one in sorted(growing, key=lambda one: -one.added)[:NAMED])


def _notes(
    outputs: Sequence[OutputDifference],
    tallies: Mapping[str, TensorTally],
    graphs: tuple[FileGraph, FileGraph],
) -> Iterator[str]:
    """What a reader of the figures has to know."""
    for place, word in enumerate(("first", "second")):
        own = max((o.optimized[place] for o in outputs), default=0.0)
        if own > OPTIMIZED:
            yield (
                f"ONNX Runtime's optimisations change the {word} file's own outputs by {own:.2g}: "
                "outputs are as users run them, values inside as the file is written"
            )
    odd = [name for name, tally in tallies.items() if not tally.same]
    if odd:
        yield f"{len(odd)} matched values have other shapes in the second file: not compared"
    for graph, word in zip(graphs, ("first", "second"), strict=True):
        inner = sum(
            any(a.HasField("g") or a.graphs for a in node.attribute)
            for node in graph.model.graph.node
        )
        if inner:
            yield f"values inside {inner} branches and loops of the {word} file are not looked at"
    lacking = set(graphs[0].outputs) - {one.name for one in outputs}
    if lacking:
        told = (
            "outputs that are not compared, for the second file lacks them or they are no numbers"
        )
        yield f"{told}: {', '.join(sorted(lacking))}"


def _times(
    paths: tuple[Path, Path], feeds: _Feeds, chosen: CompareSettings, told: Progress
) -> FileTimes | None:
    """Both files in turns, one thread, on the first sample or the batch that they take."""
    mine, theirs, count = next(feeds())
    free = all(spec.free_batch for spec in feeds.inputs)
    rows = 1 if free else count
    files = [
        BenchFile(label, path, {rows: {k: v[:rows] for k, v in feed.items()}})
        for label, path, feed in zip(("first", "second"), paths, (mine, theirs), strict=True)
    ]
    settings = BenchSettings((ONNX_RUNTIME,), (1,), (rows,), chosen.turns)
    found = bench(files, settings, "first", told, profiled=False)
    first, second = (found.of(word, ONNX_RUNTIME, 1, rows) for word in ("first", "second"))
    if first.ms is None or second.ms is None or second.times is None:
        return None
    return FileTimes(
        batch=rows,
        first_ms=first.ms.median,
        second_ms=second.ms.median,
        times=second.times.median,
        low=second.times.low,
        high=second.times.high,
    )
