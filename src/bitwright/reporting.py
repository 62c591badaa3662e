"""From a run's records to its report page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.export import rundir
from bitwright.export.report import ReportData, render_report
from bitwright.export.rundir import RunDirectory
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment
from bitwright.graph.sites import Site
from bitwright.numerics.affine import dequantize
from bitwright.numerics.stats import Histogram, TensorStats
from bitwright.recipe import Recipe, load_recipe, update

WORST = 4
BINS = 64


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


def worst_histograms(
    graph: ModelGraph,
    assignment: Assignment,
    stats: Mapping[str, TensorStats],
    sites: tuple[Site, ...],
    errors: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Histograms of weights and inputs of the units with the largest relative weight error."""
    found = []
    roots = {site.unit: site for site in reversed(sites) if site.unit}
    for name in sorted(errors, key=lambda n: -errors[n])[:WORST]:
        solved = assignment.weights[name]
        weight = graph.tensor(graph.unit(name).weight)
        back = dequantize(solved.q, solved.qparams)
        found.append(
            _entry(name, "weight", TensorStats.of(weight), (back.min(), back.max()),
                   solved.qparams.grid.bits, errors[name])
        )  # fmt: skip
        site = roots.get(name)
        edge = assignment.edges.get((site.source, site.reader)) if site else None
        if site is not None and edge is not None and site.root in stats:
            low = (edge.grid.qmin - edge.zero_point) * edge.scale
            high = (edge.grid.qmax - edge.zero_point) * edge.scale
            found.append(_entry(name, "input", stats[site.root], (low, high), edge.grid.bits, None))
    return found


def _entry(
    unit: str, what: str, stats: TensorStats, ends: tuple[Any, Any], bits: int, error: float | None
) -> dict[str, Any]:
    edges, counts = _coarse(stats.histogram)
    return {
        "unit": unit,
        "what": what,
        "edges": edges,
        "counts": counts,
        "range": [float(ends[0]), float(ends[1])],
        "bits": bits,
        "error": error,
    }


def _coarse(histogram: Histogram) -> tuple[list[float], list[int]]:
    """At most BINS bins, neighbours joined."""
    counts = histogram.counts.tolist()
    edges = histogram.edges.tolist()
    step = -(-len(counts) // BINS) or 1
    joined = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    ends = [*edges[0 : len(counts) : step], edges[-1]] if edges else []
    return ends, joined
