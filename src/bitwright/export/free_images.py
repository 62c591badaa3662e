"""`--dynamic`: images of any height and width, tried from the network to the file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bitwright.engine.note import Note
from bitwright.errors import CaptureError
from bitwright.export.onnx_file import export_onnx
from bitwright.export.runtime import RUNTIME_ERRORS, feed_of, first_line, run, session
from bitwright.graph.capture import ExampleInputs, call_of, capture, quiet_torch
from bitwright.graph.free_sizes import (
    WRONG_SIZE,
    differ,
    least_step,
    resize_free,
    takes_free_images,
)
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.working_copy import make_working_copy

SIZES = "height and width"


def capture_free(model: nn.Module, example: ExampleInputs, answer: str = "") -> ModelGraph:
    """The network with free heights and widths; with fixed ones, and the reason, where not.

    Tried before any work is spent: the network runs on larger images, and both its graph and a
    float ONNX file of it must give what it gives there.
    """
    try:
        graph = capture(model, example, free_sizes=True, answer=answer)
    except CaptureError:
        # What this one raises is not about sizes.
        graph = capture(model, example, answer=answer)
        return _add_note(graph, f"{SIZES} stay fixed: torch.export follows the network only so.")
    if not takes_free_images(graph.inputs):
        return _add_note(graph, _explain_fixed(graph))
    found = _obstacle(model, graph, example)
    if isinstance(found, str):
        return _add_note(capture(model, example, answer=answer), f"{SIZES} stay fixed: {found}")
    steps = f" in steps of {found} pixels" if found > 1 else ""
    fixed = [s.label for s in graph.inputs if len(s.shape) == 4 and None not in s.shape[2:]]
    but = f", but those of {', '.join(fixed)}" if fixed else ""
    return _add_note(graph, f"{SIZES} are free{steps}{but}: tried on larger images.")


def _add_note(graph: ModelGraph, text: str) -> ModelGraph:
    return replace(graph, notes=(*graph.notes, Note("--dynamic", text)))


def _explain_fixed(graph: ModelGraph) -> str:
    images = [s for s in graph.inputs if len(s.shape) == 4 and s.dtype.is_floating_point]
    if not images:
        return "no input is a batch of images, so there is no height or width to be free."
    height, width = images[0].shape[2:]
    return (
        f"{SIZES} stay {height} x {width}: the network computes with the size of its images as a "
        "constant (a linear layer over all pixels, a table of positions)."
    )


def _obstacle(model: nn.Module, graph: ModelGraph, example: ExampleInputs) -> str | int:
    """Why sizes are not free after all, or the step in which they are."""
    model, _ = make_working_copy(model)
    leaves, form = pytree.tree_flatten(call_of(model, example))

    def call(network: nn.Module, values: list[Any]) -> Any:
        args, keywords = pytree.tree_unflatten(values, form)
        with torch.no_grad(), quiet_torch():
            return network(*args, **keywords)

    step = least_step(partial(call, model), graph.inputs, leaves)
    if not step:
        return "the network itself refuses images that are larger by 1 to 32 pixels."
    larger = resize_free(graph.inputs, leaves, step)
    expected = call(model, larger)
    try:
        got = call(graph.module, larger)
    except WRONG_SIZE as error:
        return f"its graph takes no other size ({first_line(error)})."
    if differ(expected, got):
        return "at another size its graph gives other answers than the network."
    return _obstacle_of_file(graph, _tensors(leaves), _tensors(larger), expected) or step


def _tensors(leaves: list[Any]) -> tuple[Tensor, ...]:
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def _obstacle_of_file(
    graph: ModelGraph, example: tuple[Tensor, ...], larger: tuple[Tensor, ...], expected: Any
) -> str | None:
    """Why a float ONNX file of the network takes no other size, or None."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        try:
            export_onnx(graph, graph.module, tuple(t[:2] for t in example), path)
            results = run(session(path, optimized=False), feed_of(graph.inputs, larger))
        except (CaptureError, *RUNTIME_ERRORS) as error:
            return f"no ONNX file of it takes another size ({first_line(error)})."
    if differ(expected, [torch.from_numpy(value) for value in results]):
        return "at another size an ONNX file of it gives other answers."
    return None
