"""What a run must know of its file before it spends any work."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bitwright.export.onnx_file import export_onnx
from bitwright.export.opset import TRANSLATED
from bitwright.export.samples import flat_example
from bitwright.graph.model_graph import ModelGraph


def try_opset(graph: ModelGraph, example: Any, opset: int) -> None:
    """Write the float network in a low opset, which may lack one of its operators.

    Raises:
        RecipeError: naming the operator.
    """
    if 0 < opset < TRANSLATED:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "float.onnx"
            export_onnx(graph, graph.module, flat_example(graph, example), path, opset=opset)
