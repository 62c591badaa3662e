"""`bw.quantize`: from a network and data in Python to a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import Unpack

from bitwright.engine.progress import Progress
from bitwright.engine.random_state import own_random
from bitwright.engine.showing import progress_for
from bitwright.pipeline.check import make_recipe
from bitwright.pipeline.from_file import open_model, with_batch
from bitwright.pipeline.job import Job, store_at
from bitwright.pipeline.objects import as_words
from bitwright.pipeline.options import Options
from bitwright.pipeline.plan import Plan
from bitwright.pipeline.promise import keep_promise
from bitwright.pipeline.repeat import of_python
from bitwright.pipeline.result import Result
from bitwright.pipeline.run import run
from bitwright.recipe.names import DEFAULT
from bitwright.sources.data import as_dataset
from bitwright.sources.images import ImageOptions


def quantize(
    model: nn.Module | str | Path,
    calibration: object,
    *,
    recipe: str = DEFAULT,
    evaluation: object | None = None,
    progress: Progress | bool | None = None,
    store: str | Path | None = None,
    workers: int | str | None = None,
    **options: Unpack[Options],
) -> Result:
    """Quantise a trained network with a few hundred unlabelled samples.

    Args:
        model: a network; it may carry `example_inputs`. One in training mode is taken in eval
            mode, in a copy, with a note. Or the path of an ONNX file.
        calibration: batches: a DataLoader, a list, a tensor, a function that gives batches. A
            batch is inputs or (inputs, labels); labels are ignored.
        recipe: a built-in recipe's name or a TOML file.
        evaluation: labelled data to measure float and quantised on.
        progress: whether to show what happens; by default in IPython and notebooks alone. A
            Progress of your own receives it.
        store: a directory where solved units are kept: running again takes up what is there.
        workers: processes for the parallel mode, threads for the sequential one; by default
            threads of this process, as many as there are cores, eight at most. The result is the
            same, bit for bit.
        options: any key of a recipe, such as scheme="w4a8" or target="ort-cpu". A method, a target,
            a metric, range rules and tuning steps may be objects of your own (docs/extending.md).

    Returns:
        The result: `result.model` is an ordinary nn.Module with the same inputs and outputs.

    Example:
        >>> import torch, bitwright as bw
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU()).eval()
        >>> result = bw.quantize(net, [torch.randn(16, 8)], scheme="w8a8")
        >>> result.metrics["agreement"] > 0.8
        True
    """
    with own_random(str(options.get("device", "cpu"))):
        job = job_of_python(model, calibration, evaluation, recipe, options)
        job = replace(job, store=store_at(store), workers=workers)
        return (keep_promise if job.recipe.promise else run)(job, progress_for(progress))


def job_of_python(
    model: nn.Module | str | Path,
    calibration: object,
    evaluation: object | None,
    recipe: str,
    options: Mapping[str, Any],
) -> Job:
    """The job of a call from Python."""
    words, objects = as_words(options)
    made = make_recipe(recipe, words, objects.target)
    source = open_model(model)
    takes, file = source.takes, source.file
    image = ImageOptions.stated(made.size, made.mean, made.std, made.crop)
    data = as_dataset(calibration, takes=takes, image=image, file=file)
    labelled = None
    if evaluation is not None:
        labelled = as_dataset(
            evaluation, name="the evaluation data", takes=takes, image=image, file=file
        )
    named = str(model) if isinstance(model, (str, Path)) else ""
    plan = with_batch(Plan.of(of_python(made, data.is_none, named), objects), source)
    return Job(source.module, data, plan, source.example_inputs, labelled)
