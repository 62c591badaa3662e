"""From a run's records to its report page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright.errors import RunDirectoryError
from bitwright.export import rundir
from bitwright.export.generation import Staged
from bitwright.pipeline.repeat import line_again
from bitwright.recipe.values import Recipe, load_recipe, update
from bitwright.report.rates import about_few
from bitwright.report.report import ReportData, render_report
from bitwright.report.speed_words import describe_latency
from bitwright.report.texts import number, rows, scheme_of
from bitwright.report.warnings import list_warnings


def render(
    recipe_of: Recipe,
    metrics: dict[str, Any],
    census: dict[str, Any],
    verified: dict[str, Any] | None,
    new: Staged | None,
) -> str:
    """The report page of a run as HTML text; `new` are its files, where there are any."""
    notes = [f"{note['place']}: {note['text']}" for note in census.get("notes", [])]
    agreement, samples = (number(metrics.get(key)) for key in ("agreement", "samples"))
    few = about_few(agreement, samples, metrics.get("answers", ""))
    warned = [*([few[:1].upper() + few[1:]] if few else []), *list_warnings(metrics)]
    if not metrics.get("latency", {"held": True})["held"]:
        warned.insert(0, f"Latency: {describe_latency(metrics['latency'])}")
    evaluated = metrics.get("evaluated_on") == "evaluation data"
    return render_report(
        ReportData(
            title=title_of(recipe_of, census),
            command=line_again(recipe_of, new.run.path if new else None, evaluated),
            created=str(metrics.get("environment", {}).get("created", "")),
            metrics=metrics,
            census=census,
            verify=verified,
            histograms=census.get("histograms", []),
            files=_files(new) if new else {},
            warnings=list(dict.fromkeys([*warned, *notes])),
        )
    )


def _files(new: Staged) -> dict[str, int]:
    """The sizes of all files but the page, which cannot know its own."""
    return {name: size for name, size in new.sizes().items() if name != rundir.REPORT}


def render_run(new: Staged) -> str:
    """The report page of a run as it will be, from the files of its directory alone."""
    run = new.run
    place = run.checked(rundir.RECIPE)
    recipe = update(Recipe(), load_recipe(str(place)), str(place))
    metrics, census = run.read_json(rundir.METRICS), run.read_json(rundir.CENSUS)
    verified = new.json_of(rundir.VERIFY)
    try:
        if run.manifest is None:
            note = {"place": rundir.MANIFEST, "text": rundir.note_unsealed(run.path)}
            census = {**census, "notes": [*census.get("notes", []), note]}
        return render(recipe, metrics, census, verified, new)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise RunDirectoryError(
            f"{rundir.METRICS}, {rundir.CENSUS} or {rundir.VERIFY} of {run.path} holds what no run "
            f"writes ({type(error).__name__}: {error}). Quantise again into a new --out."
        ) from error


def title_of(recipe: Recipe, census: Mapping[str, Any]) -> str:
    """The network and the bits that it got."""
    return f"{network_name(recipe, census)}: {scheme_of(rows(census.get('units')))}"


def network_name(recipe: Recipe, census: Mapping[str, Any]) -> str:
    """What a person calls the network: the function, the library's name or the class, no path."""
    prefix, colon, name = recipe.model.rpartition(":")
    if not recipe.model:
        return str(census.get("network") or "network")
    if colon and prefix.endswith(".py"):
        return f"{name} ({Path(prefix).name})"
    if colon and prefix != "hf":
        return name
    return Path(name).name or name
