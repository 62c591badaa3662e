"""A run's records for tests: whole ones, of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from bitwright.evaluation.figures import Metrics
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census

UNIT: dict[str, Any] = {
    "name": "u", "kind": "conv2d", "shape": [8, 3, 3, 3], "w_bits": 8, "a_bits": 8, "points": 1,
    "params": 216, "macs": 10_000, "activation": None, "calls": 1, "unknowns_per_channel": 27,
    "equations": 4096,
}  # fmt: skip
METRICS: dict[str, Any] = {
    "samples": 5000, "float": {}, "quantized": {}, "answers": "scores", "agreement": 1.0, "kl": 0.0,
    "relative_noise": 0.0, "tuning": [],
    "activation_peak": {"float_bytes": 40, "quantized_bytes": 10},
    "stages": [],
    "size": {"float_bytes": 1000, "weight_bytes": 250, "file_bytes": 260, "onnx_bytes": 300,
             "ratio": 0.26, "weight_ratio": 0.25},
    "bops_ratio": 0.0625,
    "environment": {"python": "3.11", "torch": "2.13.0", "onnxruntime": "1.32.0",
                    "machine": "x86_64", "threads": 2, "created": "2026-11-21 05:00:00"},
}  # fmt: skip
CENSUS: dict[str, Any] = {
    "target": "paper", "units": [], "float_ops": [], "notes": [], "folded_batch_norms": [],
    "protocol": {"schemes": {"w8a8": 1}, "first": "w8a8", "last": "w8a8", "weights": "symmetric",
                 "inputs": "per tensor", "residual_adds_quantised": False,
                 "network_input_quantised": True, "biases": "float"},
    "calibration_samples": 128,
}  # fmt: skip
VERIFIED: dict[str, Any] = {
    "passed": True, "tolerance": 1e-5, "units": {"u": 1e-7}, "samples": 256, "undecided": 0,
    "error": None, "agreement": 1.0, "max_difference": 0.0, "max_relative_difference": 0.0,
    "optimized": {"agreement": 1.0, "max_difference": 0.0, "max_relative_difference": 0.0,
                  "operators": {}, "note": None},
    "other_size": None, "first_failure": None, "speed": None,
}  # fmt: skip


def unit(**changes: Any) -> dict[str, Any]:
    """A line of the census, as its file has it."""
    return {**UNIT, **changes}


def metrics(**changes: Any) -> Metrics:
    """metrics.json."""
    return Metrics.from_json({**METRICS, **changes})


def census(**changes: Any) -> Census:
    """census.json."""
    return Census.from_json({**CENSUS, **changes})


def verification(**changes: Any) -> Verification:
    """verify.json."""
    return Verification.from_json({**VERIFIED, **changes})
