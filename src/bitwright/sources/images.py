"""Folders of images -> batches, with the preprocessing that the network was trained with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitwright.errors import DataError
from bitwright.sources.batches import Batch, Dataset
from bitwright.sources.guard import Foreign, reason, say_absent

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
BATCH_SIZE = 50
# A picture of this many pixels takes 200 to 500 MB as it is decoded.
MAX_PIXELS = 1 << 26
EXAMPLE = "--size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class ImagePreprocess:
    """Picture -> tensor [3, height, width]: resize, centre crop, scale, normalise.

    `crop` is the share of the resized short side that is kept (0.875: resize to 256, keep 224);
    None squashes the whole picture into `size`, and `keep_aspect=False` squashes it before the
    crop. Pixels (0..255) are divided by `scale` before
    `mean` and `std`, so 255 means that those are in 0..1. They follow `channel_order`.
    `input_name` is the argument that the tensor goes to; None passes it by position.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None = 0.875
    interpolation: str = "bicubic"
    channel_order: str = "rgb"
    scale: float = 255.0
    input_name: str | None = None
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise DataError(f"image size {self.size!r}: give a height and a width of at least 1.")
        for key in ("mean", "std"):
            value = getattr(self, key)
            if len(value) != 3:
                raise DataError(f"image {key} {value!r}: give one number or three, a channel each.")
        if min(self.std) <= 0 or self.scale <= 0:
            raise DataError(f"image std {self.std!r} over {self.scale}: both must be above 0.")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise DataError(f"image crop {self.crop!r}: give a fraction above 0 and up to 1.")
        if self.interpolation not in INTERPOLATIONS:
            raise DataError(
                f"unknown interpolation {self.interpolation!r}. Known: {', '.join(INTERPOLATIONS)}."
            )
        if self.channel_order not in ("rgb", "bgr"):
            raise DataError(f"unknown channel order {self.channel_order!r}. Known: bgr, rgb.")

    def __call__(self, image: Image.Image) -> Tensor:
        """One picture of any mode and size as the network's input."""
        pixels = np.array(self._fit(_as_rgb(image)), dtype=np.float32)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.channel_order == "bgr":
            tensor = tensor.flip(0)
        mean, std = (
            torch.tensor(value, dtype=torch.float32).view(3, 1, 1)
            for value in (self.mean, self.std)
        )
        return ((tensor / self.scale - mean) / std).contiguous()

    def _fit(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        how = INTERPOLATIONS[self.interpolation]
        if self.crop is None:
            return image.resize((width, height), how)
        # The tiny term keeps 224 / 0.875 at 256 and 224 / (224 / 232) at 232 in floating point.
        tall, wide = (math.floor(side / self.crop + 1e-6) for side in self.size)
        if not self.keep_aspect:
            pass
        elif tall * image.width >= wide * image.height:
            wide = max(wide, int(tall * image.width / image.height))
        else:
            tall = max(tall, int(wide * image.height / image.width))
        image = image.resize((wide, tall), how)
        top, left = round((tall - height) / 2), round((wide - width) / 2)
        return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True)
class ImageOptions:
    """What the command line says about images; None keeps what is known of the network.

    One number stands for all channels. Where a mean or a std is above 1, both are in pixel values
    0..255, as in `--mean 127 --std 128`; else they are in 0..1. `scale` overrides this rule.
    `crop` is a fraction; 0 squashes the whole picture.
    """

    size: tuple[int, int] | int | None = None
    mean: tuple[float, ...] | float | None = None
    std: tuple[float, ...] | float | None = None
    crop: float | None = None
    scale: float | None = None
    channel_order: str | None = None

    @classmethod
    def stated(
        cls, size: int, mean: tuple[float, ...], std: tuple[float, ...], crop: float
    ) -> ImageOptions | None:
        """Options from a recipe's keys, where 0, empty and a negative crop mean not stated."""
        options = cls(size or None, mean or None, std or None, None if crop < 0 else crop)
        return None if options == cls() else options

    def over(self, known: ImagePreprocess | None) -> ImagePreprocess:
        """`known` with these options in its place, or DataError naming what is missing."""
        if known is None:
            missing = [f"--{k}" for k in ("size", "mean", "std") if getattr(self, k) is None]
            if missing:
                raise DataError(
                    "the preprocessing of this network is not known: give --size, --mean and "
                    f"--std (missing: {', '.join(missing)}), for example {EXAMPLE}, or pass data "
                    "as FILE.py:FUNCTION."
                )
        elif (self.mean is None) != (self.std is None):
            raise DataError(
                "--mean and --std belong together: give both, or neither to keep the network's own."
            )
        base = known or ImagePreprocess((1, 1), (0.0,) * 3, (1.0,) * 3)
        changes: dict[str, object] = {}
        if self.size is not None:
            changes["size"] = (self.size,) * 2 if isinstance(self.size, int) else self.size
        if self.mean is not None and self.std is not None:
            mean, std = _three(self.mean), _three(self.std)
            changes.update(mean=mean, std=std)
            changes["scale"] = 1.0 if max(*map(abs, mean), *std) > 1 else 255.0
        if self.crop is not None:
            changes["crop"] = self.crop or None
        if self.scale is not None:
            changes["scale"] = self.scale
        if self.channel_order is not None:
            changes["channel_order"] = self.channel_order
        return replace(base, **changes)  # type: ignore[arg-type]


