"""What a person reads at the end of a run."""

from __future__ import annotations

import pytest

from bitwright.cli.console import comparison

VERIFIED = {
    "passed": True,
    "tolerance": 1e-5,
    "units": {"stem": 1e-7, "head": 2e-7},
    "agreement": 1.0,
    "samples": 256,
    "first_failure": None,
}


def lines_of(**changes):
    found = {**VERIFIED, "optimized": {"agreement": 0.99}, **changes}
    return comparison({"verify": found})


def test_a_verified_file_takes_one_line():
    (line,) = lines_of()
    assert line.startswith("verify      verified in ONNX Runtime: 2 of 2 units agree to 1e-05")
    assert line.endswith("100.00% of 256 answers agree, 99.00% with optimisations")


def test_a_note_on_the_optimised_kernels_stands_below():
    _, note = lines_of(optimized={"agreement": 0.9, "note": "because"})
    assert note.strip() == "note: because"


@pytest.mark.parametrize("unit", ["stem", "head"])
def test_the_first_unit_out_of_tolerance_is_named(unit):
    units = {"stem": 1e-7, "head": 2e-7} | {unit: 0.25}
    first, last = lines_of(passed=False, units=units, first_failure=unit)
    assert "NOT VERIFIED" in first and "1 of 2 units" in first
    assert last.strip() == f"first unit out of tolerance: {unit} (0.25)"
