"""Thresholds on networks that were trained: which preprocessing is told from which."""

from __future__ import annotations

import importlib.util

import pytest

import bitwright as bw
from bitwright.diagnosis.repairs import try_repairs
from bitwright.diagnosis.symptoms import NormSymptoms, Symptoms
from bitwright.diagnosis.tree import judge
from bitwright.graph.execute import bind, run
from bitwright.graph.observe import norm_mismatch
from bitwright.numerics.stats import ChannelStats

NETWORKS = {
    "resnet20": "cifar_calib",
    "resnet56": "cifar_calib",
    "efficientnet_lite0": "lite0_calib",
    "mobilenet_v1": "mobilenet_calib",
    "mobilenet_v2_dogs": "dogs_calib",
}
SAMPLES = 64


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def causes(graph, images):
    """What is said of the data alone."""
    batches = [bind(graph, images)]
    first = next(unit for unit in graph.units if unit.name in graph.folded)
    seen = {}
    run(graph, batches[0], lambda node, value: seen.setdefault(node.name, value)
        if node.name == first.calls[0] else None)  # fmt: skip
    norm = graph.folded[first.name]
    mismatch = norm_mismatch(norm, ChannelStats.of(seen[first.calls[0]], axis=1))
    found = try_repairs(graph, batches)
    return [
        one.cause
        for one in judge(
            Symptoms(
                norms=(NormSymptoms(norm.name, mismatch, False),),
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
    images = next(iter(getattr(module_of(data_root / "loaders.py"), NETWORKS[name])()))
    images = (images[0] if isinstance(images, (tuple, list)) else images)[:SAMPLES]
    graph = bw.capture(net, images[:2])
    assert causes(graph, images) == []
    assert causes(graph, images.flip(1)) == ["channel-order"]
    assert causes(graph, images * 0.229 + 0.485) == ["preprocessing"]
