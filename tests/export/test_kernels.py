"""What is said of processors without VNNI: only on one, and only where the bits can overflow."""

from __future__ import annotations

import pytest

import bitwright as bw
from bitwright.export.kernels import find_overflowing, kernels_note, lacks_vnni, may_overflow
from bitwright.graph.simulate import stitch
from bitwright.numerics.grid import Grid
from networks import Chain, pictures, seeded, small_network

OLD = "processor : 0\nflags\t\t: fpu sse4_2 avx avx2 avx512f avx512bw\n"
NEW = "processor : 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
CLIENT = "processor : 0\nflags\t\t: fpu avx2 avx_vnni\n"


@pytest.mark.parametrize(
    ("machine", "text", "lacking"),
    [
        ("x86_64", OLD, True),
        ("x86_64", NEW, False),
        ("AMD64", CLIENT, False),
        ("x86_64", "processor : 0\n", None),
        ("x86_64", None, None),
        ("aarch64", None, False),
        ("arm64", OLD, False),
    ],
)
def test_the_processor_is_read_from_its_flags(tmp_path, machine, text, lacking):
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert lacks_vnni(machine, cpuinfo) is lacking


@pytest.mark.parametrize(
    ("plain", "optimized", "odd"),
    [(1.0, 0.99, False), (1.0, 0.94, True), (0.5, 0.5, False)],
)
def test_other_answers_with_optimisations_are_explained(plain, optimized, odd):
    """Not where the file is wrong without them, or where the promise holds."""
    note = kernels_note(plain, optimized, ["stem"], True)
    assert (note is not None) is odd
    if note:
        assert "94.0%" in note and "VNNI" in note and "--portable" in note and "stem" in note


@pytest.mark.parametrize(
    ("units", "lacking"), [(["stem"], False), (["stem"], None), ([], True), ([], False)]
)
def test_vnni_is_not_blamed_where_it_cannot_be_the_cause(units, lacking):
    note = kernels_note(1.0, 0.5, units, lacking)
    assert note is not None and "50.0%" in note and "optimisations disabled" in note
    assert "VNNI" not in note and "7" not in note


def test_many_units_are_counted():
    note = kernels_note(1.0, 0.5, ["a", "b", "c", "d", "e"], True)
    assert note is not None and "a, b, c and 2 more" in note


def test_weights_of_seven_bits_cannot_overflow_16_bits():
    """What the note promises: two products of a pair, as the instruction adds them."""
    for bits, fits in ((8, False), (7, True)):
        grid = Grid(bits, signed=True)
        assert (2 * 255 * max(-grid.qmin, grid.qmax) <= 2**15 - 1) is fits
        assert may_overflow(8, bits) is not fits


UNITS = ["stem", "depthwise", "project", "grouped", "head"]


@pytest.mark.parametrize(
    ("scheme", "keep", "target", "found"),
    [
        ("w8a8", "", "ort-cpu", UNITS),
        ("w8a8", "head=float", "ort-cpu", UNITS[:-1]),
        ("w7a8", "", "ort-cpu", []),
        ("w2a3", "", "ort-cpu", []),
        ("w2a3", "first,last=w8a8", "ort-cpu", ["stem", "head"]),
        ("w8a8", "", "paper", []),  # unsigned weights: other kernels
        ("w8a16", "", "ort-cpu", []),
        ("w8a8", "", "weights-only", []),
    ],
)
def test_units_whose_bits_can_overflow(scheme, keep, target, found):
    options = {"scheme": scheme, "keep": keep, "target": target}
    result = bw.quantize(
        small_network(width=8), [pictures(4, size=8)], **{"recipe": "fixed", **options}
    )
    marked = stitch(result.graph, result.assignment, marks=True)
    assert find_overflowing(marked) == found


def test_padding_between_the_input_and_its_unit_is_seen_through():
    from torch import nn

    net = seeded(lambda: Chain(nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3))).eval()
    result = bw.quantize(net, [pictures(4, size=8)], recipe="fixed", target="ort-cpu")
    assert find_overflowing(stitch(result.graph, result.assignment, marks=True)) == ["m1"]
