"""Nodes of a cluster die: the work goes on, to the same bytes."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

import jobs_to_run as do
import pytest
import torch
from fake_ray import FakeRay

from bitwright.engine.jobs import collect, run_jobs
from bitwright.errors import DataError, WorkerError


def problems(count: int = 12):
    torch.manual_seed(0)
    shared = {"a": torch.randn(40, 300)}
    return shared, [{"b": torch.randn(300, 30), "at": i} for i in range(count)]


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster of nodes with a rule of when they die."""

    def make(nodes, dies) -> FakeRay:
        ray = FakeRay(nodes, dies)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return make


def same(found, wanted) -> bool:
    return all(
        torch.equal(one["out"], other["out"]) and one["at"] == other["at"]
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("lost", [(1,), (0, 2), (0, 1, 2)], ids=lambda nodes: f"lost {len(nodes)}")
@pytest.mark.parametrize("when", [1, 4, 11, 12])
def test_what_dead_nodes_were_at_is_done_again(cluster, caplog, lost, when):
    shared, items = problems()
    here = collect(run_jobs(do.product, items, 1, shared=shared))

    def dies(ray, done):
        if done == when:
            for node in lost:
                ray.lose(node)

    ray = cluster(3, dies)
    with caplog.at_level(logging.WARNING):
        there = collect(
            run_jobs(do.product, items, "ray", shared=shared, name="unit {at}".format_map)
        )
    assert same(there, here)
    assert len(ray.alive) == 3 - len(lost)
    told = [record.getMessage() for record in caplog.records]
    assert len(lost) < 3 or any("no processor left" in text for text in told)


def test_a_lost_worker_is_told(cluster, caplog):
    cluster(2, lambda ray, done: ray.lose(1) if done == 1 else ray.lose(0) if done == 2 else None)
    with caplog.at_level(logging.WARNING):
        assert collect(run_jobs(do.echo, range(5), "ray", name="unit {}".format)) == list(range(5))
    assert "the Ray worker of unit" in caplog.text and "(NodeDiedError)" in caplog.text


def test_a_worker_that_waits_for_an_idle_ones_processor_gets_it(cluster):
    """Two nodes die while their successors are started: idle workers must make room for those."""
    ray = cluster(3, lambda ray, done: [ray.lose(n) for n in (1, 2)] if done == 2 else None)
    assert collect(run_jobs(do.echo, range(4), "ray")) == list(range(4))
    assert ray.alive == {0}


def test_a_job_that_takes_every_worker_along_is_given_up(cluster):
    cluster(9, lambda ray, done: [ray.lose(a.node) for a in ray.actors])
    with pytest.raises(WorkerError, match=r"the Ray worker of unit . died .*2 others.*--workers 1"):
        list(run_jobs(do.echo, range(1, 2), "ray", name="unit {}".format))


def test_errors_are_told_as_ever(cluster):
    cluster(2, lambda ray, done: None)
    with pytest.raises(DataError, match="unit 2: the rows are not finite"):
        list(run_jobs(do.ours, range(4), "ray", name="unit {}".format))


def test_every_worker_is_let_go(cluster):
    ray = cluster(2, lambda ray, done: None)
    collect(run_jobs(do.echo, range(5), "ray"))
    assert all(actor.gone for actor in ray.actors)


@pytest.mark.slow
def test_three_real_nodes_of_which_two_die(monkeypatch):
    ray = pytest.importorskip("ray", reason="ray is not installed (extra [cluster])")
    from ray.cluster_utils import Cluster

    # The nodes' workers import the jobs of this folder by name.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    shared, items = problems(24)
    here = collect(run_jobs(do.slow_product, items, 1, shared=shared))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    others = [made.add_node(num_cpus=1) for _ in range(2)]
    try:
        killer = threading.Thread(target=kill_in_turn, args=(made, others), daemon=True)
        killer.start()
        there = collect(run_jobs(do.slow_product, items, made.address, shared=shared))
        killer.join()
        assert same(there, here)
    finally:
        ray.shutdown()
        made.shutdown()


def kill_in_turn(cluster, nodes) -> None:
    time.sleep(10)
    for node in nodes:
        cluster.remove_node(node, allow_graceful=False)
        time.sleep(5)
