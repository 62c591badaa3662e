"""What must not be overlooked at the end of a run: printed last, and at the top of the page."""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.engine.note import Note
from bitwright.evaluation.figures import Sizes
from bitwright.graph.census_record import FloatWeights
from bitwright.report.texts import percent

# A file of more than this of the float network's bytes is not clearly smaller.
CLEARLY = 0.9
_SHOWN, _LEAST = 3, 0.005


def size_warnings(size: Sizes, float_weights: FloatWeights | None) -> list[Note]:
    """That a file is not clearly smaller than the float network, and why."""
    whole = size.float_bytes
    named = (("model.safetensors", size.file_bytes), ("model.onnx", size.onnx_bytes))
    shares = {name: (found or 0) / whole for name, found in named} if whole else {}
    large = [f"{name} {share:.2f}" for name, share in shares.items() if share > CLEARLY]
    if not large or float_weights is None:
        return []
    told = f"not clearly smaller than the float network: {' and '.join(large)} of its bytes. "
    return [Note("size", told + about_float(float_weights))]


def about_float(found: FloatWeights) -> str:
    """How much stays float in which operators, and what that does to the size."""
    if found.size <= CLEARLY:
        return (
            "Its weights are so few that names, scales and headers outweigh what their bits save."
        )
    parts = [
        f"{name} {percent(part, 1)}"
        for name, part in list(found.operators.items())[:_SHOWN]
        if part >= _LEAST
    ]
    return (
        f"{percent(found.share, 1)} of its stored numbers stay float ({', '.join(parts)}), because "
        "these operators have no quantised form here, or by --keep and --scheme."
    )


def note_lines(notes: Iterable[Note]) -> list[str]:
    """Notes and warnings as a terminal and the page show them."""
    return [f"{note.place}: {note.text}" for note in notes]
