"""Thresholds on networks that were trained: which preprocessing is told from which."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import bitwright as bw
from bitwright.diagnosis.repairs import try_repairs
from bitwright.diagnosis.symptoms import NormSymptoms, Symptoms
from bitwright.diagnosis.tree import judge
from bitwright.graph.execute import bind
from bitwright.pipeline.diagnose import FIRST_LAYER_SAMPLES

NETWORKS = {
    "resnet20": "cifar_calib",
    "resnet56": "cifar_calib",
    "efficientnet_lite0": "lite0_calib",
    "mobilenet_v1": "mobilenet_calib",
    "mobilenet_v2_dogs": "dogs_calib",
}


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def causes(graph, images):
    """What is said of the data alone."""
    found = try_repairs(graph, [bind(graph, part) for part in images.split(32)])
    return [
        one.cause
        for one in judge(
            Symptoms(
                norms=(NormSymptoms("bn", found.mismatch, False),),
                repaired=found.repaired,
                shift=found.shift,
                shift_reversed=found.shift_reversed,
            )
        )
    ]


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", NETWORKS)
def test_wrong_preprocessing_is_told_from_right(name, data_root):
    net = getattr(module_of(data_root / "models.py"), name)()
    images, open_ = [], getattr(module_of(data_root / "loaders.py"), NETWORKS[name])
    for batch in open_():
        images.append(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if sum(map(len, images)) >= FIRST_LAYER_SAMPLES:
            break
    images = torch.cat(images)[:FIRST_LAYER_SAMPLES]
    graph = bw.capture(net, images[:2])
    assert causes(graph, images) == []
    assert causes(graph, images.flip(1)) == ["channel-order"]
    assert causes(graph, images * 0.229 + 0.485) == ["preprocessing"]
