"""What repeats a run: a recipe that works from any directory, and the line that runs it again."""

from __future__ import annotations

import shlex
from collections.abc import Container
from dataclasses import asdict, replace
from pathlib import Path

from bitwright.allocation.devices import resolve_devices
from bitwright.engine.texts import parse_toml, read_text
from bitwright.errors import RecipeError
from bitwright.evaluation.metrics import METRICS
from bitwright.export import rundir
from bitwright.export.generation import settles
from bitwright.graph.target import BUILT_IN
from bitwright.pipeline.check import make_recipe
from bitwright.recipe.names import AUTO, DEFAULT, is_unnamed
from bitwright.recipe.registered import find_registered
from bitwright.recipe.values import Recipe, to_toml, update
from bitwright.sources.specs import resolve_spec

# What a recipe names for the command; from Python these are objects.
SOURCES = ("model", "weights", "data", "eval")
NO_DATA = "none"


def resolve_files(recipe: Recipe) -> Recipe:
    """The recipe with its files' names made absolute, so that it works from any directory."""

    def absolute(text: str) -> str:
        return str(Path(text).absolute()) if text else text

    return replace(
        recipe,
        model=resolve_spec(recipe.model),
        data=resolve_spec(recipe.data),
        eval=resolve_spec(recipe.eval),
        weights=absolute(recipe.weights),
        onnx=absolute(recipe.onnx),
        latencies=resolve_devices(recipe.latencies),
        target=recipe.target
        if _is_word("target", recipe.target.split("+")[0], (AUTO, *BUILT_IN))
        else absolute(recipe.target),
        metric=recipe.metric
        if _is_word("metric", recipe.metric, METRICS)
        else resolve_spec(recipe.metric),
        loss=recipe.loss if is_unnamed(recipe.loss) else resolve_spec(recipe.loss),
    )


def take_up(out: Path, recipe: Recipe) -> Recipe:
    """The recipe of a run that is there already, where it is the one that is asked for.

    What its time allowed is then not asked again: the machine may be busier today.
    """
    there = out / rundir.RECIPE
    if not recipe.time or not there.is_file():
        return recipe
    text = read_text(there, RecipeError, "Name another folder by --out.")
    if not settles(text, to_toml(recipe)):
        return recipe
    return update(Recipe(), parse_toml(text, str(there), RecipeError), str(there))


def _is_word(kind: str, name: str, built_in: Container[str]) -> bool:
    """Whether a name is that of no file."""
    return name in built_in or is_unnamed(name) or name in find_registered(kind)


def of_python(recipe: Recipe, no_data: bool, model: str = "") -> Recipe:
    """The recipe of a run whose data are objects: it names none that it did not use.

    Args:
        recipe: as stated.
        no_data: whether there are no data, on purpose.
        model: the MODEL, where the network is no object.
    """
    data = NO_DATA if no_data else ""
    return resolve_files(replace(recipe, model=model, weights="", data=data, eval=""))


def line_again(recipe: Recipe, run: Path | None, evaluated: bool) -> str:
    """The line that runs it again: of the shell where the recipe names all, else of Python.

    Args:
        recipe: of the run.
        run: its directory, where there is one.
        evaluated: whether labelled data were measured, which Python is given as an object.
    """
    if recipe.model and recipe.data and run is not None:
        folder = run.absolute()
        words = ["bitwright", "quantize", "--recipe", str(folder / rundir.RECIPE)]
        return shlex.join([*words, "--out", f"{folder}-again"])
    data = repr(NO_DATA) if recipe.data == NO_DATA else "calibration"
    given = [
        repr(recipe.model) if recipe.model else "net",
        data,
        *(["evaluation=held_out"] if evaluated else []),
    ]
    usual = asdict(make_recipe(DEFAULT, {}))
    given += [
        f"{key}={value!r}"
        for key, value in asdict(recipe).items()
        if key not in SOURCES and value != usual[key]
    ]
    return f"bw.quantize({', '.join(given)})"
