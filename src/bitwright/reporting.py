"""From a run's records to its report page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitwright.export import rundir
from bitwright.export.rates import about_few
from bitwright.export.report import ReportData, render_report
from bitwright.export.report_text import number, rows, scheme_of
from bitwright.export.rundir import RunDirectory
from bitwright.recipe import Recipe, load_recipe, update
from bitwright.repeating import line_again


def render(
    recipe_of: Recipe,
    metrics: dict[str, Any],
    census: dict[str, Any],
    verified: dict[str, Any] | None,
    run: RunDirectory | None,
) -> str:
    """The report page of a run as HTML text; `run` is its directory, where there is one."""
    notes = [f"{note['place']}: {note['text']}" for note in census.get("notes", [])]
    agreement, samples = (number(metrics.get(key)) for key in ("agreement", "samples"))
    few = about_few(agreement, samples, metrics.get("answers", ""))
    evaluated = metrics.get("evaluated_on") == "evaluation data"
    return render_report(
        ReportData(
            title=title_of(recipe_of, census),
            command=line_again(recipe_of, run.path if run else None, evaluated),
            created=str(metrics.get("environment", {}).get("created", "")),
            metrics=metrics,
            census=census,
            verify=verified,
            histograms=census.get("histograms", []),
            files=run.sizes() if run else {},
            warnings=[*([few[:1].upper() + few[1:]] if few else []), *notes],
        )
    )


def render_run(run: RunDirectory) -> str:
    """The report page from the files of a run directory alone."""
    recipe = update(Recipe(), load_recipe(str(run[rundir.RECIPE])), str(run[rundir.RECIPE]))
    verified = run.read_json(rundir.VERIFY) if run[rundir.VERIFY].exists() else None
    return render(
        recipe, run.read_json(rundir.METRICS), run.read_json(rundir.CENSUS), verified, run
    )


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
