"""The options of `bw.quantize`: a recipe's keys, with the objects that may stand for names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from bitwright.evaluation.metrics import Metric
from bitwright.graph.choice import Choice
from bitwright.graph.target import Target
from bitwright.methods.problem import Method
from bitwright.numerics.ranges import RangeRule
from bitwright.tuning.steps import TuningStep


class Options(TypedDict, total=False):
    """A recipe's keys but `model`, which is an argument; `Recipe` says what they mean."""

    version: int
    weights: str
    data: str
    eval: str
    method: str | Method
    mode: str
    scheme: str | Choice
    keep: str | Mapping[str, str | Choice]
    allocation: str
    menu: str | Choice | Sequence[str | Choice]
    budget: str | Sequence[str]
    minimize: str
    solver: str
    latencies: str
    lossless: float
    table: str
    promise: str
    table_samples: int
    labels: bool
    ties: str | Sequence[str]
    pairwise: int
    prepare: str | Sequence[str]
    tune: str | TuningStep | Sequence[str | TuningStep]
    refine_method: str | Method
    target: str | Target
    metric: str | Metric | Callable[..., Any]
    answer: str | Mapping[str, str]
    loss: str | Callable[..., Any]
    calib: int
    activation_range: str | RangeRule
    weight_range: str | RangeRule
    batch: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    crop: float
    onnx: str
    opset: int
    dynamic: bool
    portable: bool
    time: str
    device: str
    seed: int
