"""The store: exact, whole or absent, safe beside other writers."""

from __future__ import annotations

import errno
import multiprocessing as mp
import os
import pickle
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitwright.engine.digest import digest
from bitwright.engine.store import NullStore, Store
from bitwright.errors import StoreError

KEY = digest("a key")
META = {"method": "quadratic", "error": 0.1, "bits": [4, 8], "none": None, "nested": {"a": 1e-300}}


def tensors():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"q": torch.randint(0, 16, (3, 2), dtype=torch.uint8), "s": torch.rand(3, 1)}


def same(a, b):
    return a.keys() == b.keys() and all(exactly(a[k], b[k]) for k in a)


def exactly(a, b):
    alike = (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
    return alike and digest(a) == digest(b)


def test_round_trip_and_counts(tmp_path):
    store = Store(tmp_path / "new" / "store")
    assert store.get(KEY) is None and KEY not in store
    store.put(KEY, tensors(), META)
    found = Store(tmp_path / "new" / "store").get(KEY)
    assert same(found[0], tensors()) and found[1] == META
    assert KEY in store and store.get(KEY)[1] == META
    counts = store.counts
    assert (counts.hits, counts.misses, counts.puts, counts.damaged) == (1, 1, 1, 0)


def test_nothing_to_hold(tmp_path):
    store = Store(tmp_path)
    store.put(KEY, {}, {})
    assert store.get(KEY) == ({}, {})


@pytest.mark.parametrize("tensor", [
    torch.tensor(1.5), torch.empty(0, 3), torch.tensor([float("nan"), -0.0, float("inf")]),
    torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    torch.randn(4, 1, 3, 3).contiguous(memory_format=torch.channels_last),
    torch.randn(4, 8, 1, 1).contiguous(memory_format=torch.channels_last),
    torch.randn(3, 4).t(), torch.arange(4, dtype=torch.int64), torch.ones(2, dtype=torch.bool),
    torch.randn(3).bfloat16(), torch.randn(3).double(), torch.arange(3).to(torch.uint16),
    torch.empty_strided((4, 1, 3, 3), (9, 1, 3, 1)).normal_(),
], ids=lambda t: f"{t.dtype}{list(t.shape)}{list(t.stride())}")  # fmt: skip
def test_tensors_come_back_to_the_letter(tmp_path, tensor):
    store = Store(tmp_path)
    store.put(KEY, {"a": tensor, "b": tensor}, {})
    found, _ = store.get(KEY)
    assert exactly(found["a"], tensor) and exactly(found["b"], tensor)
    if tensor.dim() == 4:
        last = torch.channels_last
        assert found["a"].is_contiguous(memory_format=last) == tensor.is_contiguous(
            memory_format=last
        )


def test_views_are_stored_as_what_they_show(tmp_path):
    base = torch.randn(4, 6)
    held = {"column": base[:, 2], "part": base[1:3, 1:4], "wide": base[0].expand(5, 6)}
    store = Store(tmp_path)
    store.put(KEY, held, {})
    found, _ = store.get(KEY)
    assert all(torch.equal(found[n], held[n]) for n in held)
    assert store.path(KEY).stat().st_size < 2000


@given(st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
        lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(), v, max_size=3)),
        max_leaves=5,
    ),
    max_size=4,
))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_metadata_comes_back(tmp_path, meta):
    store = Store(tmp_path)
    store.put(KEY, {}, meta)
    assert store.get(KEY)[1] == meta


def test_metadata_that_json_would_change_is_refused(tmp_path):
    with pytest.raises(TypeError, match="would not come back the same"):
        Store(tmp_path).put(KEY, {}, {"pair": (1, 2)})
    with pytest.raises(ValueError, match="is no key of the store"):
        Store(tmp_path).get("../../etc")


def test_same_content_same_file(tmp_path):
    for name in ("one", "two"):
        held = tensors()
        Store(tmp_path / name).put(KEY, dict(reversed(held.items())) if name == "two" else held,
                                   META)  # fmt: skip
    one, two = (Store(tmp_path / n).path(KEY).read_bytes() for n in ("one", "two"))
    assert one == two


