"""What is measured on a network's outputs, streaming: sums a batch, one number at the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError, RecipeError, unknown
from bitwright.sources.guard import Foreign
from bitwright.sources.specs import load_object

Score = Callable[[Tensor, Any], tuple[float, int]]


@dataclass(frozen=True)
class Metric:
    """A name and a function (outputs, labels) -> (sum, count) whose quotient is the metric."""

    name: str
    score: Score
    needs_labels: bool
    text: str


def _top1(outputs: Tensor, labels: Any) -> tuple[float, int]:
    if not isinstance(labels, Tensor):
        raise DataError(
            "the metric top1 needs integer class labels and the evaluation data have none. Give "
            "labelled data, or --metric agreement, which needs none."
        )
    if outputs.dim() < 2 or predictions(outputs).shape != labels.shape:
        raise DataError(
            f"the metric top1 needs one row of class scores a label; the outputs have shape "
            f"{tuple(outputs.shape)} and the labels {tuple(labels.shape)}. Give one label a row of "
            "scores, or a metric of your own: --metric FILE.py:FUNCTION."
        )
    right = predictions(outputs) == labels.to(outputs.device)
    return float(right.sum()), right.numel()


def predictions(outputs: Tensor) -> Tensor:
    """The class of each row: the largest entry along the class axis (1 for images of classes)."""
    return outputs.argmax(dim=1 if outputs.dim() == 4 else -1)


METRICS = {
    "top1": Metric("top1", _top1, True, "share of inputs whose highest score is the label's"),
    "agreement": Metric(
        "agreement", lambda *_: (0.0, 0), False, "share of inputs with the float network's answer"
    ),
}


def metric(name: str) -> Metric:
    """A metric by name, or the user's own function `FILE.py:FUNCTION`.

    The user's function takes (outputs, labels) of one batch and returns its mean score.

    Raises:
        RecipeError: unknown name.
    """
    if name in METRICS:
        return METRICS[name]
    if ":" not in name:
        raise RecipeError(
            unknown("metric", name, METRICS, "--metric") + " Or FILE.py:FUNCTION of your own."
        )
    function = load_object(name)
    if not callable(function) or len(inspect.signature(function).parameters) != 2:
        raise RecipeError(
            f"the metric {name!r} must be a function of two arguments, (outputs, labels)."
        )

    def score(outputs: Tensor, labels: Any) -> tuple[float, int]:
        with Foreign(RecipeError, f"the metric {name}"):
            value = function(outputs, labels)
            number = float(value.item() if isinstance(value, torch.Tensor) else value)
        return number * outputs.shape[0], outputs.shape[0]

    return Metric(name.rpartition(":")[2], score, True, "the user's own function")
