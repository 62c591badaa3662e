"""`bitwright compare` and `mend`, on files of any producer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitwright.diagnosis.file_difference import FileComparison
from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.errors import InputError
from bitwright.latency.feeds import parse_free
from bitwright.pipeline.compare_files import CompareSettings, compare
from bitwright.pipeline.mend_file import Mended, MendSettings, mend
from bitwright.report.compare_page import render_compare
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
) -> FileComparison:
    """Compare what is named, and write the page.

    Raises:
        InputError: neither ONNX files nor runs, or data that fit neither.
    """
    if any(path.is_dir() for path in paths):
        raise InputError(
            "run directories are not compared yet. Name their files: 'bitwright compare "
            "RUN/model.onnx OTHER/model.onnx --data D'."
        )
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
