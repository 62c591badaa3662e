"""From a run's records to its report page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bitwright.diagnosis.finding import Findings
from bitwright.engine.note import Note
from bitwright.evaluation.figures import Metrics
from bitwright.export import rundir
from bitwright.export.generation import Staged
from bitwright.export.verified import Verification
from bitwright.graph.census_record import Census
from bitwright.pipeline.repeat import line_again
from bitwright.recipe.values import Recipe, load_recipe, update
from bitwright.report.promise_words import word_rejection
from bitwright.report.rates import about_few
from bitwright.report.report import ReportData, render_report
from bitwright.report.speed_words import describe_latency
from bitwright.report.texts import number, scheme_of
from bitwright.report.warnings import note_lines


def render(
    recipe_of: Recipe,
    metrics: Metrics,
    census: Census,
    verified: Verification | None,
    new: Staged | None,
) -> str:
    """The report page of a run as HTML text; `new` are its files, where there are any."""
    few = about_few(number(metrics.agreement), metrics.samples, metrics.answers)
    warned = [*([few[:1].upper() + few[1:]] if few else []), *note_lines(metrics.warnings)]
    if metrics.latency is not None and not metrics.latency.held:
        warned.insert(0, f"Latency: {describe_latency(metrics.latency)}")
    if verified is not None and verified.rejected is not None:
        warned.insert(0, word_rejection(verified.rejected))
    if metrics.promise is not None and not metrics.promise.holds:
        warned.insert(0, f"Promise: {metrics.promise.told}")
    evaluated = metrics.evaluated_on == "evaluation data"
    return render_report(
        ReportData(
            title=title_of(recipe_of, census),
            command=line_again(recipe_of, new.run.path if new else None, evaluated),
            created=metrics.environment.created,
            metrics=metrics,
            census=census,
            verify=verified,
            findings=new.read(rundir.DIAGNOSIS, Findings) if new else None,
            files=_files(new) if new else {},
            warnings=list(dict.fromkeys([*warned, *note_lines(census.notes)])),
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
    metrics, census = run.read(rundir.METRICS, Metrics), run.read(rundir.CENSUS, Census)
    if run.manifest is None:
        note = Note(rundir.MANIFEST, rundir.note_unsealed(run.path))
        census = replace(census, notes=(*census.notes, note))
    return render(recipe, metrics, census, new.read(rundir.VERIFY, Verification), new)


def title_of(recipe: Recipe, census: Census) -> str:
    """The network and the bits that it got."""
    return f"{network_name(recipe, census)}: {scheme_of(census.units)}"


def network_name(recipe: Recipe, census: Census) -> str:
    """What a person calls the network: the function, the library's name or the class, no path."""
    prefix, colon, name = recipe.model.rpartition(":")
    if not recipe.model:
        return census.network or "network"
    if colon and prefix.endswith(".py"):
        return f"{name} ({Path(prefix).name})"
    if colon and prefix != "hf":
        return name
    return Path(name).name or name
