"""What was typed, checked as far as it can be without torch: an error of the input in a blink.

Whatever passes is checked again where it is used; here only the time until an answer is at stake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitwright.allocation.budget import parse_budgets
from bitwright.engine.workers import read_workers
from bitwright.errors import DataError, ModelError, RecipeError
from bitwright.export import rundir
from bitwright.graph.choice import parse_menu
from bitwright.graph.target import load_target
from bitwright.pipeline.check import make_recipe
from bitwright.recipe.names import METRICS, SOLVERS, check_metric, check_name
from bitwright.recipe.promises import parse_promise
from bitwright.recipe.values import Recipe
from bitwright.sources.specs import check_object, check_present, parse_data, parse_model


def quantize(recipe: str, options: Mapping[str, Any], workers: str | None) -> None:
    """The options of `quantize`: every word a known one, every file there."""
    made = make_recipe(recipe, options)
    if workers is not None:
        read_workers(workers)
    require_sources(made)
    if made.promise:
        # Without labels only what compares with float can be told.
        parse_promise(made.promise, made.metric.rpartition(":")[2] if made.eval else None)
    sources(made.model, made.data, made.weights)
    if made.eval:
        sources("", made.eval)
    metric(made.metric)
    if made.loss:
        check_object(made.loss, RecipeError)


def require_sources(recipe: Recipe) -> None:
    """Whether a recipe says what to work on.

    Raises:
        RecipeError: it lacks the network or the data.
    """
    if not recipe.model:
        raise RecipeError("no MODEL: name the network, for example models.py:resnet20.")
    if not recipe.data:
        raise RecipeError("no --data: name calibration data, for example loaders.py:calib.")


def sources(model: str, data: str | None = None, weights: str | None = None) -> None:
    """MODEL, D and the weights: written as they must be, and the files are there."""
    if model:
        parsed = parse_model(model)
        check_present(parsed, ModelError)
        if weights and parsed.kind in ("timm", "torchvision", "hf"):
            file = Path(weights).expanduser()
            if not file.exists():
                raise ModelError(f"no weights file {weights!r}. Check --weights.")
    if data:
        check_present(parse_data(data), DataError)


def metric(name: str) -> None:
    """A metric: a known word, or a function in a file that is there."""
    check_metric(name)
    if name not in METRICS:
        check_object(name, RecipeError)


def run(path: Path, data: str = "", name: str = "") -> None:
    """A run directory, and what a command is to measure it on."""
    # What was typed before what lies in the folder, which may have a note to print.
    if name:
        metric(name)
    sources("", data)
    rundir.open_existing(path)


def budgets(texts: Iterable[str], solver: str = "") -> None:
    """Budgets as they must be written, and who is to hold them."""
    parse_budgets(texts)
    if solver:
        check_name("solver", solver, SOLVERS, "--solver")


def bits(target: str, menu: str) -> None:
    """A target and a menu for it."""
    load_target(target)
    parse_menu(menu)
