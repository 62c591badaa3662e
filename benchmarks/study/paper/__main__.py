"""The whole study, or parts of it.

python -m benchmarks.study.paper --data-root DIR [--quick] [--only figure3 ...]
                                [--networks resnet20 ...]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.study.paper import (
    ablation,
    figure1,
    figure2,
    figure3,
    fixed_tuned,
    pipelines,
    table2,
    table3,
    two_four_eight,
)
from benchmarks.study.paper.networks import FULL, NETWORKS, QUICK
from benchmarks.study.paper.study import Study
from benchmarks.tables import data_root

ARTEFACTS = {
    "table2": table2,
    "table3": table3,
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure3,
    "two_four_eight": two_four_eight,
    "ablation": ablation,
    "pipelines": pipelines,
    "fixed_tuned": fixed_tuned,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default="../shared/data")
    parser.add_argument("--quick", action="store_true", help="all of it, small; nothing published")
    parser.add_argument("--only", nargs="*", default=list(ARTEFACTS), choices=list(ARTEFACTS))
    parser.add_argument("--networks", nargs="*", default=None, choices=list(NETWORKS))
    parser.add_argument("--store", type=Path, help="keep solved units here between calls")
    parser.add_argument("--pages", action="store_true", help="write the pages, measure nothing")
    arguments = parser.parse_args()
    root = data_root(arguments.data_root)
    names = tuple(arguments.networks or (["resnet20"] if arguments.quick else NETWORKS))
    with tempfile.TemporaryDirectory() as folder:
        store = arguments.store or Path(folder) / "store"
        study = Study(root, names, FULL, store=store, measures=not arguments.pages)
        if arguments.quick:
            own = Path(folder)
            study = Study(root, names, QUICK, own / "results", own / "pages", store)
        for name in arguments.only:
            ARTEFACTS[name].run(study)
            print(f"{name}: {study.pages / name}.md", flush=True)


if __name__ == "__main__":
    main()
