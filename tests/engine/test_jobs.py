"""Jobs: the same bits on any number of workers; errors, deaths and Ctrl-C told and cleaned up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jobs_to_run as do
import pytest
import torch

from bitwright.engine.digest import digest
from bitwright.engine.jobs import collect, run_jobs
from bitwright.engine.wire import decode, encode, from_bytes, from_file, to_bytes, to_file
from bitwright.engine.workers import read_workers
from bitwright.errors import ClusterError, DataError, RecipeError, WorkerError

HERE = Path(__file__).parent


def problems(count=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        last = torch.channels_last
        shared = {
            "a": torch.randn(90, 301),
            "image": torch.randn(2, 3, 8, 8).to(memory_format=last),
        }
        return shared, [{"at": i, "b": torch.randn(301, 50 + i)} for i in range(count)]


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_workers_changes_no_bit(threads):
    shared, items = problems()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = [collect(run_jobs(do.product, items, n, shared=shared)) for n in (1, 2, 3)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert digest(found[0]) == digest(found[1]) == digest(found[2])
    assert [r["at"] for r in found[0]] == list(range(6)) and found[0][0]["threads"] == 1


def test_order_of_items_changes_no_bit():
    shared, items = problems()
    turned = collect(run_jobs(do.product, reversed(items), 2, shared=shared))
    assert digest(turned[::-1]) == digest(collect(run_jobs(do.product, items, 2, shared=shared)))


def test_results_come_as_they_are_done():
    assert [i for i, _ in run_jobs(do.slow_first, range(5), 2)][-1] == 0
    assert list(run_jobs(do.slow_first, range(3), 1)) == [(0, 0), (1, 1), (2, 2)]


def test_jobs_run_at_once(tmp_path):
    done = collect(run_jobs(do.waits_for_all, range(3), 3, shared=(str(tmp_path), 3)))
    assert done == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_to_do_and_few_to_do(workers):
    ticks = []
    assert list(run_jobs(do.echo, [], workers)) == []
    assert collect(run_jobs(do.echo, iter("ab"), workers, tick=ticks.append)) == ["a", "b"]
    assert ticks == [1, 2]


def test_items_are_drawn_when_a_worker_is_free():
    drawn = []

    def items():
        for i in range(8):
            drawn.append(i)
            yield i

    for done, _ in enumerate(run_jobs(do.echo, items(), 2), 1):
        assert len(drawn) <= done + 2


def test_no_more_workers_than_jobs_and_none_left_behind():
    ids = set(collect(run_jobs(do.process, range(2), 16)))
    assert len(ids) <= 2 and os.getpid() not in ids and not any(alive(i) for i in ids)


@pytest.mark.parametrize("workers", [1, 2])
def test_settings_of_the_caller_hold_in_the_workers(workers):
    with torch.no_grad():
        torch.set_default_dtype(torch.float64)
        try:
            found = collect(run_jobs(do.settings, range(2), workers))
        finally:
            torch.set_default_dtype(torch.float32)
    assert found == [(False, torch.float64, 1)] * 2
    assert collect(run_jobs(do.settings, [0], workers)) == [(True, torch.float32, 1)]


def test_shared_memory_is_each_workers_own_to_write():
    shared = torch.zeros(1000)
    found = collect(run_jobs(do.alters, range(2), 2, shared=shared))
    assert found[0] in (1.0, 2.0) and float(shared[0]) == 0.0


def test_large_messages_do_not_block():
    """Pipes hold 64 KiB: both sides must read while the other writes."""
    items = [torch.full((1 << 20,), float(i)) for i in range(6)]
    found = collect(run_jobs(do.echo, items, 2, shared=torch.zeros(1 << 20)))
    assert all(torch.equal(a, b) for a, b in zip(found, items, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_our_errors_keep_their_type_and_name_the_unit(workers):
    with pytest.raises(DataError, match=r"^unit 2: the rows are not finite$"):
        list(run_jobs(do.ours, range(4), workers, name="unit {}".format))
    with pytest.raises(DataError, match=r"^unit 0 is no good$"):
        list(run_jobs(do.named_ours, range(1), workers, name="unit {}".format))


@pytest.mark.parametrize("workers", [1, 2])
def test_other_errors_keep_their_type(workers):
    with pytest.raises(ZeroDivisionError, match="one by nought") as told:
        list(run_jobs(do.theirs, range(4), workers))
    if workers == 2:
        assert "in theirs" in str(told.value.__cause__)


def test_errors_that_cannot_travel_are_told_in_words():
    with pytest.raises(WorkerError, match="job 0: Awkward: 1 and 2"):
        list(run_jobs(do.awkward, range(1), 2))
    with pytest.raises(Exception, match="lambda"):
        list(run_jobs(do.unpicklable, range(2), 2))


def test_a_killed_worker_is_told_with_its_job_and_the_remedy():
    with pytest.raises(WorkerError, match=r"process of unit 1 was killed by SIGKILL, most likely "
                       r"because memory ran out\. .*--workers 1"):  # fmt: skip
        list(run_jobs(do.killed, range(4), 2, name="unit {}".format))
    with pytest.raises(WorkerError, match="process of job 0 ended with code 3"):
        list(run_jobs(do.leaves, range(1), 2))
    assert collect(run_jobs(do.echo, range(3), 2)) == [0, 1, 2]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def workers_in(folder, count):
    wait_for(lambda: len(list(folder.glob("*.pid"))) == count)
    return [int(p.stem) for p in folder.glob("*.pid")]


SCRIPT = """
import sys
sys.path[:0] = [{here!r}]
import jobs_to_run as do
from bitwright.engine.jobs import run_jobs
list(run_jobs(do.sleeps, range(4), 2, shared={folder!r}))
"""


def started(tmp_path):
    """A script that calls without protecting itself by __name__, its jobs under way."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(HERE), folder=str(tmp_path)))
    # A shell's background jobs ignore the signal, and so would what the tests start from there.
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return process, workers_in(tmp_path, 2)


