"""What is named on the command line as files to time, with their float network beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from bitwright.errors import InputError
from bitwright.export import rundir
from bitwright.export.float_twin import float_twin
from bitwright.export.onnx_read import read_onnx
from bitwright.graph.execute import Inputs
from bitwright.latency.bench import BenchFile
from bitwright.latency.feeds import ArrayFeed, feed_from, make_feed, read_inputs

FLOAT_LABEL = "float"
# Operators that a float network has none of.
_QUANTIZED = ("Quantize", "QLinear", "Integer", "NBits", "QGemm")


@dataclass(frozen=True)
class NamedFile:
    """A file by the name that it is shown under."""

    label: str
    path: Path


def find_subjects(names: Sequence[Path]) -> tuple[NamedFile, ...]:
    """Runs and ONNX files as files with labels of their own, as short as they can be.

    Raises:
        InputError: neither a run nor an ONNX file.
        RunDirectoryError: a run without its file.
    """
    paths = [_file_of(name) for name in names]
    for shown in (_short, str):
        labels = [shown(name) for name in names]
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [f"{index + 1}: {name}" for index, name in enumerate(names)]
    return tuple(NamedFile(*pair) for pair in zip(labels, paths, strict=True))


def _short(name: Path) -> str:
    return name.stem if name.suffix == ".onnx" else name.resolve().name


def _file_of(name: Path) -> Path:
    if name.is_dir():
        return rundir.open_existing(name).checked(rundir.ONNX)
    if not name.is_file():
        raise InputError(f"there is no file {str(name)!r}. Give run directories and ONNX files.")
    return name


def is_float(model: onnx.ModelProto) -> bool:
    """Whether a file has no quantised operator."""
    return not any(word in node.op_type for node in model.graph.node for word in _QUANTIZED)


def with_float(
    subjects: Sequence[NamedFile], folder: Path
) -> tuple[tuple[NamedFile, ...], str, tuple[str, ...]]:
    """The files with a float one among them, its label, and what is to be told.

    Where no file is float, the float network is taken out of the first that it can be taken out of.
    """
    models = {subject.label: read_onnx(subject.path) for subject in subjects}
    known = next((label for label, model in models.items() if is_float(model)), "")
    if known:
        return tuple(subjects), known, ()
    for subject in subjects:
        twin = float_twin(models[subject.label])
        if twin is not None and is_float(twin):
            path = folder / "float.onnx"
            path.write_bytes(twin.SerializeToString())
            told = f"float is the network of {subject.label}, its quantisers taken out"
            return (NamedFile(FLOAT_LABEL, path), *subjects), FLOAT_LABEL, (told,)
    told = "no file is float, and none can be turned back: nothing is compared with float"
    return tuple(subjects), "", (told,)


def with_feeds(
    subjects: Sequence[NamedFile],
    batches: Sequence[int],
    free: Mapping[str, int],
    given: Inputs | None = None,
) -> tuple[tuple[BenchFile, ...], tuple[str, ...]]:
    """What each file is run on, for every batch size that it takes, and what is to be told.

    Args:
        subjects: the files.
        batches: batch sizes; a file of a fixed one is run at that alone.
        free: sizes of free axes, by name.
        given: samples to run on; without, inputs are made.
    """
    told: dict[str, None] = {}
    found = []
    for subject in subjects:
        inputs = read_inputs(subject.path)
        sizes = [spec.shape[0] for spec in inputs if spec.shape and not spec.free_batch]
        fixed = next((size for size in sizes if isinstance(size, int)), None)
        able = batches if any(spec.free_batch for spec in inputs) or fixed is None else (
            [fixed] if fixed in batches else []
        )  # fmt: skip
        for batch in batches:
            if batch not in able:
                told[f"{subject.label} takes a batch of {fixed} only: not timed at {batch}"] = None
        feeds: dict[int, ArrayFeed] = {}
        for batch in able:
            if given is None:
                feeds[batch], chosen = make_feed(inputs, batch, free)
                told |= dict.fromkeys(chosen)
            else:
                feeds[batch] = feed_from(inputs, given, batch)
        found.append(BenchFile(subject.label, subject.path, feeds))
    return tuple(found), tuple(told)
