"""The bars of the report: sizes beside each other, stages one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from bitwright.report import texts as text

_STAGE_KEYS = ("name", "seconds", "peak_rss_mb")


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: where it starts and ends as percentages of the whole."""

    label: str
    shown: str
    start: float
    width: float


def size_bars(metrics: Mapping[str, Any], files: Mapping[str, int]) -> list[Bar]:
    """The float network, its weights and its files, those that are known."""
    size = text.read_mapping(metrics.get("size"))
    figures = {
        "float network": size.get("float_bytes"),
        "quantised weights alone": size.get("weight_bytes"),
        "model.safetensors": size.get("file_bytes", files.get("model.safetensors")),
        "model.onnx": size.get("onnx_bytes", files.get("model.onnx")),
    }
    known = {name: found for name, v in figures.items() if (found := text.number(v)) is not None}
    most = max(known.values(), default=0.0) or 1.0
    whole = known.get("float network")
    return [
        Bar(
            name,
            text.show_bytes(value) + (f" ({value / whole:.3f} of float)" if whole else ""),
            0.0,
            100 * value / most,
        )
        for name, value in known.items()
    ]


def stage_bars(stages: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """The stages one after the other along one axis of time."""
    spent = [max(text.number(stage.get("seconds")) or 0.0, 0.0) for stage in stages]
    total = sum(spent) or 1.0
    starts = accumulate(spent, initial=0.0)
    return [
        Bar(str(stage.get("name", "?")), _stage(stage), 100 * start / total, 100 * seconds / total)
        for stage, start, seconds in zip(stages, starts, spent, strict=False)
    ]


def _stage(stage: Mapping[str, Any]) -> str:
    seconds, peak = text.number(stage.get("seconds")), text.number(stage.get("peak_rss_mb"))
    parts = ["time not known" if seconds is None else f"{seconds:.2f} s"]
    if peak is not None:
        parts.append(f"peak {peak:.0f} MB")
    parts += [
        f"{text.metric_name(key)} {text.show_metric(key, value)}"
        for key, value in stage.items()
        if key not in _STAGE_KEYS
    ]
    return ", ".join(parts)
