"""A run on a Ray cluster of three nodes, of which one dies in the middle: the same bytes."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time

import pytest

import bitwright as bw
from networks import pictures, small_network


def written(folder, workers):
    """What a menu solved by learning gives: the model's bytes, and the table without its times."""
    result = bw.quantize(
        small_network(), [pictures(200)], recipe="fixed", method="adaround", mode="parallel",
        menu="w4a8,w3a8", budget="size<=0.45", workers=workers, target="paper",
    )  # fmt: skip
    run = result.save(folder / "run", verify=False)
    losses = [(row.unit, row.choice, row.loss_delta) for row in result.table.rows]
    return hashlib.sha256(run["model.safetensors"].read_bytes()).hexdigest(), losses


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_changes_no_bit(tmp_path, monkeypatch, caplog):
    ray = pytest.importorskip("ray", reason="ray is not installed (extra [cluster])")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    started = time.monotonic()
    here = written(tmp_path / "here", 1)
    alone = time.monotonic() - started
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    others = [made.add_node(num_cpus=1) for _ in range(2)]

    def kill() -> None:
        time.sleep(max(5.0, alone / 8))
        made.remove_node(others[0], allow_graceful=False)

    try:
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        there = written(tmp_path / "there", made.address)
        killer.join()
        assert there == here
    finally:
        ray.shutdown()
        made.shutdown()
