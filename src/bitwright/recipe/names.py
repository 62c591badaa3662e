"""The words that an option may hold, where what they name needs torch.

A wrong word is answered at once, before torch would have been imported. The catalogues themselves
stand where the things are; `tests/recipe/test_names.py` holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.errors import RecipeError, unknown

METHODS = ("nearest", "aciq", "quadratic", "adaquant", "adaquant-paper", "adaround")
RANGES = ("aciq", "kl", "lp", "minmax", "mse", "percentile")
METRICS = (
    "top1", "top5", "accuracy", "agreement", "miou", "macro_f1", "perplexity", "spearman", "f1",
    "exact_match",
)  # fmt: skip
SOLVERS = ("ip", "greedy-accuracy", "greedy-compression")
RECIPES = (
    "fixed", "light", "advanced", "relaxed", "aciq", "dfq", "zeroq", "ocs", "lapq", "adaround",
    "brecq", "qat-kld",
)  # fmt: skip
TARGETS = ("ort-cpu", "ort-linear", "paper", "per-tensor", "weights-only")
MODES = ("parallel", "sequential")
LISTS = ("methods", "recipes", "targets", "metrics")
# Operators beside the weighted ones whose inputs a target may quantise.
OPERATORS = ("add", "mul", "concat", "avg_pool", "global_avg_pool", "matmul", "softmax")


def check_name(kind: str, name: str, known: Iterable[str], place: str = "") -> None:
    """Whether a name is one of those known.

    Raises:
        RecipeError: it is not; with the nearest that is.
    """
    if name not in known:
        raise RecipeError(unknown(kind, name, known, place))


# What a recipe writes behind the name of an object from Python that cannot be imported by it.
UNNAMED = " (an object of Python without a name to import)"


def check_metric(name: str) -> None:
    """Whether a metric is a known one, the user's own, or an object that a recipe could only note.

    Raises:
        RecipeError: neither.
    """
    if name not in METRICS and ":" not in name and not name.endswith(UNNAMED):
        raise RecipeError(
            unknown("metric", name, METRICS, "--metric") + " Or FILE.py:FUNCTION of your own."
        )
