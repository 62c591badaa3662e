from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitwright.errors import DataError
from bitwright.sources.batches import take
from bitwright.sources.data import load_data
from bitwright.sources.images import ImageOptions, ImagePreprocess, list_images

PLAIN = ImagePreprocess((8, 8), (0.0,) * 3, (1.0,) * 3, crop=None)


def picture(path: Path, value: int = 100, size=(12, 10), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fill = value if mode in ("L", "P", "I;16") else (value,) * len(mode)
    Image.new(mode, size, fill).save(path)


def test_preprocess_scales_and_normalises():
    image = Image.new("RGB", (20, 10), (255, 0, 51))
    out = ImagePreprocess((4, 6), (0.5, 0.5, 0.0), (0.5, 0.25, 0.1))(image)
    assert out.shape == (3, 4, 6) and out.dtype == torch.float32
    assert torch.allclose(out[:, 0, 0], torch.tensor([1.0, -2.0, 2.0]), atol=1e-5)


def test_bgr_in_pixel_values():
    image = Image.new("RGB", (5, 5), (10, 20, 30))
    caffe = ImagePreprocess((5, 5), (4.0, 17.0, 23.0), (1.0,) * 3, channel_order="bgr", scale=1.0)
    assert torch.allclose(caffe(image)[:, 0, 0], torch.tensor([26.0, 3.0, -13.0]))


def test_centre_crop_matches_resize_then_crop():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    out = ImagePreprocess((224, 224), (0.0,) * 3, (1.0,) * 3, 0.875, "bilinear")(image)
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)
    want = np.asarray(resized.crop((58, 16, 58 + 224, 16 + 224)), dtype=np.float32) / 255
    assert torch.allclose(out, torch.from_numpy(want).permute(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (224, 224), (500, 333)])
@pytest.mark.parametrize("crop", [None, 1.0, 0.875, 224 / 232, 0.9])
def test_every_size_of_picture_fits(size, crop):
    pre = ImagePreprocess((16, 24), (0.0,) * 3, (1.0,) * 3, crop=crop)
    out = pre(Image.new("RGB", size, (255, 255, 255)))
    assert out.shape == (3, 16, 24)
    assert float(out.min()) == 1.0  # no black border


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_every_mode_becomes_rgb(mode):
    assert PLAIN(Image.new(mode, (9, 9))).shape == (3, 8, 8)


def test_sixteen_bit_grey_is_not_clipped():
    image = Image.fromarray(np.full((9, 9), 32768, dtype=np.uint16))
    assert float(PLAIN(image).mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 8)}, r"image size \(0, 8\)"),
        ({"mean": (0.5, 0.5)}, "image mean .* one number or three"),
        ({"std": (0.5, 0.5, 0.0)}, "image std .* above 0"),
        ({"crop": 1.5}, "image crop 1.5"),
        ({"interpolation": "cubical"}, "unknown interpolation 'cubical'"),
        ({"channel_order": "gbr"}, "unknown channel order 'gbr'"),
    ],
)
def test_wrong_preprocess(changes, message):
    values = {"size": (8, 8), "mean": (0.0,) * 3, "std": (1.0,) * 3, **changes}
    with pytest.raises(DataError, match=message):
        ImagePreprocess(**values)


# ---- options ---------------------------------------------------------------------------------


def test_options_alone_and_over_a_known_one():
    fresh = ImageOptions(size=32, mean=127.0, std=128.0).over(None)
    assert fresh.size == (32, 32) and fresh.mean == (127.0,) * 3 and fresh.scale == 1.0
    assert ImageOptions(size=(4, 6)).over(PLAIN).size == (4, 6)
    assert ImageOptions(size=(4, 6)).over(PLAIN).crop is None
    assert ImageOptions(crop=0.5).over(PLAIN).crop == 0.5
    assert ImageOptions(crop=0).over(fresh).crop is None
    assert ImageOptions(mean=0.5, std=0.5).over(fresh).scale == 255.0
    assert ImageOptions(mean=0.0, std=1.0, scale=1.0).over(fresh).scale == 1.0
    assert ImageOptions(channel_order="bgr").over(PLAIN).channel_order == "bgr"


def test_incomplete_options():
    with pytest.raises(DataError, match=r"--size, --mean and --std \(missing: --mean, --std\)"):
        ImageOptions(size=32).over(None)
    with pytest.raises(DataError, match="--mean and --std belong together"):
        ImageOptions(mean=0.5).over(PLAIN)


def test_the_example_in_the_message_is_one_that_the_command_takes():
    with pytest.raises(DataError) as caught:
        ImageOptions(size=32).over(None)
    assert "--size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in str(caught.value)


def test_options_of_a_recipe():
    assert ImageOptions.stated(0, (), (), -1.0) is None
    stated = ImageOptions.stated(8, (0.5,), (0.25, 0.5, 0.75), 0.0).over(None)
    assert stated.size == (8, 8) and stated.mean == (0.5,) * 3 and stated.crop is None


