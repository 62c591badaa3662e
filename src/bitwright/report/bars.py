"""The bars of the report: sizes beside each other, stages one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from bitwright.engine.progress import StageRecord
from bitwright.evaluation.figures import Sizes
from bitwright.report import texts as text


@dataclass(frozen=True)
class Bar:
    """A horizontal bar: where it starts and ends as percentages of the whole."""

    label: str
    shown: str
    start: float
    width: float


def size_bars(size: Sizes | None) -> list[Bar]:
    """The float network, its weights and its files, those that are known."""
    if size is None:
        return []
    figures = {
        "float network": size.float_bytes,
        "quantised weights alone": size.weight_bytes,
        "model.safetensors": size.file_bytes,
        "model.onnx": size.onnx_bytes,
    }
    known = {name: found for name, found in figures.items() if found is not None}
    most = max(known.values(), default=0) or 1
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


def stage_bars(stages: Sequence[StageRecord]) -> list[Bar]:
    """The stages one after the other along one axis of time."""
    spent = [max(text.number(stage.seconds) or 0.0, 0.0) for stage in stages]
    total = sum(spent) or 1.0
    starts = accumulate(spent, initial=0.0)
    return [
        Bar(stage.name, _stage(stage), 100 * start / total, 100 * seconds / total)
        for stage, start, seconds in zip(stages, starts, spent, strict=False)
    ]


def _stage(stage: StageRecord) -> str:
    seconds, peak = text.number(stage.seconds), text.number(stage.peak_rss_mb)
    parts = ["time not known" if seconds is None else f"{seconds:.2f} s"]
    if peak is not None:
        parts.append(f"peak {peak:.0f} MB")
    parts += [
        f"{text.metric_name(key)} {text.show_metric(key, value)}"
        for key, value in stage.figures.items()
    ]
    return ", ".join(parts)
