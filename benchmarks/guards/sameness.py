"""What a change of the house must not change: the bits of ten runs on small networks.

    python benchmarks/guards/sameness.py                 # against the digests in the repository
    python benchmarks/guards/sameness.py --write         # write them anew (and say why)
    python benchmarks/guards/sameness.py --only light    # one run

Each run is made from Python and saved; the digest covers model.safetensors as it is, table.csv but
its times, and the choices and figures of allocation.json. Ends with 1 where one differs. Digests
are of one processor family and one version of torch; both are written beside them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitwright as bw

KNOWN = Path(__file__).with_name("sameness.json")
# Columns of table.csv that no two runs share, and the count of its lines, which came later than the
# digests.
LEFT_OUT = ("latency_ms", "solve_seconds", "rows")


class Pictures(nn.Module):
    """A stem, a depthwise block with a residual add, a strided convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 8, 1)
        self.strided = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_bn(self.stem(x)))
        y = torch.relu(self.depthwise_bn(self.depthwise(x)))
        x = torch.relu(self.project(y) + x)
        return self.head(torch.relu(self.strided(x)).mean((2, 3)))


class Words(nn.Module):
    """A table, one head of attention with a mask, a feed-forward part, the mean over the text."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(input_ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 4.0
        scores = scores.masked_fill(attention_mask[:, None, :] == 0, -1e4)
        x = self.norm(x + torch.softmax(scores, -1) @ self.value(x))
        x = x + self.narrow(nn.functional.gelu(self.wide(x)))
        weight = attention_mask[:, :, None].float()
        return (x * weight).sum(1) / weight.sum(1)


def pictures() -> tuple[nn.Module, Any]:
    """A network whose batch-norms have statistics, and images."""
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(3)
    net = Pictures()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(8, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(8, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(8, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(8, generator=generator) * 0.2)
    return net.eval(), [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(8)]


def words() -> tuple[nn.Module, Any]:
    """An encoder, and texts of two lengths."""
    generator = torch.Generator().manual_seed(9)
    torch.manual_seed(4)
    batches = []
    for index in range(6):
        ids = torch.randint(1, 50, (8, 12), generator=generator)
        mask = torch.ones_like(ids)
        mask[:, 8 + index % 3 :] = 0
        batches.append({"input_ids": ids * mask, "attention_mask": mask})
    return Words().eval(), batches


ENDS = "first,last=w8a8"
RUNS: Mapping[str, tuple[Callable[[], tuple[nn.Module, Any]], Mapping[str, Any]]] = {
    "fixed w8a8": (pictures, {"scheme": "w8a8", "method": "nearest"}),
    "fixed w4a4 sequential": (
        pictures,
        {"scheme": "w4a4", "method": "quadratic", "mode": "sequential", "keep": ENDS},
    ),
    "adaquant": (pictures, {"scheme": "w4a4", "method": "adaquant", "target": "ort-cpu"}),
    "light": (pictures, {"recipe": "light", "budget": "size<=0.55"}),
    "advanced": (pictures, {"recipe": "advanced", "budget": "size<=0.6"}),
    "relaxed": (pictures, {"recipe": "relaxed", "menu": "w{3..5}a{4,8}", "budget": "bops<=0.04"}),
    "lapq": (pictures, {"recipe": "lapq"}),
    "brecq": (pictures, {"recipe": "brecq"}),
    "text": (
        words,
        {"scheme": "w4a8", "method": "quadratic", "target": "ort-linear", "tune": "bias"},
    ),
    "lossless": (
        pictures,
        {"method": "quadratic", "mode": "parallel", "menu": "w4a8x{1..2}", "lossless": 0.05},
    ),
}


def digest_of(folder: Path) -> dict[str, str]:
    """Digests of what a run wrote, its times left out."""
    packed = hashlib.sha256((folder / "model.safetensors").read_bytes())
    with (folder / "table.csv").open(newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    rows = [
        {key: value for key, value in row.items() if key not in LEFT_OUT}
        for row in csv.DictReader(lines)
    ]
    allocation = json.loads((folder / "allocation.json").read_text())
    return {
        "model.safetensors": packed.hexdigest(),
        "table.csv": _of_value(rows),
        "allocation.json": _of_value(allocation),
    }


def _of_value(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def run(name: str) -> dict[str, str]:
    """One run on one thread, saved into a folder that goes away."""
    make, options = RUNS[name]
    network, batches = make()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        usual = {"recipe": "fixed", "target": "paper"}
        bw.quantize(network, batches, **{**usual, **options}).save(out, verify=False)
        return digest_of(out)


def here() -> dict[str, str]:
    """What the digests depend on beside the code."""
    return {"torch": torch.__version__, "machine": platform.machine()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", choices=tuple(RUNS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {"runs": {}}
    found, worst = dict(known["runs"]) if asked.only else {}, 0
    for name in [asked.only] if asked.only else RUNS:
        found[name] = run(name)
        differ = [k for k, v in found[name].items() if known["runs"].get(name, {}).get(k) != v]
        print(f"{name:24} {'the same' if not differ else 'differs: ' + ', '.join(differ)}")
        worst |= bool(differ)
    if asked.write:
        KNOWN.write_text(json.dumps({"made": here(), "runs": found}, indent=1) + "\n")
        return 0
    if worst and known.get("made") != here():
        print(f"the digests were made with {known.get('made')}, this is {here()}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
