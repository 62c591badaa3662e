"""What a person reads at the end of a run."""

from __future__ import annotations

import pytest

import records
from bitwright.report.summary import comparison

VERIFIED = {**records.VERIFIED, "units": {"stem": 1e-7, "head": 2e-7}}
MEASURED = {
    "float": {"top1": 0.8},
    "quantized": {"top1": 0.79996},
    "agreement": 0.9999,
    "samples": 5000,
    "kl": 0.0123,
    "evaluated_on": "evaluation data",
}


def lines_of(**changes):
    optimized = {**VERIFIED["optimized"], "agreement": 0.99, **changes.pop("optimized", {})}
    found = records.verification(**{**VERIFIED, "optimized": optimized, **changes})
    *lines, legend = comparison(None, verified=found)
    assert legend.strip().startswith("[low, high] holds the true rate 95 times in 100")
    return lines


def text_of(**changes):
    return "\n".join(comparison(records.metrics(**{**MEASURED, **changes})))


def test_a_verified_file_takes_one_line():
    (line,) = lines_of()
    assert line == (
        "verify      verified in ONNX Runtime: as it runs there, with all optimisations, "
        "99.00 % [96.8, 99.7] of 256 answers agree with the simulation, 100.00 % [98.5, 100.0] "
        "without them; 2 of 2 units agree to 1e-05"
    )


def test_a_file_is_told_by_what_runs():
    figures = {"max_difference": 0.0, "max_relative_difference": 0.0, "undecided": 0}
    plain = {"agreement": 1.0, **figures}
    told, own = lines_of(
        agreement=0.95, optimized={"agreement": 0.95}, unoptimized=plain, float_agreement=0.9,
        runtime={"name": "OpenVINO", "version": "1"}, passed=False,
    )  # fmt: skip
    assert "NOT VERIFIED in OpenVINO" in told
    assert told.index("95.00 %") < told.index("100.00 %")
    assert own.strip().startswith("as it runs, 90.00 %")


def test_one_is_counted_in_the_singular():
    (line,) = lines_of(units={"head": 1e-7}, samples=1)
    assert "1 of 1 unit agree" in line and "of 1 answer agree" in line
    assert "of 1 sample (" in text_of(samples=1)


def test_a_note_on_the_optimised_kernels_stands_below():
    _, note = lines_of(optimized={"agreement": 0.9, "note": "because"})
    assert note.strip() == "note: because"


@pytest.mark.parametrize("unit", ["stem", "head"])
@pytest.mark.parametrize(("by", "shown"), [(0.25, "0.25"), (None, "not a finite number")])
def test_the_first_unit_out_of_tolerance_is_named(unit, by, shown):
    units = {"stem": 1e-7, "head": 2e-7} | {unit: by}
    first, last = lines_of(passed=False, units=units, first_failure=unit)
    assert "NOT VERIFIED" in first and "1 of 2 units" in first
    assert last.strip() == f"first unit out of tolerance: {unit} ({shown})"


def test_every_rate_has_its_interval_and_nothing_is_rounded_up_to_all():
    text = text_of()
    assert "top-1       80.00 % [78.8, 81.1]   80.00 % [78.8, 81.1]   0.00 points" in text
    assert "-0.00" not in text
    assert "agreement   99.99 % [99.9, 100.0] of 5000 samples (evaluation data), KL 0.012" in text


@pytest.mark.parametrize(("samples", "low"), [(1, "20.6"), (30, "88.6")])
def test_few_samples_are_warned_of_with_what_they_leave_open(samples, low):
    text = text_of(agreement=1.0, samples=samples)
    assert f"warning: measured on {samples} sample" in text
    assert f"the true agreement may be as low as {low} %. Give more by --eval DATA." in text
    assert "warning" not in text_of(samples=100)


def test_metrics_that_are_no_rates_are_plain_numbers():
    text = text_of(float={"perplexity": 21.5}, quantized={"perplexity": 22.75})
    assert "perplexity  21.5    22.75       +1.25" in text


def test_embeddings_have_a_mean_cosine_and_no_interval():
    text = text_of(answers="embedding", float={}, quantized={})
    assert "agreement   99.99 % mean cosine of 5000 samples" in text and "[" not in text
    assert "float" not in text
