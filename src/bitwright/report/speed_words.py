"""How a file's speed is told: a slow file is never called good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.report.texts import compare_times, number, read_mapping, slowdown

# Targets of which integer kernels are to follow one another or read integers.
FAST = ("ort-cpu", "ort-linear")


def describe_speed(verify: Mapping[str, Any] | None) -> str:
    """Both times in one line; empty where the file was not timed."""
    speed, ratio = read_mapping((verify or {}).get("speed")), slowdown(verify)
    before, after = number(speed.get("float_ms")), number(speed.get("quantized_ms"))
    if ratio is None or before is None or after is None:
        return ""
    return (
        f"{after:.3g} ms a run, {before:.3g} ms in float: {compare_times(ratio)} "
        "(ONNX Runtime, one thread, this processor, a short measurement)"
    )


def speed_advice(target: str) -> tuple[str, str]:
    """What to do about a file that is slower than float: (reason, option; may be empty)."""
    if target.split("+")[0] in FAST:
        return (
            "The file is slower than float here: its layers are too small for integer kernels to "
            "pay, or this processor has none for them. Keep it for its size, or run float.", "",
        )  # fmt: skip
    held = f"Files of target {target!r} are" if target else "Unless its target was ort-cpu it is"
    return (
        f"The file is slower than float here. {held} for small size and for comparing methods; for "
        "speed (transformers: ort-linear):",
        "--target ort-cpu --scheme w8a8",
    )
