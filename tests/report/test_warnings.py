"""What is said last: a file that is not clearly smaller, and why."""

from __future__ import annotations

import records
from bitwright.evaluation.figures import Sizes
from bitwright.graph.census_record import FloatWeights
from bitwright.report.summary import comparison
from bitwright.report.warnings import note_lines, size_warnings

RECURRENT = FloatWeights(share=0.988, operators={"gru": 0.98, "linear": 0.001}, size=0.99)
SMALL = FloatWeights(share=0.1, operators={"linear": 0.1}, size=0.3)


def size(packed, onnx, whole=1000):
    return Sizes(
        float_bytes=whole, weight_bytes=250, file_bytes=packed, onnx_bytes=onnx, ratio=None,
        weight_ratio=0.25,
    )  # fmt: skip


def test_a_small_file_is_not_spoken_of():
    assert size_warnings(size(260, 900), RECURRENT) == []
    assert size_warnings(size(None, None), RECURRENT) == []
    assert size_warnings(size(9, None, whole=0), SMALL) == []


def test_the_reason_is_what_stays_float_or_how_small_the_network_is():
    (warning,) = size_warnings(size(1005, 1040), RECURRENT)
    assert "model.safetensors 1.00 and model.onnx 1.04" in warning.text
    assert "98.8 %" in warning.text and "gru 98.0 %" in warning.text
    assert "linear" not in warning.text
    (warning,) = size_warnings(size(260, 1200), SMALL)
    assert "model.safetensors" not in warning.text and "so few" in warning.text


def test_warnings_come_after_the_figures_and_before_the_report():
    told = size_warnings(size(1005, 1040), RECURRENT)
    lines = comparison(records.metrics(agreement=0.5), warnings=told, out="run")
    assert lines[-3].startswith("warning: size: not clearly smaller") and lines[-2] == ""
    assert note_lines(told)[0] in lines[-3]