def test_ctrl_c_ends_all_processes_at_once(tmp_path):
    """As a terminal sends it: to the whole process group."""
    process, pids = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    # The jobs sleep for longer than is waited here, however busy the machine.
    _, told = process.communicate(timeout=45)
    assert process.returncode != 0 and told.count("KeyboardInterrupt") == 1, told
    wait_for(lambda: not any(alive(p) for p in pids), 30)


def test_workers_do_not_outlive_a_killed_caller(tmp_path):
    process, pids = started(tmp_path)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(p) for p in pids), 5)
    assert not group_members(process.pid)


def group_members(group):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(entry.name)) == group and alive(int(entry.name)):
                found.append(int(entry.name))
    # The fork server ends when its last worker has: a moment later.
    if found:
        time.sleep(1)
        found = [p for p in found if alive(p)]
    return found


def test_leaving_the_generator_ends_the_workers():
    results = run_jobs(do.process, range(50), 2)
    _, pid = next(results)
    assert alive(pid)
    results.close()
    assert not alive(pid)


def test_workers_are_read():
    assert (read_workers("1"), read_workers(" 12 "), read_workers("ray")) == (1, 12, "ray")
    assert read_workers("10.0.0.1:6379") == "10.0.0.1:6379"
    for text in ("0", "-1", "2.5", "many", ""):
        with pytest.raises(RecipeError, match=re.escape(f"{text!r} in --workers is no number")):
            read_workers(text)


# ---- Ray ----


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'bitwright\[cluster\]'"):
        list(run_jobs(do.echo, range(2), "ray"))


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="ray is not installed (extra [cluster])")


@pytest.mark.slow
def test_ray_gives_the_same_bits(ray):
    shared, items = problems()
    here = collect(run_jobs(do.product, items, 1, shared=shared))
    assert digest(collect(run_jobs(do.product, items, "ray", shared=shared))) == digest(here)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_ray_tells_errors_and_deaths(ray):
    with pytest.raises(DataError, match=r"^unit 2: the rows are not finite$"):
        list(run_jobs(do.ours, range(4), "ray", name="unit {}".format))
    with pytest.raises(WorkerError, match="the Ray worker of unit 1 died"):
        list(run_jobs(do.killed, range(4), "ray", name="unit {}".format))
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127.0.0.1:1 .*--workers"):
        list(run_jobs(do.echo, range(4), "127.0.0.1:1"))


# ---- the wire ----


def as_bytes(message):
    return from_bytes(to_bytes(message))


def as_file(message):
    descriptor = to_file(message)
    try:
        return from_file(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("road", [lambda m: m, as_bytes, as_file], ids=["plain", "bytes", "file"])
def test_values_arrive_to_the_letter(road):
    last = torch.channels_last
    value = {
        "image": torch.randn(2, 3, 4, 5).contiguous(memory_format=last),
        "depthwise": torch.randn(4, 1, 3, 3).contiguous(memory_format=last),
        "empty": torch.empty(0, 3), "number": torch.tensor(2.0), "turned": torch.randn(3, 4).t(),
        "half": torch.randn(3).half(), "learned": torch.nn.Parameter(torch.randn(2)),
        "grad": torch.randn(2, requires_grad=True), "big": torch.arange(100000),
        "text": "x", "tuple": (1, None, torch.randn(1)),
    }  # fmt: skip
    found = decode(road(encode(value)))
    for name, tensor in value.items():
        if isinstance(tensor, torch.Tensor):
            assert found[name].stride() == tensor.stride() and type(found[name]) is type(tensor)
            assert found[name].requires_grad == tensor.requires_grad
            assert digest(found[name]) == digest(tensor) and found[name].data_ptr() % 64 == 0
    assert found["tuple"][:2] == (1, None) and found["text"] == "x"


def test_views_travel_without_what_they_do_not_show():
    base = torch.randn(1000, 1000)
    assert len(to_bytes(encode(base[3]))) < 6000
    assert torch.equal(decode(as_bytes(encode(base[:, 3]))), base[:, 3])
