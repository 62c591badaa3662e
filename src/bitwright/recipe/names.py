"""The words that an option may hold, where what they name needs torch.

A wrong word is answered at once, before torch would have been imported. The catalogues themselves
stand where the things are; `tests/recipe/test_names.py` holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.errors import RecipeError, unknown
from bitwright.recipe.registered import find_registered

METHODS = ("nearest", "aciq", "quadratic", "adaquant", "adaquant-paper", "adaround")
RANGES = ("aciq", "kl", "lp", "minmax", "mse", "percentile")
METRICS = (
    "top1", "top5", "accuracy", "agreement", "miou", "macro_f1", "perplexity", "spearman",
    "pearson", "mae", "rmse", "psnr", "ssim", "label_f1", "label_macro_f1", "map", "wer", "cer",
    "f1", "exact_match",
)  # fmt: skip
SOLVERS = ("ip", "greedy-accuracy", "greedy-compression")
DEFAULT = "default"
RECIPES = (
    "default", "fixed", "light", "advanced", "relaxed", "aciq", "dfq", "zeroq", "ocs", "lapq",
    "adaround",
    "brecq", "qat-kld",
)  # fmt: skip
# What a network of convolutions and one of linear layers is deployed to, unless told otherwise.
CONVOLUTIONAL, LINEAR = "ort-cpu", "ort-linear"
# A target that the network decides, once it is captured.
AUTO = "auto"
TARGETS = (
    "ort-cpu", "ort-linear", "ort-dynamic", "ort-blocks", "ort-web", "openvino", "tensorrt",
    "weights-only", "paper", "per-tensor",
)  # fmt: skip
QUICK = "quick"
TABLES = ("measured", QUICK)
MODES = ("parallel", "sequential")
LISTS = ("methods", "recipes", "targets", "metrics")
# Operators beside the weighted ones whose inputs a target may quantise.
OPERATORS = ("add", "mul", "concat", "avg_pool", "global_avg_pool", "matmul", "softmax")


def check_name(kind: str, name: str, known: Iterable[str], place: str = "") -> None:
    """Whether a name is one of those known, or says that it was an object of Python.

    Raises:
        RecipeError: it is not; with the nearest that is.
    """
    if name not in known and not is_unnamed(name) and name not in find_registered(kind):
        raise RecipeError(unknown(kind, name, known, place))


# What a recipe writes behind the name of an object from Python that cannot be imported by it.
UNNAMED = " (an object of Python without a name to import)"


def is_unnamed(word: str) -> bool:
    """Whether a recipe says by a word that something was an object of Python."""
    return word.endswith(UNNAMED)


def refuse_unnamed(kind: str, word: str, option: str) -> None:
    """Say of an object that only a recipe names that it has to be handed over again.

    Raises:
        RecipeError: the word says that it was an object.
    """
    if is_unnamed(word):
        raise RecipeError(
            f"the recipe's {kind} is {word!r}: it was handed over in Python and cannot be found "
            f"again. Pass it again from Python ({option}), or name another."
        )


def check_metric(name: str) -> None:
    """Whether a metric is a known one, the user's own, or an object that a recipe could only note.

    Raises:
        RecipeError: neither.
    """
    known = name in METRICS or ":" in name or is_unnamed(name)
    if not known and name not in find_registered("metric"):
        raise RecipeError(
            unknown("metric", name, METRICS, "--metric") + " Or FILE.py:FUNCTION of your own."
        )