def damaged_store(tmp_path):
    notes = []
    store = Store(tmp_path, notes.append)
    store.put(KEY, tensors(), {"a": 1})
    return store, notes, store.path(KEY).read_bytes()


def test_cut_short_anywhere_it_reads_as_absent(tmp_path):
    store, notes, content = damaged_store(tmp_path)
    for length in range(len(content)):
        store.path(KEY).write_bytes(content[:length])
        assert store.get(KEY) is None, length
    assert store.counts.damaged == store.counts.misses == len(notes) == len(content)
    assert str(store.path(KEY)) in notes[0] and "computed again and replaced" in notes[0]
    store.path(KEY).write_bytes(content + b"more")
    assert store.get(KEY) is None
    store.put(KEY, tensors(), {"a": 1})
    assert same(store.get(KEY)[0], tensors())


def test_any_bit_flipped_it_reads_as_absent(tmp_path):
    """Every bit of the file, padding and headers included."""
    store, _, content = damaged_store(tmp_path)
    path = store.path(KEY)
    for at in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
            assert store.get(KEY) is None, (at, bit)
    assert store.counts.hits == 0


def test_foreign_files(tmp_path):
    store, notes, content = damaged_store(tmp_path)
    other = digest("another key")
    store.path(other).parent.mkdir(exist_ok=True)
    store.path(other).write_bytes(content)
    assert store.get(other) is None and "another key or layout" in notes[0]
    for junk in (b"", b"\0" * 100, b"\xff" * 100, b"hello", (2).to_bytes(8, "little") + b"{}"):
        store.path(other).write_bytes(junk)
        assert store.get(other) is None


def test_another_layout_is_ignored(tmp_path, monkeypatch):
    Store(tmp_path).put(KEY, tensors(), META)
    monkeypatch.setattr("bitwright.engine.store.LAYOUT", 2)
    later = Store(tmp_path)
    assert later.get(KEY) is None and later.counts.damaged == 0
    later.put(KEY, {}, {})
    monkeypatch.undo()
    assert Store(tmp_path).get(KEY)[1] == META


def test_a_store_goes_to_a_worker(tmp_path):
    store = Store(tmp_path, note=lambda text: None)
    store.put(KEY, tensors(), META)
    sent = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert sent.get(KEY)[1] == META and sent.counts.puts == 0


def test_a_place_that_cannot_be_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"the store .*file/store cannot be written .*--store DIR"):
        Store(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "v1").chmod(0o500)
    with pytest.raises(StoreError, match=r"cannot be written \(Permission denied\)"):
        store.put(KEY, {}, {})
    (tmp_path / "v1").chmod(0o700)


def test_a_full_disk(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"disk of the store .* is full .*--store DIR"):
        store.put(KEY, tensors(), META)
    assert not list(tmp_path.rglob("*safetensors*")) and store.counts.puts == 0


def test_leftovers_of_killed_processes_are_swept(tmp_path):
    store = Store(tmp_path)
    store.put(KEY, tensors(), META)
    folder = store.path(KEY).parent
    old, fresh = (folder / f".{KEY}.safetensors.{n}" for n in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert Store(tmp_path).get(KEY)[1] == META
    assert fresh.exists() and not old.exists()


def test_no_store():
    store = NullStore()
    store.put(KEY, tensors(), META)
    assert store.get(KEY) is None and (store.counts.puts, store.counts.misses) == (1, 1)


def hammer(directory, number, rounds):
    """Write and read one key beside others who do the same; every reading must be whole."""
    store = Store(directory)
    for turn in range(rounds):
        value = torch.full((2000,), float(number * 1000 + turn))
        store.put(KEY, {"x": value}, {"of": number})
        entry = store.get(KEY)
        assert entry is not None and bool((entry[0]["x"] == entry[0]["x"][0]).all())
        assert int(entry[0]["x"][0]) // 1000 == entry[1]["of"]


def test_several_writers_of_one_key(tmp_path):
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["bitwright"])
    crew = [context.Process(target=hammer, args=(tmp_path, n, 40)) for n in (1, 2, 3)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    assert [p.exitcode for p in crew] == [0, 0, 0]
    store = Store(tmp_path)
    assert store.get(KEY) is not None and len(list(tmp_path.rglob("*safetensors*"))) == 1
