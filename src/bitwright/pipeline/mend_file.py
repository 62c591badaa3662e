"""A quantised ONNX file of any producer, solved again in place: same nodes, types and names.

Units are taken in the file's own order. Each is given what it reads in the file as mended so far,
in ONNX Runtime, and what the float network gives at its place; its integers, the scales that are
its own and its bias are solved for that (`solving.again`). Before the weights the scales and zero
points of activations may be chosen again. Samples that nothing was learnt from decide what is kept,
and whether anything is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from bitwright.diagnosis.file_graph import FileGraph
from bitwright.diagnosis.file_match import Matching, match_files
from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.engine.record import Record
from bitwright.errors import InputError, RecipeError
from bitwright.export.onnx_read import read_onnx
from bitwright.export.runtimes import RuntimeRefusal
from bitwright.graph.execute import class_rows
from bitwright.latency.feeds import inputs_of
from bitwright.numerics.losses import agreement
from bitwright.pipeline.compare_files import AGAIN
from bitwright.pipeline.file_data import FileData, check_feeds, read_file_data
from bitwright.pipeline.file_values import TensorTally, load_model
from bitwright.pipeline.mend_grids import choose_grids
from bitwright.pipeline.mend_parts import (
    StoredTensors,
    find_stored,
    is_quantised,
)
from bitwright.pipeline.mend_units import MendedUnit, feed_both, mend_unit
from bitwright.sources.images import ImageOptions

# Every how manyth batch judges.
EVERY = 4
_RAW_LIMIT = (1 << 31) - (1 << 20)


@dataclass(frozen=True, eq=False, kw_only=True)
class FileAgreement(Record):
    """A file beside the float network on samples that nothing was learnt from.

    Attributes:
        samples: how many.
        agreement: the share of rows whose largest entry is the float network's.
        difference: of the outputs, relative.
    """

    samples: int
    agreement: float
    difference: float

    def beats(self, other: FileAgreement) -> bool:
        """Whether no figure is worse, and one is better."""
        no_worse = self.agreement >= other.agreement and self.difference <= other.difference
        return no_worse and self.difference < other.difference


@dataclass(frozen=True, eq=False, kw_only=True)
class Mended(Record):
    """What became of a file.

    Attributes:
        source, reference, out: the file, the float one, and what was written.
        changed: whether anything was; else the original bytes were written.
        before, after: both files on the samples held out.
        grids: how many activations have another scale or zero point.
        units: of the file, in its order.
        notes: what is to be told.
    """

    source: str
    reference: str
    out: str
    changed: bool
    before: FileAgreement
    after: FileAgreement
    grids: int
    units: tuple[MendedUnit, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MendSettings:
    """How many samples at most, and what is stated of pictures."""

    samples: int = 256
    image: ImageOptions | None = None

    def __post_init__(self) -> None:
        if not 0 < self.samples <= 1_000_000:
            raise RecipeError(f"--samples {self.samples} makes no sense: give 16 or more.")


def mend(
    source: Path | str,
    data: str,
    reference: Path | str | None,
    out: Path | str,
    settings: MendSettings | None = None,
    progress: Progress | None = None,
) -> Mended:
    """Solve a quantised file's integers, scales, zero points and biases again, in place.

    Args:
        source: the file.
        data: a D of its inputs.
        reference: the float file that it was made of.
        out: the file to write.
        settings: samples, pictures.
        progress: told of the stages.

    Raises:
        InputError: no float file is given, or these are no such files.
    """
    chosen, told = settings or MendSettings(), progress or Progress()
    if reference is None:
        raise InputError(
            "mend needs the float network, by --float F.onnx: nothing in the file itself is nearer "
            "to it than what it computes already."
        )
    paths = Path(source), Path(reference)
    model, other = read_onnx(paths[0], AGAIN), read_onnx(paths[1], AGAIN)
    if not is_quantised(model):
        raise InputError(f"{paths[0]} has no quantised operator: there is nothing to mend.")
    for one, path in ((model, paths[0]), (other, paths[1])):
        _check_loads(one, path)
    float_graph = FileGraph(other)
    match_files(float_graph, FileGraph(model))
    given = read_file_data(inputs_of(other), data, chosen.samples, chosen.image)
    check_feeds(paths[1], inputs_of(other), given)
    fit, judge = split_data(given)
    before = judge_against(float_graph, model, judge)
    found = [_mended(float_graph, model, fit, grids, told) for grids in (False, True)]
    judged = [judge_against(float_graph, one[0], judge) for one in found]
    best = min(range(2), key=lambda i: (-judged[i].agreement, judged[i].difference))
    changed = judged[best].beats(before)
    made, units, grids = found[best]
    _write(made if changed else None, paths[0], Path(out))
    return Mended(
        source=str(source),
        reference=str(reference),
        out=str(out),
        changed=changed,
        before=before,
        after=judged[best] if changed else before,
        grids=grids if changed else 0,
        units=units,
        notes=(*given.notes, *_notes(changed, units)),
    )


def _notes(changed: bool, units: Sequence[MendedUnit]) -> Iterator[str]:
    if not changed:
        yield "nothing was found that is no worse on samples held out: the bytes are the original's"
    left = [unit for unit in units if unit.left]
    if left:
        told = ", ".join(f"{unit.name} ({unit.left})" for unit in left[:5])
        yield f"left as they are: {len(left)} of {len(units)} units: {told}"


def _check_loads(model: onnx.ModelProto, path: Path) -> None:
    try:
        load_model(model, optimized=False)
    except RuntimeRefusal as error:
        raise InputError(f"ONNX Runtime cannot load {path}: {error}") from error


def _write(made: onnx.ModelProto | None, source: Path, out: Path) -> None:
    """The mended file, or the original bytes.

    Raises:
        InputError: the file holds more than 2 GB.
    """
    if made is None:
        write_atomically(out, source.read_bytes())
        return
    if made.ByteSize() >= _RAW_LIMIT:
        raise InputError(f"{source} holds more than 2 GB, which cannot be written in one file.")
    write_atomically(out, made.SerializeToString())


def split_data(given: FileData) -> tuple[FileData, FileData]:
    """Batches to learn from, and every fourth to judge by.

    Raises:
        InputError: a single batch.
    """
    if len(given.batches) < 2:
        raise InputError(
            "mend learns from some samples and judges by others: give 16 or more, or two batches."
        )
    apart = [i % EVERY == EVERY - 1 or len(given.batches) - 1 == i < EVERY - 1
             for i in range(len(given.batches))]  # fmt: skip
    parts = []
    for wanted in (False, True):
        batches = tuple(b for b, own in zip(given.batches, apart, strict=True) if own is wanted)
        names = tuple(str(i) for i in range(sum(len(next(iter(b.values()))) for b in batches)))
        parts.append(FileData(batches, names))
    return parts[0], parts[1]


def judge_against(reference: FileGraph, model: onnx.ModelProto, data: FileData) -> FileAgreement:
    """A file as users run it, beside the float network."""
    graph = FileGraph(model)
    matching = match_files(reference, graph)
    files = load_model(reference.model, optimized=True), load_model(model, optimized=True)
    tally, same, rows = TensorTally(), 0.0, 0.0
    for feed, count in zip(data.batches, data.counts, strict=True):
        found = [f.run(own) for f, own in zip(files, feed_both(feed, matching, graph), strict=True)]
        values = [dict(zip(g.outputs, v, strict=True))
                  for g, v in zip((reference, graph), found, strict=True)]  # fmt: skip
        for one, other in matching.outputs:
            a, b = np.asarray(values[0][one]), np.asarray(values[1][other])
            if a.dtype.kind != "f" or a.shape != b.shape:
                continue
            tally.add(a.astype(np.float64), b.astype(np.float64), count)
            if a.ndim > 1:
                pair = (class_rows(torch.from_numpy(v.astype(np.float32))) for v in (a, b))
                here, of = agreement(*pair)
                same, rows = same + float(here), rows + of
    return FileAgreement(
        samples=sum(data.counts),
        agreement=same / rows if rows else 1.0,
        difference=tally.difference,
    )


# ---- the work --------------------------------------------------------------------------------


def _mended(
    reference: FileGraph, source: onnx.ModelProto, fit: FileData, grids: bool, told: Progress
) -> tuple[onnx.ModelProto, tuple[MendedUnit, ...], int]:
    """The file with its units solved again one after the other; with `grids` activations first."""
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph, tensors = FileGraph(model), StoredTensors(model)
    matching = match_files(reference, graph)
    units = list(find_stored(graph, tensors))
    moved = choose_grids(reference, graph, tensors, matching, (fit, units)) if grids else 0
    done = []
    stage = "mend weights on other grids" if grids else "mend weights"
    targets = _targets(reference, graph, matching)
    with told.stage(stage, len(units)) as tick:
        for index, unit in enumerate(units):
            done.append(mend_unit(reference, graph, tensors, unit, (targets, matching, fit)))
            tick(index + 1)
    return model, tuple(done), moved


def _targets(reference: FileGraph, graph: FileGraph, matching: Matching) -> dict[str, str]:
    """For each value of the file what it should be: the float network's, before a clamp."""
    found: dict[str, str] = {}
    back = {read: source for source, read in graph.as_read.items()}
    for one in matching.tensors:
        other, name = one.taps[1].value, one.name
        step = reference.by_result.get(name)
        whole = one.taps[1].scale is not None or other in back
        if whole and step is not None and step.kind == "Relu":
            name = step.operands[0]  # behind the quantiser that clamps stands the clamped value
        found.setdefault(back.get(other, other), name)
    return found
