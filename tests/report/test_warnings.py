"""What is said last: a file that is not clearly smaller, and why."""

from __future__ import annotations

from bitwright.report.summary import comparison
from bitwright.report.warnings import list_warnings, size_warnings

RECURRENT = {"share": 0.988, "operators": {"gru": 0.98, "linear": 0.001}, "size": 0.99}
SMALL = {"share": 0.1, "operators": {"linear": 0.1}, "size": 0.3}


def size(packed, onnx):
    return {"float_bytes": 1000, "file_bytes": packed, "onnx_bytes": onnx}


def test_a_small_file_is_not_spoken_of():
    assert size_warnings(size(260, 900), RECURRENT) == []
    assert size_warnings(size(None, None), RECURRENT) == []
    assert size_warnings({"float_bytes": 0, "file_bytes": 9}, SMALL) == []


def test_the_reason_is_what_stays_float_or_how_small_the_network_is():
    (warning,) = size_warnings(size(1005, 1040), RECURRENT)
    assert "model.safetensors 1.00 and model.onnx 1.04" in warning["text"]
    assert "98.8 %" in warning["text"] and "gru 98.0 %" in warning["text"]
    assert "linear" not in warning["text"]
    (warning,) = size_warnings(size(260, 1200), SMALL)
    assert "model.safetensors" not in warning["text"] and "so few" in warning["text"]


def test_warnings_come_after_the_figures_and_before_the_report():
    metrics = {
        "agreement": 0.5, "samples": 4000, "kl": 0.1, "float": {}, "quantized": {},
        "warnings": size_warnings(size(1005, 1040), RECURRENT),
    }  # fmt: skip
    lines = comparison({"metrics": metrics, "out": "run"})
    assert lines[-3].startswith("warning: size: not clearly smaller") and lines[-2] == ""
    assert list_warnings(metrics)[0] in lines[-3]
