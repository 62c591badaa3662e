"""Networks and data of the benchmark folder, and configurations of them, by the public API."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

import bitwright as bw

# Of each trained network: calibration samples, and labelled data that calibration never sees.
DATA = {
    "resnet20": ("cifar_calib", "cifar_test_jpeg"),
    "resnet56": ("cifar_calib", "cifar_test_jpeg"),
    "efficientnet_lite0": ("lite0_calib", "lite0_val"),
    "mobilenet_v1": ("mobilenet_calib", "mobilenet_val"),
    "mobilenet_v2_dogs": ("dogs_calib", "dogs_test"),
}


def module_of(root: Path, name: str) -> ModuleType:
    """A Python file of the data folder."""
    known = f"_benchmark_{root}_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, root / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


def network_of(root: Path, name: str) -> nn.Module:
    """A trained network, in eval mode."""
    network: nn.Module = getattr(module_of(root, "models"), name)()
    return network.eval()


def batches_of(root: Path, name: str, file: str = "loaders") -> Any:
    """Batches of (inputs, labels), to be read as often as wanted."""
    return getattr(module_of(root, file), name)()


def parts_of(batches: Any, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same samples in batches of at most so many."""
    for inputs, labels in batches:
        yield from zip(inputs.split(size), labels.split(size), strict=True)


@dataclass(frozen=True)
class Menu:
    """Configurations of one network on one store: what is solved once is not solved again."""

    root: Path
    network: str
    store: Path
    options: Mapping[str, Any]

    def at(self, **more: Any) -> bw.Result:
        """The network under the options and some more, run on its test data."""
        calibration, tests = DATA[self.network]
        return bw.quantize(
            network_of(self.root, self.network),
            batches_of(self.root, calibration),
            evaluation=batches_of(self.root, tests),
            store=self.store,
            **{"recipe": "fixed", "target": "paper", **self.options, **more},
        )


def uniform_of(result: bw.Result) -> bw.Result | None:
    """The best uniform configuration within the same budget; None where there is none."""
    best = result.allocation["uniform"]
    if best is None:
        return None
    bits = {key: best[key] for key in ("w_bits", "a_bits", "points")}
    table = result.table
    free = [u for u in table.units if any(r.choice.to_json() == bits for r in table.of(u))]
    return result.with_bits(dict.fromkeys(free, bits))


def figures_of(result: bw.Result) -> dict[str, float]:
    """What a configuration costs, as shares of float, and how it does on the test data."""
    rows, metrics = result.table.chosen(result.allocation.choices), result.metrics
    agreement, count = metrics.agreement, metrics.samples
    return {
        "size": sum(r.weight_bits for r in rows) / sum(32 * r.params for r in rows),
        "bops": sum(r.bops for r in rows) / sum(32 * 32 * r.macs for r in rows),
        "top1": metrics.after["top1"],
        "float_top1": metrics.before["top1"],
        "agreement": agreement,
        "stderr": (agreement * (1 - agreement) / count) ** 0.5,
        "kl": metrics.kl,
    }
