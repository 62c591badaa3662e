"""What must not be overlooked at the end of a run: printed last, and at the top of the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.report.texts import number, percent

# A file of more than this of the float network's bytes is not clearly smaller.
CLEARLY = 0.9
_SHOWN, _LEAST = 3, 0.005

Warned = dict[str, str]


def size_warnings(size: Mapping[str, Any], float_weights: Mapping[str, Any]) -> list[Warned]:
    """That a file is not clearly smaller than the float network, and why."""
    whole = number(size.get("float_bytes"))
    named = (("model.safetensors", "file_bytes"), ("model.onnx", "onnx_bytes"))
    shares = {name: (number(size.get(key)) or 0.0) / whole for name, key in named} if whole else {}
    large = [f"{name} {share:.2f}" for name, share in shares.items() if share > CLEARLY]
    if not large:
        return []
    told = f"not clearly smaller than the float network: {' and '.join(large)} of its bytes. "
    return [{"place": "size", "text": told + about_float(float_weights)}]


def about_float(found: Mapping[str, Any]) -> str:
    """How much stays float in which operators, and what that does to the size."""
    share = number(found.get("share")) or 0.0
    if (number(found.get("size")) or 0.0) <= CLEARLY:
        return (
            "Its weights are so few that names, scales and headers outweigh what their bits save."
        )
    parts = [
        f"{name} {percent(part, 1)}"
        for name, part in list(found.get("operators", {}).items())[:_SHOWN]
        if part >= _LEAST
    ]
    return (
        f"{percent(share, 1)} of its stored numbers stay float ({', '.join(parts)}), because these "
        "operators have no quantised form here, or by --keep and --scheme."
    )


def list_warnings(metrics: Mapping[str, Any]) -> list[str]:
    """The warnings of metrics.json as a terminal and the page show them."""
    return [f"{entry['place']}: {entry['text']}" for entry in metrics.get("warnings") or []]