def _three(value: tuple[float, ...] | float) -> tuple[float, ...]:
    values = (value,) if isinstance(value, (int, float)) else tuple(value)
    return values * 3 if len(values) == 1 else values


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: convert("RGB") would clip it to white
        grey = np.asarray(image).astype(np.float32)
        grey /= 257
        np.clip(grey, 0, 255, out=grey)
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode == "P":  # a palette may carry transparency, which Pillow wants to see first
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


# ---- a folder --------------------------------------------------------------------------------


def folder_dataset(
    folder: Path,
    preprocess: Callable[[Image.Image], Tensor],
    *,
    spec: str = "",
    batch_size: int = BATCH_SIZE,
) -> Dataset:
    """Pictures of a folder, decoded as they are needed.

    Flat: sorted by name, no labels. A folder a class: the label is the position of the class in
    the sorted folder names; classes take turns, so that the first N samples cover all of them.
    """
    rows = list_images(folder)
    labelled = rows[0][1] is not None
    name = getattr(preprocess, "input_name", None)

    def walk() -> Iterator[Batch]:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            tensors = [_decode(path, preprocess) for path, _ in part]
            shapes = {tuple(tensor.shape) for tensor in tensors}
            if len(shapes) > 1:
                raise DataError(
                    f"the preprocessing of {folder} gives tensors of several shapes "
                    f"{sorted(shapes)}: it must resize to one size."
                )
            x = torch.stack(tensors)
            labels = [label for _, label in part if label is not None]
            y = torch.tensor(labels) if labels else None
            yield Batch({name: x} if name else (x,), y)

    classes = tuple(p.name for p in _class_folders(folder)) if labelled else ()
    return Dataset(spec or str(folder), walk, classes=classes)


def list_images(folder: Path) -> list[tuple[Path, int | None]]:
    """Files and labels in the order in which they are read."""
    if not folder.is_dir():
        raise DataError(f"{say_absent('folder', folder)}. Check the path.")
    flat = [p for p in _entries(folder) if _is_image(p)]
    by_class = [
        [(path, label) for path in sorted(kind.rglob("*")) if _is_image(path)]
        for label, kind in enumerate(_class_folders(folder))
    ]
    if flat and any(by_class):
        raise DataError(
            f"folder {str(folder)!r} holds both images ({flat[0].name}) and folders of images. "
            "Keep either a flat folder or a folder a class."
        )
    rows: list[tuple[Path, int | None]] = [(path, None) for path in flat]
    for turn in zip_longest(*by_class):
        rows.extend(row for row in turn if row is not None)
    if not rows:
        raise DataError(
            f"folder {str(folder)!r} holds no image ({', '.join(sorted(EXTENSIONS))}), "
            "neither flat nor in a folder a class. Check the path."
        )
    return rows


def _entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _class_folders(folder: Path) -> list[Path]:
    """The folders that are classes, in the order of their labels; empty ones count."""
    return [p for p in _entries(folder) if p.is_dir()]


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")  # "._a.jpg" of an unpacked macOS archive is no picture
    return not hidden and path.suffix.lower() in EXTENSIONS and path.is_file()


def _load(path: Path) -> Image.Image:
    """A picture in memory, its size read from the header first: a few kB may become gigabytes."""
    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(_too_large(path, f"{image.width} x {image.height}"))
        image.load()
    return image


def _too_large(path: Path, size: str) -> str:
    return (
        f"image {path} has {size} pixels; pictures of up to {MAX_PIXELS:,} are read, which take "
        "up to 500 MB each. Make it smaller, or remove it."
    )


def _decode(path: Path, preprocess: Callable[[Image.Image], Tensor]) -> Tensor:
    try:
        with warnings.catch_warnings():
            # Pillow's own bound is a warning on the terminal; ours lies lower and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = _load(path)
    except Image.DecompressionBombError as exc:
        raise DataError(_too_large(path, f"more than {2 * MAX_PIXELS:,}")) from exc
    # What Pillow raises on a damaged file depends on the format.
    except (OSError, SyntaxError, ValueError) as exc:
        raise DataError(
            f"cannot read image {path}: {reason(exc)}. Mend or remove this file."
        ) from exc
    if isinstance(preprocess, ImagePreprocess):
        return preprocess(picture)
    with Foreign(DataError, f"preprocessing {path}"):
        tensor = preprocess(picture)
    if not isinstance(tensor, Tensor):
        raise DataError(
            f"the preprocessing of {path} returned {type(tensor).__name__}: "
            "it must return a tensor [channels, height, width]."
        )
    return tensor
