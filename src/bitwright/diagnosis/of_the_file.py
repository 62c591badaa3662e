"""Causes that lie in the file, and in the processor that runs it; pure."""

from __future__ import annotations

from bitwright.diagnosis.finding import Cause
from bitwright.diagnosis.symptoms import Symptoms

# Of few samples' answers, what a sound file gives as the simulation does.
SAME = 0.95


def damaged_file(found: Symptoms) -> Cause | None:
    """The file does not hold what the run solved."""
    file = found.file
    if file is None or not (file.error or file.first_failure or file.plain < SAME):
        return None
    told = f"{file.plain:.1%} of its answers are the simulation's"
    if file.error:
        told = f"ONNX Runtime refuses it: {file.error}"
    elif file.first_failure:
        told = f"{file.first_failure} is off by {file.difference:.2g} on equal inputs; {told}"
    changed = " It was changed after the run was written." if file.altered else ""
    return Cause(
        cause="damaged-file",
        place=file.first_failure or "model.onnx",
        text=f"the file computes something else than what was solved.{changed} Write it again",
        figure=told,
        severity=1.0,
        command="bitwright export RUN",
    )


def integer_kernels(found: Symptoms) -> Cause | None:
    """This processor's integer kernels give other sums than the file says."""
    file = found.file
    if file is None or not file.kernels:
        return None
    return Cause(
        cause="kernels",
        place="model.onnx",
        text=file.kernels,
        figure=f"{file.optimized:.1%} of the answers are the same with optimisations, "
        f"{file.plain:.1%} without",
        severity=1.0 - file.optimized,
        sets={"portable": "true"},
    )
