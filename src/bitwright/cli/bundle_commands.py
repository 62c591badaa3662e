"""`bitwright bench --bundle`: the networks of a latency table for a machine without us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.cli.commands import capture_to_time
from bitwright.engine.progress import Progress
from bitwright.errors import RecipeError
from bitwright.export import rundir
from bitwright.export.samples import flat_example
from bitwright.graph.choice import Menus, parse_menu
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target, load_target
from bitwright.latency.bundle import write_bundle
from bitwright.latency.measure import menu_for
from bitwright.pipeline import runs
from bitwright.pipeline.job import capture_job, rewrite_network
from bitwright.pipeline.plan import menu_of, stream

MENU, TARGET = "w8a8,w4a8,float", "ort-cpu"


@dataclass(frozen=True)
class BundleRequest:
    """What a bundle is of: a RUN or MODEL, and what its recipe or the defaults do not say."""

    subject: str
    menu: str = ""
    target: str = ""
    data: str = ""
    batch: int = 1


def run_bundle(
    asked: BundleRequest, folder: Path, progress: Progress, trusted: bool = False
) -> dict[str, Any]:
    """Write the bundle of a run's menu and target, or of a network's.

    Raises:
        RecipeError: options that the run's recipe has itself.
        TrustError: the run's recipe names code that is not to be run.
    """
    if Path(asked.subject).is_dir():
        graph, target, menu, example, words = _of_run(asked, progress, trusted)
    else:
        target = load_target(asked.target or TARGET)
        words = asked.menu or MENU
        choices = parse_menu(words)
        graph, example = capture_to_time(asked.subject, {"data": asked.data or None}, progress)
        menu = menu_for(graph, target, choices)
    files = write_bundle(folder, graph, target, menu, example, asked.batch, progress)
    return {
        "bundle": str(folder),
        "files": [str(file) for file in files],
        "networks": sum(file.suffix == ".gz" for file in files),
        "bytes": sum(file.stat().st_size for file in files),
        "menu": words,
        "target": target.name,
    }


def _of_run(
    asked: BundleRequest, progress: Progress, trusted: bool
) -> tuple[ModelGraph, Target, Menus, tuple[Tensor, ...], str]:
    if asked.target or asked.data:
        raise RecipeError(
            f"{asked.subject} is a run: its recipe has the target and the data. Leave --target and "
            "--data out, or name the MODEL."
        )
    directory = rundir.open_existing(Path(asked.subject))
    job = runs.job_of(directory, "", "", None, progress, trusted)
    with progress.stage("capture"):
        job, graph = capture_job(job)
    graph = rewrite_network(job, graph, progress)
    words = asked.menu or job.recipe.menu
    if not words:
        raise RecipeError(
            f"the run {asked.subject} has no menu: say by --menu what is to be timed, such as "
            f"{MENU}."
        )
    target = job.plan.target
    menu = (
        menu_for(graph, target, parse_menu(asked.menu)) if asked.menu else menu_of(graph, job.plan)
    )
    example = flat_example(graph, next(stream(job.data, job.recipe)))
    return graph, target, menu, example, words
