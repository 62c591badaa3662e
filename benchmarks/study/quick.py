"""The quick table beside the measured one: rank agreement, and what each took.

    python -m benchmarks.study.quick --data-root DIR [--networks resnet20 ...] [--images 256]

Both tables are of one solved menu of a network (the second run reads the first one's solutions), on
the same calibration images. Spearman's rank correlation is over all choices of all units that have
a choice. The loss is that of the finished networks on the calibration images. Writes
docs/measured/quick.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import bitwright as bw
from benchmarks.data import DATA, batches_of, network_of
from benchmarks.tables import (
    MEASURED,
    RESULTS,
    data_root,
    machine,
    markdown,
    read_csv,
    write_csv,
)
from bitwright.sensitivity.estimate import rank_agreement

NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0")
MENU = "w{2..8}a8,w{3..8}a4"
BUDGET = "size<=0.14"
RESULT = RESULTS / "quick.csv"
COLUMNS = {
    "network": "{network}", "units": "{units}", "choices": "{choices}", "images": "{images}",
    "Spearman": "{spearman:.3f}", "quick table, s": "{quick_s:.0f}",
    "measured table, s": "{measured_s:.0f}", "loss, quick bits": "{quick_loss:.4g}",
    "loss, measured bits": "{measured_loss:.4g}",
}  # fmt: skip


def measure(root: Path, name: str, images: int) -> dict[str, Any]:
    """Both tables of one network."""
    batches, held = [], 0
    for inputs, _ in batches_of(root, DATA[name][0]):
        batches += inputs.split(16)
        held += len(inputs)
        if held >= images:
            break
    found: dict[str, Any] = {"network": name, "images": images}
    tables = {}
    with tempfile.TemporaryDirectory() as store:
        for how in ("quick", "measured"):
            result = bw.quantize(
                network_of(root, name), batches, menu=MENU, budget=BUDGET, method="quadratic",
                mode="parallel", keep="first,last=w8a8", target="paper", table=how,
                table_samples=images, calib=images, store=store,
            )  # fmt: skip
            tables[how] = [row for row in result.table.rows if row.loss is not None]
            stages = {stage["name"]: stage["seconds"] for stage in result.metrics["stages"]}
            found[f"{how}_s"] = stages["table"]
            found[f"{how}_loss"] = result.metrics["quantized"].get("loss", result.metrics["kl"])
    pairs = [(a.loss, b.loss) for a, b in zip(tables["quick"], tables["measured"], strict=True)]
    found["spearman"] = rank_agreement(*zip(*pairs, strict=True))
    found["choices"] = len(pairs)
    found["units"] = len({row.unit for row in tables["measured"]})
    return found


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the documentation."""
    return "\n".join(
        [
            "# The quick table beside the measured one",
            "",
            "Written by `python -m benchmarks.study.quick --data-root DIR`.",
            f"The menu is `{MENU}` under `{BUDGET}`, solved by the quadratic method. *Spearman* is",
            "the rank correlation of both tables over all choices of units that have one. Seconds",
            "are wall time of the stage `table` on one thread of a machine that does other work.",
            "*Loss* is the divergence from float of the network that was made of either table.",
            "",
            markdown(rows, COLUMNS),
            "",
            f"On {machine()}.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=tuple(DATA))
    parser.add_argument("--images", type=int, default=256)
    asked = parser.parse_args()
    root = data_root(asked.data_root)
    for name in asked.networks:
        row = measure(root, name, asked.images)
        print(row, flush=True)
        rows = [r for r in read_csv(RESULT) if r["network"] != name] + [row]
        write_csv(RESULT, rows)
        (MEASURED / "quick.md").write_text(page(read_csv(RESULT)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
