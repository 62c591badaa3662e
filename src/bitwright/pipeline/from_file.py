"""Networks that come from an ONNX file: what the stages have to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from bitwright.engine.note import Note
from bitwright.errors import CaptureError, ModelError
from bitwright.graph.capture import ExampleInputs
from bitwright.graph.capture import capture as capture_module
from bitwright.graph.model_graph import ModelGraph
from bitwright.pipeline.check import check_recipe
from bitwright.pipeline.plan import Plan
from bitwright.sources.models import LoadedModel, example_inputs_of, load_model


def open_model(model: object) -> LoadedModel:
    """What a Python caller passes as a network: a module, or a MODEL such as `model.onnx`.

    Raises:
        ModelError: neither, or the MODEL cannot be read.
    """
    if isinstance(model, (str, Path)):
        return load_model(str(model))
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"the network is of type {type(model).__name__}: pass a torch.nn.Module in eval mode, "
            "or the path of an ONNX file. Of an exported program that is program.module()."
        )
    return LoadedModel(model, type(model).__name__, example_inputs_of(model))


def with_batch(plan: Plan, source: LoadedModel) -> Plan:
    """The plan with the batch that the file takes, where it takes no other."""
    batch = source.file.batch if source.file else 0
    if not batch or plan.recipe.batch == batch:
        return plan
    return plan.under(check_recipe(replace(plan.recipe, batch=batch), plan.target))


def say_guess(graph: ModelGraph) -> ModelGraph:
    """The graph with a note of the sizes that stand for those that the file leaves free."""
    shown = "; ".join(map(str, graph.inputs))
    note = Note(
        "inputs",
        f"the file leaves sizes free, and {shown} stands for them here. Give --data for the sizes "
        "that you mean.",
    )
    return replace(graph, notes=(note, *graph.notes))


def capture(
    model: nn.Module | str | Path,
    example_inputs: ExampleInputs | None = None,
    free_sizes: bool = False,
    answer: str = "",
) -> ModelGraph:
    """Capture a network, or that of a file, and bring it into the form that all else works on.

    Args:
        model: a network, or a MODEL such as `model.onnx`.
        example_inputs: a tuple of tensors, or keyword tensors; the first dimension is the batch.
            Without them those that the network carries or the file declares.
        free_sizes: let height and width of images vary too (`graph.capture.capture`).
        answer: what outputs mean, as `--answer` says it.

    Raises:
        CaptureError: the network cannot be exported, or nothing says what its inputs are like.
    """
    source = open_model(model)
    example = example_inputs
    if example is not None and source.file is not None:
        given = (example,) if isinstance(example, Tensor) else example
        named = dict(given) if isinstance(given, Mapping) else tuple(given)
        example = source.file.arrange(named, "the example inputs")
    if example is None:
        example = source.example_inputs
    if example is None and source.guess is not None:
        return say_guess(capture_module(source.module, source.guess, free_sizes, answer))
    if example is None:
        raise CaptureError(
            f"nothing says what the inputs of {source.spec} are like. Pass example_inputs, a tuple "
            "of tensors."
        )
    return capture_module(source.module, example, free_sizes, answer)
