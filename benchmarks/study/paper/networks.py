"""Which networks stand for the paper's, and on what data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KEEP = "first,last=w8a8"


@dataclass(frozen=True)
class Network:
    """A trained network: its calibration samples, and labelled data that calibration never sees."""

    name: str
    calibration: str
    test: str
    like: str


NETWORKS = {
    n.name: n
    for n in (
        Network("resnet20", "cifar_calib", "cifar_test_jpeg", "ResNet-18"),
        Network("resnet56", "cifar_calib", "cifar_test_jpeg", "ResNet-50"),
        Network("efficientnet_lite0", "lite0_calib", "lite0_val", "MobileNet-V2"),
        Network("mobilenet_v2_dogs", "dogs_calib", "dogs_test", "MobileNet-V2"),
        Network("mobilenet_v1", "mobilenet_calib", "mobilenet_val", "MobileNet-V2"),
        Network("squeezenet", "squeezenet_calib", "squeezenet_val", "none of the paper's"),
    )
}


@dataclass(frozen=True)
class Scale:
    """How large a study is: `--quick` runs all of it in minutes, and its figures mean little."""

    calib: int
    table_samples: int
    test_samples: int
    quick: bool


FULL = Scale(calib=1000, table_samples=256, test_samples=0, quick=False)
QUICK = Scale(calib=48, table_samples=24, test_samples=100, quick=True)

_LOADERS = """
import sys
sys.path.insert(0, {root!r})
import loaders


def first(batches, count):
    left = count
    for x, y in batches:
        if left <= 0:
            return
        yield x[:left], y[:left]
        left -= len(x)


class Test:
    def __iter__(self):
        return first(loaders.{test}(), {count})


def test():
    return Test()
"""


def test_data(root: Path, network: Network, scale: Scale, folder: Path) -> str:
    """The labelled data as the command takes them; in a quick study only the first few."""
    if not scale.test_samples:
        return f"{root}/loaders.py:{network.test}"
    path = folder / f"{network.name}_test.py"
    path.write_text(_LOADERS.format(root=str(root), test=network.test, count=scale.test_samples))
    return f"{path}:test"
