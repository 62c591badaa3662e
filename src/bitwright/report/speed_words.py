"""How a file's speed is told: a slow file is never called good."""

from __future__ import annotations

from bitwright.allocation.timed import LatencyCheck
from bitwright.export.verified import Verification
from bitwright.report.texts import compare_times, slowdown

# Targets of which integer kernels are to follow one another or read integers.
FAST = ("ort-cpu", "ort-linear")


# Targets whose files are for comparing methods.
STUDY = ("paper", "per-tensor")


def say_study(target: str) -> list[str]:
    """That the files of a target are not made to be fast: the first that is said of them."""
    if target.split("+")[0] not in STUDY:
        return []
    return [
        f"For study: files of target {target!r} are for comparing methods and may be slower than "
        "float; those of ort-cpu and ort-linear are made to be fast."
    ]


def describe_speed(verify: Verification | None) -> str:
    """Both times in one line; empty where the file was not timed."""
    speed, ratio = verify.speed if verify else None, slowdown(verify)
    if speed is None or ratio is None:
        return ""
    return (
        f"{speed.quantized_ms:.3g} ms a run, {speed.float_ms:.3g} ms in float: "
        f"{compare_times(ratio)} "
        "(ONNX Runtime, one thread, this processor, a short measurement)"
    )


def describe_latency(found: LatencyCheck | None) -> str:
    """A budget of latency beside what the file takes; empty where none was asked for."""
    if found is None:
        return ""
    unit, rounds = " of float" if found.relative else " ms", found.rounds
    tightened = f"; tightened {rounds} time{'s' if rounds > 1 else ''}" if rounds else ""
    told = (
        f"{found.asked}: {found.predicted:.3g}{unit} predicted, {found.measured:.3g} +- "
        f"{found.noise:.1g} measured on {found.file}{tightened}"
    )
    if found.held:
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
