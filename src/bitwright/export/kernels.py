"""When ONNX Runtime's integer kernels give other sums than the file: processors and bits."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import fx

from bitwright.graph.custom_ops import DEQUANTIZE, FAKE_QUANTIZE, MARK
from bitwright.graph.sites import is_zero_pad
from bitwright.numerics.grid import Grid

# A float rounding may tip an activation over a grid boundary, so end to end the promise is
# agreement of the answers.
AGREEMENT = 0.99
CPUINFO = Path("/proc/cpuinfo")
# Instructions that add four products of bytes in 32 bits, as Linux names them.
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "avx10_2", "amx_int8"}
_X86 = ("x86_64", "amd64", "i386", "i486", "i586", "i686", "x86")
# Without them a pair of products is added in signed 16 bits, and cut off at the ends.
_MOST = 2**15 - 1
_KINDS = (FAKE_QUANTIZE, DEQUANTIZE)
_NAMED = 3


def lacks_vnni(machine: str | None = None, cpuinfo: Path = CPUINFO) -> bool | None:
    """Whether this is an x86 processor without VNNI; None where nothing tells.

    Args:
        machine: the architecture, as `platform.machine` gives it.
        cpuinfo: what Linux says of the processors; a virtual machine may hide what there is, and
            then a program has not got it.
    """
    if (machine or platform.machine()).lower() not in _X86:
        return False
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return None
    flags = [set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    return not any(own & _WIDE_SUMS for own in flags) if flags else None


def may_overflow(input_bits: int, weight_bits: int) -> bool:
    """Whether two products of unsigned inputs and signed weights can leave 16 bits.

    >>> may_overflow(8, 8), may_overflow(8, 7), may_overflow(3, 2)
    (True, False, False)
    """
    weights = Grid(weight_bits, signed=True)
    return 2 * Grid(input_bits).qmax * max(-weights.qmin, weights.qmax) > _MOST


def find_overflowing(marked: fx.GraphModule) -> list[str]:
    """The units of a simulation whose bits allow that, by name."""
    found = []
    for node in marked.graph.nodes:
        call = node.args[0] if node.target is MARK else None
        if isinstance(call, fx.Node) and _overflows(call):
            found.append(str(node.args[1]))
    return found


def _overflows(call: fx.Node) -> bool:
    """Whether a call takes unsigned inputs and signed weights of at most 8 bits that can."""
    read = [n.all_input_nodes[0] if is_zero_pad(n) else n for n in call.all_input_nodes]
    grids: dict[object, list[Any]] = {
        kind: [n.args[3:5] for n in read if n.target is kind] for kind in _KINDS
    }
    return any(
        not x_signed and signed and max(inputs, weights) <= 8 and may_overflow(inputs, weights)
        for inputs, x_signed in grids[FAKE_QUANTIZE]
        for weights, signed in grids[DEQUANTIZE]
    )


def kernels_note(
    plain: float, optimized: float, units: Sequence[str], lacking: bool | None
) -> str | None:
    """Why answers may be others with optimisations, and what helps; None where they are not.

    Two products of 8-bit inputs and weights can exceed 2^15; with weights of 7 bits,
    2 * 255 * 64 < 2^15.

    Args:
        plain, optimized: agreement with the simulation without and with optimisations.
        units: those whose bits can overflow.
        lacking: whether the processor lacks VNNI; None where that is not known.
    """
    if optimized >= AGREEMENT or plain < AGREEMENT:
        return None
    found = (
        f"ONNX Runtime computes what the file says without its optimisations, but with them "
        f"{optimized:.1%} of the answers are the same on this processor. "
    )
    if not units or not lacking:
        return found + "Run the file with graph optimisations disabled, and report it."
    more = f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
    return found + (
        "It is an x86 processor without VNNI: there kernels for unsigned inputs and signed "
        f"weights, both of 8 bits, let sums overflow 16 bits (here in {', '.join(units[:_NAMED])}"
        f"{more}). Quantised with --portable they cannot; or run the file on a processor with "
        "VNNI, or with graph optimisations disabled."
    )
