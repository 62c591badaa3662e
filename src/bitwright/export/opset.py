"""Which version of the ONNX operators a file needs: the types that it stores decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitwright.errors import RecipeError
from bitwright.graph.choice import Choice
from bitwright.graph.target import Target

# With scales for each channel, the least; with packed 4-bit types, which files have by default;
# with 2-bit types, the last.
LEAST, USUAL, MOST = 13, 21, 25
# What torch.onnx writes at least; lower versions are stamped on files that hold no newer operator.
TRANSLATED = 18


@dataclass(frozen=True, order=True)
class Need:
    """The least opset that something needs, and what that is."""

    opset: int = LEAST
    what: str = "scales for each channel"


def need_of_weights(bits: int, in_groups: bool = False, width: int = 0) -> Need:
    """What stored weights of so many bits need; 0 is float.

    Args:
        bits: of the weights.
        in_groups: whether a channel has several scales.
        width: of the type that holds them, where it is not the narrowest that does.
    """
    found = Need()
    width = width or bits
    if 0 < width <= 2:
        found = Need(MOST, "INT2, which holds 2-bit weights,")
    elif 2 < width <= 4:
        found = Need(USUAL, f"INT4, which holds {bits}-bit weights,")
    elif 8 < bits <= 16:
        found = Need(USUAL, f"INT16, which holds {bits}-bit weights,")
    return max(found, Need(USUAL, "a scale for each group of weights")) if in_groups else found


def need_of_inputs(bits: int) -> Need:
    """What quantised inputs of so many bits need."""
    return Need(USUAL, f"UINT16, which holds {bits}-bit inputs,") if bits > 8 else Need()


def need_of_choices(choices: Iterable[Choice], target: Target) -> Need:
    """What a file may need in which units have these bits."""
    found = Need()
    for choice in choices:
        bits, grouped = choice.w_bits, bool(choice.group)
        width = target.stored_bits(bits, grouped, not choice.a_bits)
        own = need_of_weights(bits, grouped, width if bits else 0), need_of_inputs(choice.a_bits)
        found = max(found, *own, key=lambda need: need.opset)
    return found


def choose_opset(asked: int, need: Need) -> int:
    """The opset to write: what is asked for, or (0) the usual one, or what is needed above it.

    Raises:
        RecipeError: what is asked for is too low.
    """
    if not asked:
        return max(USUAL, need.opset)
    check(asked, need)
    return asked


def check(asked: int, need: Need) -> None:
    """Refuse an opset that no file of ours can have, or that holds too little.

    Raises:
        RecipeError: naming what needs more.
    """
    if not asked or need.opset <= asked <= MOST:
        return
    if not LEAST <= asked <= MOST:
        raise RecipeError(
            f"--opset {asked} cannot be written. Give {LEAST} to {MOST}, or 0 for the one that the "
            "file needs."
        )
    raise RecipeError(
        f"--opset {asked} is too low: {need.what} needs opset {need.opset}. Give "
        f"--opset {need.opset}, or bits that need less (8-bit weights and inputs need {LEAST})."
    )
