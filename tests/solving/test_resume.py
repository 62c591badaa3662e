"""Running again is resuming: whatever stopped a run, nothing is solved twice, no bit differs."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from runs_of import (
    ADAQUANT,
    QUADRATIC,
    Interrupted,
    Memory,
    Odd,
    Residual,
    run_of,
    solving_of,
    tiny,
)

from bitwright.engine.digest import digest
from bitwright.engine.store import Store
from bitwright.methods.nearest import Nearest
from bitwright.methods.quadratic import QuadraticSolver
from networks import pictures, seeded

MODES = pytest.mark.parametrize("mode", ["parallel", "sequential"])
NETWORKS = {
    "residual": (lambda: Residual(3), tiny),
    "odd": (Odd, lambda: pictures(40, seed=1, size=16)),
}


@cache
def run(mode, kind="residual", method=QUADRATIC):
    net, data = NETWORKS[kind]
    menu = "w4a4,w2a4x2" if mode == "parallel" else "w4a4"
    return run_of(seeded(net).eval(), data(), menu, mode, method=method)


@cache
def undisturbed(mode, kind="residual", method=QUADRATIC):
    return run(mode, kind, method).bits()


@MODES
@pytest.mark.parametrize("kind", NETWORKS)
def test_stopped_after_every_unit_in_turn(monkeypatch, mode, kind):
    """Each life solves one unit more and dies as it tells: the last result is the undisturbed."""
    store = Memory()
    given = run(mode, kind).but(store=store)
    count = len(given.work.tasks())
    named = []
    for life in range(count):
        with solving_of(monkeypatch, QuadraticSolver) as problems, pytest.raises(Interrupted):
            given.solved(die_after(store, life + 1))
        named += [(p.name, p.choice) for p in problems]
    assert given.bits() == undisturbed(mode, kind)
    assert store.counts.puts == count
    if mode == "sequential":
        assert len(named) == len(set(named)) == count
    else:
        # A worker hands in all choices of a unit at once: those not yet put down are solved again.
        assert set(named) == set(given.work.tasks())


def test_stopped_where_wide_layers_see_a_part_of_the_samples(monkeypatch):
    """Cuts of some samples first, of all from the head on: taken up in either of them."""
    whole = undisturbed("sequential")
    monkeypatch.setattr("bitwright.solving.cuts.WIDE_SAMPLES", 16)
    monkeypatch.setattr("bitwright.solving.cuts.CUT_BYTES", 2 * 16 * 6 * 64 * 4)
    given = run("sequential")
    want = given.bits()
    assert want != whole
    for life in range(1, len(given.work.tasks())):
        store = Memory()
        with pytest.raises(Interrupted):
            given.but(store=store).solved(die_after(store, life))
        assert given.but(store=store).bits() == want


def die_after(store, puts):
    def tick(_):
        if store.counts.puts == puts:
            raise Interrupted

    return tick


@MODES
@pytest.mark.parametrize("method", [QUADRATIC, ADAQUANT], ids=["quadratic", "adaquant"])
def test_stopped_in_the_middle_and_taken_up(monkeypatch, mode, method):
    """A store that fails: what it took is not solved again, and counts say so."""
    store = Memory(fail_at=3)
    given = run(mode, "residual", method).but(store=store)
    with pytest.raises(Interrupted):
        given.solved()
    assert store.counts.puts == 3
    store.fail_at, store.counts.hits = None, 0
    ticks = []
    with solving_of(monkeypatch, type(method)) as problems:
        found = digest(*given.solved(ticks.append))
    assert found == undisturbed(mode, "residual", method)
    tasks = given.work.tasks()
    # Threads take units in any order; what is solved again is what was not there.
    assert Counter((p.name, p.choice) for p in problems) == Counter(tasks[3:])
    assert store.counts.hits == 3
    assert ticks[-1] == len(tasks) and ticks == sorted(ticks)


@MODES
def test_sums_of_low_bit_tensors_are_taken_up(monkeypatch, mode):
    """Stopped after every unit in turn; points come out of the store as they went in."""
    net, data = NETWORKS["residual"]
    given = run_of(seeded(net).eval(), data(), "w2a4x2", mode)
    whole = given.bits()
    store = Memory()
    given = given.but(store=store)
    count = len(given.work.tasks())
    for life in range(count):
        with pytest.raises(Interrupted):
            given.solved(die_after(store, life + 1))
    with solving_of(monkeypatch, QuadraticSolver) as problems:
        found = given.solved()
    assert digest(*found) == whole and store.counts.puts == count and not problems
    assert {solution.points for solution in found[0].values()} == {2}


@MODES
def test_a_store_on_disk_read_by_another_process_of_the_same_run(tmp_path, mode):
    first = run(mode).but(store=Store(tmp_path))
    assert first.bits() == undisturbed(mode)
    again = run(mode).but(store=Store(tmp_path))
    assert again.bits() == undisturbed(mode)
    count = len(again.work.tasks())
    counts = again.work.store.counts
    assert (counts.hits, counts.misses, counts.puts) == (count, 0, 0)


@MODES
def test_a_hole_in_the_store_is_filled(tmp_path, mode):
    """One entry lost or damaged: that unit alone is solved, to the same bits."""
    store = Store(tmp_path)
    run(mode).but(store=store).bits()
    files = sorted(tmp_path.rglob("*.safetensors"))
    files[0].unlink()
    content = bytearray(files[1].read_bytes())
    content[-3] ^= 1
    files[1].write_bytes(bytes(content))
    again = Store(tmp_path)
    assert run(mode).but(store=again).bits() == undisturbed(mode)
    assert (again.counts.misses, again.counts.puts, again.counts.damaged) == (2, 2, 1)
    assert Store(tmp_path).get(files[1].stem) is not None


def test_a_method_that_needs_no_data_asks_for_nothing(monkeypatch):
    """Nearest rounding is faster than its store."""
    store = Memory()
    given = run("sequential").but(store=store, method=Nearest("minmax"))
    with solving_of(monkeypatch, Nearest) as problems:
        given.solved()
    assert len(problems) == len(given.work.tasks())
    assert store.counts.hits == store.counts.misses == store.counts.puts == 0
