"""model.onnx of a run: the graph of the file that the network was read from, or an export."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bitwright.engine.files import write_atomically
from bitwright.engine.progress import Progress
from bitwright.export.onnx_file import export_onnx
from bitwright.export.own_graph import OwnGraph, outputs_agree, quantize_own_graph
from bitwright.export.own_values import OwnGraphRefusal
from bitwright.export.runtime import RUNTIME_ERRORS, feed_of, first_line, run, session
from bitwright.graph.execute import walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.graph.target import Target
from bitwright.sources.onnx_in.imported import ImportedModel

UNITS = "bitwright.units"
# Between a file and the simulation on a few samples: roundings that fall on other sides, no more.
_CLOSE = 0.02


def write_model(
    graph: ModelGraph,
    marked: fx.GraphModule,
    example: tuple[Tensor, ...],
    path: Path,
    target: Target,
    opset: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write the simulated network, stitched with marks, as standard ONNX.

    A network that was read from an ONNX file is written into that file's own graph. Where the run
    changed more than that graph can hold it is exported like a network of torch, and why is told.

    Raises:
        CaptureError: torch.onnx cannot translate an operator of the network.
        RecipeError: the opset is too low for the types or the operators.
    """
    told = progress or Progress()
    origin = graph.interface.origin if graph.interface is not None else None
    if isinstance(origin, ImportedModel):
        try:
            made = quantize_own_graph(origin.original, origin.places, graph, marked, target, opset)
            content = _content_of(made)
            _try(content, graph, marked, example)
        except OwnGraphRefusal as error:
            told.note(
                "export",
                f"model.onnx is not {origin.path.name}'s own graph but a new one: {error}.",
            )
        else:
            for note in made.notes:
                told.note("export", f"{origin.path.name}: {note}.")
            write_atomically(path, content)
            return
    export_onnx(graph, marked, example, path, target, opset)


def _content_of(made: OwnGraph) -> bytes:
    """The file with the places of its units in its metadata, beside what the user's file says."""
    properties = {entry.key: entry.value for entry in made.model.metadata_props}
    properties[UNITS] = json.dumps(made.units, separators=(",", ":"))
    onnx.helper.set_model_props(made.model, properties)
    if made.model.ByteSize() >= (1 << 31):
        raise OwnGraphRefusal("it would hold more than 2 GB")
    content: bytes = made.model.SerializeToString()
    return content


def _try(
    content: bytes, graph: ModelGraph, marked: fx.GraphModule, example: tuple[Tensor, ...]
) -> None:
    """Run the file on a few samples beside the simulation.

    Raises:
        OwnGraphRefusal: ONNX Runtime refuses it, or it computes something else.
    """
    try:
        got = run(session(content, optimized=False), feed_of(graph.inputs, example))
    except RUNTIME_ERRORS as error:
        raise OwnGraphRefusal(f"ONNX Runtime refuses it: {first_line(error)}") from error
    with torch.no_grad():
        leaves = [v for v in pytree.tree_leaves(walk(marked, example)) if isinstance(v, Tensor)]
    if len(leaves) != len(got) or not outputs_agree(leaves, got, _CLOSE):
        raise OwnGraphRefusal("what the run changed beside its weights is not in it")
