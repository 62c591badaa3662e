"""The diagnosis of a run: samples are bound, causes judged, each gets the line that mends it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bitwright.diagnosis.finding import Cause, Findings
from bitwright.diagnosis.gather import Examined, gather
from bitwright.diagnosis.symptoms import FileSymptoms
from bitwright.diagnosis.tree import judge
from bitwright.engine.progress import Progress
from bitwright.errors import DataError, RunDirectoryError
from bitwright.export import rundir
from bitwright.export.judged import judge_file
from bitwright.export.rundir import RunDirectory
from bitwright.export.samples import VERIFY_BATCH, verification_batches
from bitwright.export.verified import Verification
from bitwright.graph.execute import bind
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.simulate import Assignment, stitch
from bitwright.pipeline.plan import Plan
from bitwright.pipeline.repeat import line_again
from bitwright.recipe.values import Recipe
from bitwright.recipe.values import update as update_recipe
from bitwright.sources.batches import Dataset

# Enough to tell a cause from chance; each is run some ten times. What the first layer is given
# costs little and needs more.
DIAGNOSE_SAMPLES, FIRST_LAYER_SAMPLES = 32, 256
_FILE_SAMPLES = 32
_SETTINGS = ("method", "scheme", "menu", "keep", "prepare", "tune", "activation_range", "target")
# Options that take no value, and those that are numbers in a recipe.
_FLAGS, _COUNTS, _LISTS = {"portable"}, {"calib"}, {"mean", "std"}


def find_causes(
    network: tuple[ModelGraph, Assignment],
    dataset: Dataset,
    recipe: Recipe,
    progress: Progress,
    run: Path | None = None,
    file: FileSymptoms | None = None,
) -> Findings:
    """At most three named causes of lost accuracy, the best-founded first.

    Args:
        network: the captured float network and what was solved.
        dataset: samples; the first 32 go through the networks, 256 through the first layer.
        recipe: of the run.
        progress: told of the stage.
        run: its directory, where there is one.
        file: what the runtime makes of its file.

    Raises:
        DataError: no samples.
    """
    graph, assignment = network
    given = verification_batches(dataset, FIRST_LAYER_SAMPLES)
    images = tuple(bind(graph, inputs) for inputs in given)
    batches = images[: DIAGNOSE_SAMPLES // VERIFY_BATCH]
    if not batches:
        raise DataError("the data are empty: a diagnosis looks at some samples. Check --data.")
    settings = {key: str(getattr(recipe, key)) for key in _SETTINGS}
    with progress.stage("diagnose") as tick:
        found = gather(Examined(graph, assignment, batches, images, file, settings), tick)
    return Findings(
        findings=tuple(_with_command(one, recipe, run) for one in judge(found)),
        samples=found.samples,
        noise=found.noise,
        noise_of_weights=found.noise_of_weights,
        noise_of_inputs=found.noise_of_inputs,
    )


def read_file(
    directory: RunDirectory,
    network: tuple[ModelGraph, Assignment],
    dataset: Dataset,
    recipe: Recipe,
    progress: Progress,
) -> FileSymptoms | None:
    """What the runtime makes of a run's file: as verified, or verified now where it changed.

    A file that is not the one that the run wrote is a finding here and no error.
    """
    path = directory[rundir.ONNX]
    if not path.is_file():
        return None
    try:
        directory.checked(rundir.ONNX)
        altered = ""
    except RunDirectoryError as error:
        altered = str(error)
    if not altered and directory.has(rundir.VERIFY):
        found = directory.read(rundir.VERIFY, Verification)
    else:
        graph, assignment = network
        marked = stitch(graph, assignment, marks=True)
        with progress.stage("verify") as tick:
            batches = verification_batches(dataset, _FILE_SAMPLES)
            target = Plan.to_read(recipe).target
            found = judge_file(target, path, graph, marked, batches, tick, recipe.portable)
    return FileSymptoms(
        plain=found.unoptimized.agreement if found.unoptimized else found.agreement,
        optimized=found.optimized.agreement,
        first_failure=found.first_failure or "",
        difference=found.units.get(found.first_failure or "", 0.0),
        error=found.error or "",
        kernels=found.optimized.note or "",
        altered=altered,
    )


def _with_command(finding: Cause, recipe: Recipe, run: Path | None) -> Cause:
    """The finding with its line as one types it: of the shell, or of Python."""
    if finding.command and run is not None:
        line = finding.command.replace("RUN", shlex.quote(str(run)))
    elif recipe.model and run is not None:
        line = _line_of_shell(finding.sets, run)
    else:
        changed = update_recipe(recipe, _typed(finding.sets), "the diagnosis")
        line = line_again(changed, None, False)
    return replace(finding, command=line)


def _line_of_shell(sets: Mapping[str, str], run: Path) -> str:
    folder = run.absolute()
    words = ["bitwright", "quantize", "--recipe", str(folder / rundir.RECIPE)]
    for key, value in sets.items():
        words += [f"--{key.replace('_', '-')}", *([] if key in _FLAGS else [value])]
    return shlex.join([*words, "--out", f"{folder}-mended"])


def _typed(sets: Mapping[str, str]) -> dict[str, object]:
    """Options as a recipe has them."""
    found: dict[str, object] = {}
    for key, value in sets.items():
        if key in _FLAGS:
            found[key] = True
        elif key in _COUNTS:
            found[key] = int(value)
        elif key in _LISTS:
            found[key] = [float(word) for word in value.split(",")]
        else:
            found[key] = value
    return found
