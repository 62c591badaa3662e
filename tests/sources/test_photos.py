"""Photographs found in installed packages: the split is fixed, the crops are deterministic."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitwright.errors import DataError
from bitwright.sources import photos as module
from bitwright.sources.photos import Photo, calibration_crops, centre_crop, demo_split, find_photos


def _save(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stand-ins for all packages: importing one of them fails the test."""
    for place in module._PLACES:
        root = tmp_path / place.module
        root.mkdir()
        (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
        for name in place.patterns:
            if "*" not in name:
                _save(root / place.folder / name, (40, 30))
    for index, label in enumerate((243, 559, 438, 990)):
        _save(tmp_path / "foolbox" / "data" / f"imagenet_{index:02d}_{label}.jpg", (40, 30), index)
    _save(tmp_path / "foolbox" / "data" / "cifar10_00_3.png", (32, 32))
    for place in module._PLACES:
        monkeypatch.delitem(sys.modules, place.module, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def some(tmp_path):
    sizes = [(64, 48), (30, 90), (200, 50)]
    return [
        Photo(_save(tmp_path / f"{index}.png", size, index), None, "test")
        for index, size in enumerate(sizes)
    ]


def _pixels(crops):
    return np.stack([np.asarray(crop) for crop in crops])


def test_photos_are_found_without_importing_their_packages(packages):
    found = find_photos()
    assert {photo.package for photo in found} == {place.package for place in module._PLACES}
    assert all(photo.path.is_relative_to(packages) for photo in found)
    assert found == find_photos()


def test_labels_come_from_the_file_name(packages):
    labels = [photo.label for photo in find_photos() if photo.package == "foolbox"]
    assert labels == [243, 559, 438, 990]
    assert all(photo.label is None for photo in find_photos() if photo.package != "foolbox")


def test_split_is_disjoint_complete_and_fixed(packages):
    calibration, held_out = demo_split()
    assert not set(calibration) & set(held_out)
    assert set(calibration) | set(held_out) == set(find_photos())
    assert [photo.label for photo in held_out if photo.label is not None] == [559, 990]
    assert {photo.path.name for photo in held_out} >= {"chelsea.png", "rocket.jpg", "china.jpg"}


def test_missing_packages_are_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"foolbox.*pip install 'bitwright\[demo\]'"):
        find_photos()


def test_split_without_labelled_photos_names_what_is_missing(packages):
    for path in (packages / "foolbox" / "data").glob("imagenet_*"):
        path.unlink()
    with pytest.raises(DataError, match=r"labelled.*foolbox.*pip install 'bitwright\[demo\]'"):
        demo_split()


def test_a_stand_in_without_a_spec_counts_as_missing(packages, monkeypatch):
    stand_in = type(sys)("foolbox")
    stand_in.__spec__ = None
    monkeypatch.setitem(sys.modules, "foolbox", stand_in)
    assert "foolbox" not in {photo.package for photo in find_photos()}


def test_crops_are_deterministic_and_a_prefix_of_more_crops(some):
    many = _pixels(calibration_crops(some, 20, seed=3, size=16))
    assert many.shape == (20, 16, 16, 3)
    assert np.array_equal(many, _pixels(calibration_crops(some, 20, seed=3, size=16)))
    assert np.array_equal(many[:7], _pixels(calibration_crops(some, 7, seed=3, size=16)))
    assert np.array_equal(many[:2], _pixels(calibration_crops(some, 2, seed=3, size=16)))


def test_another_seed_changes_random_crops_but_not_centre_crops(some):
    one, two = (_pixels(calibration_crops(some, 9, seed=seed, size=16)) for seed in (0, 1))
    assert np.array_equal(one[:3], two[:3])
    assert not np.array_equal(one[3:], two[3:])


def test_crops_of_one_photo_differ(some):
    crops = _pixels(calibration_crops(some[:1], 8, size=16))
    assert len({crop.tobytes() for crop in crops}) == 8


def test_centre_crop_takes_the_middle():
    pixels = np.zeros((256, 300, 3), np.uint8)
    pixels[16:240, 38:262] = 200
    assert np.all(np.asarray(centre_crop(Image.fromarray(pixels), 224)) == 200)


@pytest.mark.parametrize(("count", "size"), [(0, 8), (-1, 8), (3, 0)])
def test_bad_counts_are_errors(some, count, size):
    with pytest.raises(DataError, match=f"count={count}, size={size}"):
        calibration_crops(some, count, size=size)


def test_no_photos_is_an_error():
    with pytest.raises(DataError, match="no photographs"):
        calibration_crops([], 4)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png.*--no-deps foolbox"):
        calibration_crops([Photo(path, None, "foolbox")], 1)


def test_the_real_photographs():
    for package in ("foolbox", "skimage"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'bitwright[demo]'")
    calibration, held_out = demo_split()
    assert sum(photo.label is not None for photo in calibration + held_out) == 20
    assert sum(photo.label is not None for photo in held_out) == 10
    crops = calibration_crops(calibration, 2 * len(calibration))
    assert all(crop.size == (224, 224) and crop.mode == "RGB" for crop in crops)
    assert min(np.asarray(crop).std() for crop in crops) > 5
