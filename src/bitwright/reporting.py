"""From a run's records to its report page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.export import rundir
from bitwright.export.report import ReportData, render_report
from bitwright.export.rundir import RunDirectory
from bitwright.recipe import Recipe, load_recipe, update


def render(
    recipe_of: Recipe,
    metrics: dict[str, Any],
    census: dict[str, Any],
    verified: dict[str, Any] | None,
    files: Mapping[str, int],
) -> str:
    """The report page of a run as HTML text."""
    notes = [f"{note['place']}: {note['text']}" for note in census.get("notes", [])]
    return render_report(
        ReportData(
            title=f"{recipe_of.model or 'network'} at {recipe_of.scheme}",
            command=command(recipe_of),
            created=str(metrics.get("environment", {}).get("created", "")),
            metrics=metrics,
            census=census,
            verify=verified,
            histograms=census.get("histograms", []),
            files=dict(files),
            warnings=notes,
        )
    )


def render_run(run: RunDirectory) -> str:
    """The report page from the files of a run directory alone."""
    recipe = update(Recipe(), load_recipe(str(run[rundir.RECIPE])), str(run[rundir.RECIPE]))
    verified = run.read_json(rundir.VERIFY) if run[rundir.VERIFY].exists() else None
    return render(
        recipe, run.read_json(rundir.METRICS), run.read_json(rundir.CENSUS), verified, run.sizes()
    )


def command(recipe: Recipe) -> str:
    """The command line that repeats a run."""
    default = Recipe()
    words = ["bitwright quantize", recipe.model or "MODEL", "--data", recipe.data or "DATA"]
    for key in ("weights", "eval", "scheme", "method", "target", "keep", "metric", "calib", "seed"):
        value = getattr(recipe, key)
        if value != getattr(default, key) or key == "scheme":
            words += [f"--{key}", f"'{value}'" if " " in str(value) else str(value)]
    return " ".join(words)
