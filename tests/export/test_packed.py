"""model.safetensors: bit for bit what was solved, at its own width, refused when it is not ours."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import bitwright as bw
from bitwright.errors import RunDirectoryError
from bitwright.export.packed import load_packed, save_packed
from bitwright.graph.simulate import IntegerBias
from networks import Chain, normal, seeded

BITS = (2, 3, 4, 5, 6, 7, 8, 16)


def packed(net, images, path, **options):
    result = bw.quantize(net, [images], **{"recipe": "fixed", **options})
    size = save_packed(path, result.graph, result.assignment)
    assert size == path.stat().st_size
    return result, size


def equal(a, b) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("target", ["paper", "ort-cpu"])
@pytest.mark.parametrize("bits", BITS)
def test_round_trip(small_net, images, tmp_path, bits, target):
    scheme = f"w{bits}a{bits}"
    result, _ = packed(small_net, images, tmp_path / "m", scheme=scheme, target=target)
    found, want = load_packed(tmp_path / "m").assignment, result.assignment
    assert list(found.weights) == list(want.weights) and list(found.edges) == list(want.edges)
    for name, solved in want.weights.items():
        got = found.weights[name]
        assert got.qparams.grid == solved.qparams.grid and equal(got.q, solved.q)
        assert equal(got.qparams.scale, solved.qparams.scale)
        assert equal(got.qparams.zero_point, solved.qparams.zero_point)
    for name, bias in want.biases.items():
        if isinstance(bias, IntegerBias):
            assert equal(found.biases[name].q, bias.q)
            assert equal(found.biases[name].scale, bias.scale)
        else:
            assert equal(found.biases[name], bias)
    for key, edge in want.edges.items():
        got = found.edges[key]
        assert got.grid == edge.grid and equal(got.scale, edge.scale)
        assert equal(got.zero_point, edge.zero_point)


def test_what_stays_float_is_kept_bit_for_bit(small_net, images, tmp_path):
    packed(small_net, images, tmp_path / "m", scheme="w4a8", keep="stem,head=float")
    rest = load_packed(tmp_path / "m").rest
    assert {"stem.weight", "stem.bias", "head.weight", "head.bias"} <= set(rest)
    assert torch.equal(rest["head.weight"], small_net.head.weight.detach())
    assert not any(name.startswith(("project", "grouped", "depthwise")) for name in rest)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_the_file_has_the_true_width(tmp_path, bits):
    net = seeded(lambda: Chain(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128))).eval()
    scheme = f"w{bits}a8"
    _, size = packed(net, normal(32, 512), tmp_path / "m", scheme=scheme)
    weights = (512 * 256 + 256 * 128) * bits / 8
    # Scales and biases in float32, zero points at the weights' width, header and edges.
    others = (256 + 128) * (4 + 4 + bits / 8)
    assert weights + others <= size <= weights + others + 2500


def test_the_same_solution_gives_the_same_bytes(small_net, images, tmp_path):
    for name in "ab":
        packed(small_net, images, tmp_path / name, scheme="w3a8")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# ---- files that are not right ----------------------------------------------------------------


@pytest.fixture
def file(small_net, images, tmp_path):
    packed(small_net, images, tmp_path / "m", scheme="w4a8")
    return tmp_path / "m"


def header(content: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(content: bytes, **metadata: str) -> bytes:
    found, rest = header(content)
    found["__metadata__"] |= metadata
    text = json.dumps(found).encode()
    return struct.pack("<Q", len(text)) + text + rest


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_one_changed_byte_is_noticed(file, place):
    content = bytearray(file.read_bytes())
    start = 8 + struct.unpack("<Q", content[:8])[0]
    content[start + int(place * (len(content) - start))] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunDirectoryError, match=r"is damaged: .*checksum.*recipe.toml again"):
        load_packed(file)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(RunDirectoryError, match="is damaged and cannot be read"):
        load_packed(file)


def test_a_changed_header_is_noticed(file):
    file.write_bytes(with_header(file.read_bytes(), edges="[]"))
    with pytest.raises(RunDirectoryError, match=r"is damaged: .*checksum"):
        load_packed(file)


def test_another_version_is_refused(file):
    file.write_bytes(with_header(file.read_bytes(), version="2"))
    with pytest.raises(RunDirectoryError, match="has format version '2'; this bitwright reads '1'"):
        load_packed(file)


def test_foreign_files_are_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(RunDirectoryError, match="was not written by bitwright"):
        load_packed(tmp_path / "foreign")
    (tmp_path / "text").write_text("nothing of the kind")
    with pytest.raises(RunDirectoryError, match="is damaged and cannot be read"):
        load_packed(tmp_path / "text")
    with pytest.raises(RunDirectoryError, match="does not exist"):
        load_packed(tmp_path / "absent")
