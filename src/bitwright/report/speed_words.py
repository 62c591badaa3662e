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


def describe_latency(found: Mapping[str, Any] | None) -> str:
    """A budget of latency beside what the file takes; empty where none was asked for."""
    about = read_mapping(found)
    figures = [number(about.get(key)) for key in ("predicted", "measured", "noise")]
    if None in figures:
        return ""
    unit = " of float" if about.get("relative") else " ms"
    predicted, measured, noise = figures
    rounds = int(number(about.get("rounds")) or 0)
    tightened = f"; tightened {rounds} time{'s' if rounds > 1 else ''}" if rounds else ""
    told = (
        f"{about.get('asked')}: {predicted:.3g}{unit} predicted, {measured:.3g} +- {noise:.1g} "
        f"measured on {about.get('file')}{tightened}"
    )
    if about.get("held"):
        return f"held. {told}"
    return (
        f"NOT HELD. {told}. Ask for what was measured, or give the menu faster choices (float "
        "beside integers costs conversions)."
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
