from __future__ import annotations

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from bitwright.errors import DataError
from bitwright.sources import arrays
from bitwright.sources.batches import digest
from bitwright.sources.data import load_data


def written(path, key, header, body):
    """A member of an npz with any header, right or not."""
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"{key}.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        file.write(body)


def header(shape, kind="<f4", fortran=False):
    return {"descr": kind, "fortran_order": fortran, "shape": shape}


def test_npz_streams_batches_with_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(120.0).reshape(60, 2), y=np.arange(60, dtype=np.uint8))
    batches = list(load_data(str(tmp_path / "a.npz")))
    assert [b.size for b in batches] == [50, 10]
    assert batches[0].inputs[0].dtype == torch.float32
    assert batches[1].labels.tolist() == list(range(50, 60))
    assert batches[1].labels.dtype == torch.int64


def test_npz_types(tmp_path):
    for dtype, want in (("uint8", "float32"), ("float16", "float32"), ("int32", "int64")):
        np.savez(tmp_path / "a.npz", x=np.full((2, 2), 200 if dtype == "uint8" else 7, dtype))
        (batch,) = load_data(str(tmp_path / "a.npz"))
        assert str(batch.inputs[0].dtype) == f"torch.{want}"
    np.savez(tmp_path / "a.npz", x=np.full((2, 2), 200, np.uint8))
    assert next(iter(load_data(str(tmp_path / "a.npz")))).inputs[0].max() == 200


def test_npz_with_float_labels_of_one_per_sample(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.array([0.1, 0.2, 0.3]))
    (batch,) = load_data(str(tmp_path / "a.npz"))
    assert len(batch.inputs) == 1 and len(batch.labels) == 3


def test_wrong_npz(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"no file '/.*a.npz'. Check the path"):
        load_data(str(path))
    for content, message in (
        ({"z": np.zeros(2)}, r"has no array 'x' \(it has \['z'\]\)"),
        ({"x": np.zeros(())}, "'x' of .* is a single number"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(2)}, "3 samples in 'x' but 2 label"),
        ({"x": np.array(["a"])}, "is an array of <U1"),
        ({"x": np.array([{}], dtype=object)}, "cannot read .*Save plain numbers"),
    ):
        np.savez(path, **content)
        with pytest.raises(DataError, match=message):
            load_data(str(path))
    path.write_bytes(b"garbage")
    with pytest.raises(DataError, match="cannot read"):
        load_data(str(path))
    np.savez(path, x=np.zeros((0, 3)))
    with pytest.raises(DataError, match="holds no sample"):
        list(load_data(str(path)))
    np.savez(path, x=np.full((2, 3), np.inf))
    with pytest.raises(DataError, match=r"sample 0 of .*a.npz: 3 values"):
        list(load_data(str(path)))


def test_what_a_small_file_expands_to_is_never_held(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((2000, 3, 64, 64), np.float32))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    assert sum(batch.size for batch in load_data(str(path))) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # of 98,304,000


def test_a_sample_beyond_the_bound_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "SAMPLE_VALUES", 100)
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 101), np.uint8))
    with pytest.raises(DataError, match=r"a sample of 'x' of .* holds 101 values; up to 100 are"):
        load_data(str(tmp_path / "a.npz"))


def test_wide_samples_come_fewer_at_a_time(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(7, 10)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(7))
    whole = load_data(str(tmp_path / "a.npz"))
    monkeypatch.setattr(arrays, "BATCH_VALUES", 30)
    apart = load_data(str(tmp_path / "a.npz"))
    assert [b.size for b in apart] == [3, 3, 1] and digest(apart) == digest(whole)
    assert torch.cat([b.labels for b in apart]).tolist() == list(range(7))


def test_fortran_order_reads_as_it_was_saved(tmp_path, monkeypatch):
    x = np.asfortranarray(np.arange(120, dtype=np.float32).reshape(60, 2))
    np.savez(tmp_path / "a.npz", x=x)
    batches = list(load_data(str(tmp_path / "a.npz")))
    assert torch.equal(torch.cat([b.inputs[0] for b in batches]), torch.from_numpy(x.copy()))
    monkeypatch.setattr(arrays, "WHOLE_BYTES", 100)
    with pytest.raises(DataError, match=r"Fortran order and expands to 480 bytes.*asc"):
        load_data(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("shape", "kind", "body", "message"),
    [
        ((10**12, 3), "<f4", b"", "'x' should hold 12,000,000,000,000 bytes and holds 0"),
        ((10**12, 0), "<f4", b"", "a sample is empty"),
        ((4, 2), "<f4", b"1234", "'x' should hold 32 bytes and holds 4"),
        ((2,), "<f4", b"1" * 8, ""),
    ],
)
def test_headers_that_promise_much(tmp_path, shape, kind, body, message):
    written(tmp_path / "a.npz", "x", header(shape, kind), body)
    if not message:
        assert next(iter(load_data(str(tmp_path / "a.npz")))).size == 2
        return
    with pytest.raises(DataError, match=message):
        list(load_data(str(tmp_path / "a.npz")))


def test_a_single_array_and_damaged_members(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(DataError, match=r"single array. Save it by np.savez"):
        load_data(str(tmp_path / "one.npz"))
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(4000, dtype=np.float32).reshape(400, 10))
    data = bytearray(path.read_bytes())
    data[5000] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"cannot read .*BadZipFile.*Save plain numbers"):
        list(load_data(str(path)))