# ---- folders ---------------------------------------------------------------------------------


def test_flat_folder(tmp_path):
    for i, suffix in enumerate(["jpg", "jpeg", "png", "bmp", "webp", "ppm", "JPG"]):
        picture(tmp_path / f"{i}.{suffix}", 10 * i)
    (tmp_path / "labels.csv").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    (batch,) = load_data(str(tmp_path), preprocess=PLAIN)
    assert batch.inputs[0].shape == (7, 3, 8, 8) and batch.labels is None
    assert batch.inputs[0][3].mean().item() == pytest.approx(30 / 255, abs=0.01)


def test_a_folder_a_class_takes_turns(tmp_path):
    for name, count in (("cat", 3), ("ant", 1), ("bee", 2)):
        for i in range(count):
            picture(tmp_path / name / f"{i}.png")
    labels = [label for _, label in list_images(tmp_path)]
    assert labels == [0, 1, 2, 1, 2, 2]
    (batch,) = load_data(str(tmp_path), preprocess=PLAIN, limit=3)
    assert batch.labels.tolist() == [0, 1, 2]


def test_class_folders_are_named_in_the_order_of_their_labels(tmp_path):
    for name in ("10", "9", "Cat", "ant", "empty"):
        (tmp_path / name).mkdir()
    for name in ("10", "9", "Cat", "ant"):
        picture(tmp_path / name / "a.png")
    data = load_data(str(tmp_path), preprocess=PLAIN)
    assert data.classes == ("10", "9", "Cat", "ant", "empty")
    assert take(data, 2).classes == data.classes
    picture(tmp_path / "flat" / "a.png")
    assert load_data(str(tmp_path / "flat"), preprocess=PLAIN).classes == ()


@pytest.mark.parametrize(("mode", "side"), [("1", 13_000), ("RGB", 8_200), ("L", 20_000)])
def test_pictures_beyond_the_bound_are_refused_before_they_are_decoded(tmp_path, mode, side):
    Image.new(mode, (side, side)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 500_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"image .*a.png has .* pixels; pictures of up to 67,108"):
        list(load_data(str(tmp_path), preprocess=PLAIN))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


def test_batches_of_fifty_are_decoded_as_needed(tmp_path):
    for i in range(51):
        picture(tmp_path / f"{i:03}.png", size=(2, 2))
    (tmp_path / "050.png").write_bytes(b"broken")
    data = iter(load_data(str(tmp_path), preprocess=PLAIN))
    assert next(data).size == 50
    with pytest.raises(DataError, match=r"cannot read image .*050.png: UnidentifiedImageError"):
        next(data)


def test_truncated_image(tmp_path):
    picture(tmp_path / "a.png", size=(200, 200))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot read image .*a.png.*Mend or remove"):
        list(load_data(str(tmp_path), preprocess=PLAIN))


def test_wrong_folders(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        load_data(str(tmp_path), preprocess=PLAIN)
    with pytest.raises(DataError, match="no folder"):
        list_images(tmp_path / "missing")
    picture(tmp_path / "a.png")
    picture(tmp_path / "b" / "b.png")
    with pytest.raises(DataError, match=r"holds both images \(a.png\) and folders"):
        load_data(str(tmp_path), preprocess=PLAIN)


def test_a_folder_without_known_preprocessing(tmp_path):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"folder .* give --size, --mean and --std"):
        load_data(str(tmp_path))
    options = ImageOptions(size=4, mean=0.5, std=0.5)
    (batch,) = load_data(str(tmp_path), image=options)
    assert batch.inputs[0].shape == (1, 3, 4, 4)


def test_input_name_makes_dict_batches(tmp_path):
    picture(tmp_path / "a.png")
    named = ImagePreprocess((8, 8), (0.0,) * 3, (1.0,) * 3, input_name="pixel_values")
    (batch,) = load_data(str(tmp_path), preprocess=named)
    assert batch.inputs["pixel_values"].shape == (1, 3, 8, 8)


def test_a_callers_own_transform(tmp_path):
    picture(tmp_path / "a.png")
    (batch,) = load_data(str(tmp_path), preprocess=lambda image: torch.zeros(3, 2, 2))
    assert batch.inputs[0].shape == (1, 3, 2, 2)
    with pytest.raises(DataError, match="returned int"):
        list(load_data(str(tmp_path), preprocess=lambda image: 3))
    with pytest.raises(DataError, match=r"preprocessing .*a.png failed at .*ZeroDivisionError"):
        list(load_data(str(tmp_path), preprocess=lambda image: 1 / 0))
    picture(tmp_path / "b.png", size=(5, 5))
    with pytest.raises(DataError, match="several shapes"):
        list(load_data(str(tmp_path), preprocess=lambda image: torch.zeros(3, *image.size)))
