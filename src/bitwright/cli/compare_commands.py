"""`bitwright compare` and `mend`, on files of any producer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitwright.cli.run_words import run_cells, say_same, unit_cells
from bitwright.diagnosis.file_difference import FileComparison
from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.errors import InputError
from bitwright.export import rundir
from bitwright.latency.feeds import parse_free
from bitwright.pipeline.compare_files import CompareSettings, compare
from bitwright.pipeline.compare_runs import RunComparison, compare_runs
from bitwright.pipeline.mend_file import Mended, MendSettings, mend
from bitwright.report.compare_page import render_compare
from bitwright.report.runs_page import render_runs
from bitwright.sources.images import ImageOptions


def compare_settings(
    pictures: Mapping[str, Any], free: Sequence[str], **chosen: Any
) -> CompareSettings:
    """What is compared, of the words that were typed.

    Raises:
        RecipeError: a value that makes no sense.
    """
    return CompareSettings(image=_image(pictures), free=parse_free(free), **chosen)


def _image(pictures: Mapping[str, Any]) -> ImageOptions | None:
    size, mean, std, crop = (pictures[key] for key in ("size", "mean", "std", "crop"))
    return ImageOptions.stated(
        size or 0, tuple(mean or ()), tuple(std or ()), -1.0 if crop is None else crop
    )


def run_compare(
    paths: Sequence[Path], data: str, settings: CompareSettings, page: Path | None, told: Progress
) -> FileComparison | RunComparison:
    """Compare what is named, and write the page.

    Raises:
        InputError: neither ONNX files nor runs, or data that fit neither.
    """
    folders = [path for path in paths if path.is_dir()]
    if folders and len(folders) < len(paths):
        raise InputError(
            f"{folders[0]} is a folder and another is none. Name runs alone, or files alone: "
            f"'bitwright compare {folders[0] / rundir.ONNX} OTHER.onnx --data D'."
        )
    if folders:
        return _compare_runs(folders, data, page)
    if len(paths) != 2:
        raise InputError(f"two ONNX files are compared at a time, and {len(paths)} are named.")
    if not data:
        raise InputError(
            "no --data: files are compared on samples. Give some, or --data random for made ones."
        )
    found = compare(paths[0], paths[1], data, settings, told)
    if page is not None:
        write_atomically(page, render_compare(found).encode())
    return found


def _compare_runs(folders: Sequence[Path], data: str, page: Path | None) -> RunComparison:
    if data:
        raise InputError(
            "runs are compared by what they recorded, without --data. To run their files on "
            f"samples: 'bitwright compare {folders[0] / rundir.ONNX} OTHER/{rundir.ONNX} --data D'."
        )
    found = compare_runs(folders)
    if page is not None:
        text = render_runs(run_cells(found), unit_cells(found), say_same(found), found.notes)
        write_atomically(page, text.encode())
    return found


def run_mend(
    paths: tuple[Path, Path | None, Path],
    data: str,
    samples: int,
    pictures: Mapping[str, Any],
    told: Progress,
) -> Mended:
    """Mend a file; `paths` are it, the float file and what is written.

    Raises:
        InputError: no data, no float file, or these are no such files.
    """
    source, reference, out = paths
    if not data:
        raise InputError("no --data: a file is mended on samples; some hundreds are usual.")
    return mend(source, data, reference, out, MendSettings(samples, _image(pictures)), told)
