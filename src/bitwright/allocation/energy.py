"""Energy of a unit at a choice, from a table of picojoules that the package carries as data."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import cache
from importlib import resources

from bitwright.allocation.table import FLOAT_BITS
from bitwright.graph.choice import Choice

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same reader under its older name
    import tomli as tomllib


@cache
def energy_table() -> Mapping[str, float]:
    """Picojoules an operation and a byte, as energy.toml states them with their source."""
    text = (resources.files("bitwright.allocation") / "energy.toml").read_text()
    return {key: float(value) for key, value in tomllib.loads(text).items()}


def mac_pj(choice: Choice) -> float:
    """Energy of one multiply-accumulate at these bits.

    Equation: E(w, a) = E_mul(8) (w a / 64)^p + E_add(32), with p = log(E_mul(32) / E_mul(8)) /
    log(16), so that the power law meets both multiplications that the source gives (8 x 8 and
    32 x 32 bits; p = 0.9885). The array of partial products of a multiplier has w a cells, which
    would be p = 1; the two figures of the source say nearly that. Sums are held in 32 bits. With a
    float weight or a float input the operation is that of float32.

    Reference: M. Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9.

    >>> [round(mac_pj(Choice(w, a)), 3) for w, a in ((8, 8), (4, 4), (8, 0))]
    [0.3, 0.151, 4.6]
    """
    table = energy_table()
    if not (choice.w_bits and choice.a_bits):
        return table["float32_multiply"] + table["float32_add"]
    power = math.log(table["int32_multiply"] / table["int8_multiply"]) / math.log(16)
    cells = choice.w_bits * choice.a_bits / 64
    return table["int8_multiply"] * float(cells**power) + table["int32_add"]


def energy_pj(macs: int, weight_bits: int, choice: Choice, activations: int = 0) -> float:
    """Energy of one unit for one sample: arithmetic, weights from DRAM once, inputs from SRAM once.

    Equation: E = macs points E(w, a) + weight_bits / 8 E_dram + activations a / 8 E_sram.

    Args:
        macs: multiply-accumulates a sample.
        weight_bits: what the weights take.
        choice: bits of weights and inputs.
        activations: elements of the unit's inputs; 0 leaves their movement out.
    """
    table = energy_table()
    moved = activations * (choice.a_bits or FLOAT_BITS) / 8
    return (
        macs * choice.points * mac_pj(choice)
        + weight_bits / 8 * table["weight_byte"]
        + moved * table["activation_byte"]
    )
