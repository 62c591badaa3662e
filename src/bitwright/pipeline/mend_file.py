"""A quantised ONNX file of any producer, solved again in place: same nodes, types and names.

Units are taken in the file's own order. Each is given what it reads in the file as mended so far,
in ONNX Runtime, and what the float network gives at its place; its integers, the scales that are
its own and its bias are solved for that (`solving.again`). Before the weights the scales and zero
points of activations may be chosen again. Samples that nothing was learnt from decide whether a
unit's change stays, and others of them whether anything does (`pipeline.mend_judge`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from bitwright.diagnosis.file_graph import FileGraph
from bitwright.diagnosis.file_match import Matching, match_files
from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.engine.record import Record
from bitwright.errors import InputError, RecipeError
from bitwright.export.onnx_read import read_onnx
from bitwright.export.runtimes import RuntimeRefusal
from bitwright.latency.feeds import inputs_of
from bitwright.pipeline.compare_files import AGAIN
from bitwright.pipeline.file_data import FileData, check_feeds, read_file_data
from bitwright.pipeline.file_values import load_model
from bitwright.pipeline.mend_grids import choose_grids
from bitwright.pipeline.mend_judge import (
    ALPHA,
    FileAgreement,
    FileJudge,
    JudgedFile,
    split_data,
)
from bitwright.pipeline.mend_parts import (
    StoredTensors,
    find_stored,
    is_quantised,
)
from bitwright.pipeline.mend_units import MendedUnit, mend_unit
from bitwright.sources.images import ImageOptions

_RAW_LIMIT = (1 << 31) - (1 << 20)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mended(Record):
    """What became of a file.

    Attributes:
        source, reference, out: the file, the float one, and what was written.
        changed: whether anything was; else the original bytes were written.
        before, after: both files on the samples that judge the whole.
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

    samples: int = 512
    image: ImageOptions | None = None

    def __post_init__(self) -> None:
        if not 0 < self.samples <= 1_000_000:
            raise RecipeError(f"--samples {self.samples} makes no sense: give 24 or more.")


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
    work = _Work(float_graph, *split_data(given), told)
    found = work.mend(model)
    changed = found.refusal == ""
    _write(found.model if changed else None, paths[0], Path(out))
    return Mended(
        source=str(source),
        reference=str(reference),
        out=str(out),
        changed=changed,
        before=found.before,
        after=found.after,
        grids=found.grids if changed else 0,
        units=found.units,
        notes=(*given.notes, *_notes(found.refusal, found.units)),
    )


def _notes(refusal: str, units: Sequence[MendedUnit]) -> Iterator[str]:
    if refusal:
        yield f"{refusal}: the bytes are the original's"
    undone = sum(unit.undone for unit in units)
    if undone and not refusal:
        yield f"{undone} of {len(units)} units were put back: no sure gain on samples held out"
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


# ---- the work --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A file with units solved again, and its losses on the samples that units are judged by."""

    model: onnx.ModelProto
    units: tuple[MendedUnit, ...]
    grids: int
    chosen: JudgedFile


@dataclass(frozen=True, eq=False)
class _Found:
    """The attempt that is taken beside the file as it was; else why none is, and the nearest."""

    model: onnx.ModelProto
    units: tuple[MendedUnit, ...]
    grids: int
    before: FileAgreement
    after: FileAgreement
    refusal: str


@dataclass(frozen=True, eq=False)
class _Work:
    """The float network, samples to learn from, to judge units and to judge the whole by."""

    reference: FileGraph
    fit: FileData
    choose: FileData
    rest: FileData
    told: Progress

    def mend(self, source: onnx.ModelProto) -> _Found:
        """Both attempts, and the whole judged by samples that chose nothing."""
        matching = match_files(self.reference, FileGraph(source))
        chooser = FileJudge(self.reference, matching, self.choose)
        before = chooser.judge(source)
        attempts = [self._attempt(source, chooser, before, grids) for grids in (False, True)]
        attempts.sort(key=lambda one: one.chosen.figures.divergence)
        sure = [one for one in attempts if one.chosen.surely_beats(before)]
        last = FileJudge(self.reference, matching, self.rest)
        old = last.judge(source)
        refusal = f"no change was surely a gain on {len(before.losses)} samples held out"
        for one in sure:
            new = last.judge(one.model)
            # Two may be tried, so each has half the chance to pass by luck.
            refusal = _refusal(old, new, ALPHA / len(sure))
            if not refusal:
                return _Found(one.model, one.units, one.grids, old.figures, new.figures, "")
        one = attempts[0]
        return _Found(one.model, one.units, one.grids, old.figures, old.figures, refusal)

    def _attempt(
        self, source: onnx.ModelProto, chooser: FileJudge, before: JudgedFile, grids: bool
    ) -> _Attempt:
        """The file with its units solved one after the other; with `grids` activations first."""
        model = onnx.ModelProto()
        model.CopyFrom(source)
        graph, tensors = FileGraph(model), StoredTensors(model)
        matching = match_files(self.reference, graph)
        units = list(find_stored(graph, tensors))
        given = (self.fit, units)
        moved = choose_grids(self.reference, graph, tensors, matching, given) if grids else 0
        now = chooser.judge(model) if moved else before
        done = []
        stage = "mend weights on other grids" if grids else "mend weights"
        targets = _targets(self.reference, graph, matching)
        with self.told.stage(stage, len(units)) as tick:
            for index, unit in enumerate(units):
                kept = tensors.keep(unit)
                own = (targets, matching, self.fit)
                one = mend_unit(self.reference, graph, tensors, unit, own)
                if not one.left and tensors.keep(unit) != kept:
                    then = chooser.judge(model)
                    if then.surely_beats(now):
                        now = then
                    else:
                        tensors.put_back(kept)
                        one = replace(one, undone=True)
                done.append(one)
                tick(index + 1)
        return _Attempt(model, tuple(done), moved, now)


def _refusal(before: JudgedFile, after: JudgedFile, alpha: float) -> str:
    """Why a mended file is not taken; empty where it is surely better and nothing is worse."""
    told = f"on {before.figures.samples} samples held out the mended file"
    if not after.surely_beats(before, alpha):
        return f"{told} is not surely nearer to the float network"
    if after.figures.agreement < before.figures.agreement:
        return f"{told} is surely nearer to the float network, but agrees with it less often"
    return f"{told} has outputs further off" if after.figures.is_worse(before.figures) else ""


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
