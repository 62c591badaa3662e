"""Work shared between threads: in order, under the caller's settings, errors told."""

from __future__ import annotations

import threading

import pytest
import torch

from bitwright.engine.threads import count_threads, share_out, use_threads


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_items(count):
    with use_threads(count):
        assert count_threads() == count
        assert share_out(lambda i: i * i, list(range(20))) == [i * i for i in range(20)]
    assert count_threads() == 1


def test_pieces_run_side_by_side_and_share_nothing_out_themselves():
    """Both wait for the other, which one thread could not do."""
    barrier = threading.Barrier(2, timeout=20)

    def work(index):
        barrier.wait()
        return count_threads(), share_out(lambda i: i + index, [1, 2])

    with use_threads(2):
        assert share_out(work, [0, 10]) == [(1, [1, 2]), (1, [11, 12])]


def test_threads_compute_under_the_settings_of_the_caller():
    def settings(_):
        return torch.is_grad_enabled(), torch.get_num_threads()

    before = torch.get_num_threads()
    with torch.no_grad(), use_threads(2):
        assert share_out(settings, [0, 1]) == [(False, 1)] * 2
    assert torch.get_num_threads() == before


def test_an_error_in_a_thread_is_the_caller_s():
    def fails(index):
        if index:
            raise ValueError(f"item {index}")

    with use_threads(2), pytest.raises(ValueError, match="item 1"):
        share_out(fails, [0, 1])
