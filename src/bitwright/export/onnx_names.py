"""Names that people meet in a file: its outputs, and the free axes of its inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir

from bitwright.graph.model_graph import InputSpec

BATCH, LENGTH, HEIGHT, WIDTH = "batch", "length", "height", "width"
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the outputs of a file their names; whatever else has one of them gets another.

    An input keeps its own name: an output that has it too is told apart by `_output`.
    """
    _part_equal_outputs(graph)
    values = list(_values(graph))
    inputs = {value.name for value in graph.inputs}
    wanted = [f"{name}_output" if name in inputs else name for name in names]
    taken = {value.name for value in values}
    for value in sorted(values, key=lambda value: str(value.name)):
        if value.name in wanted and value not in set(graph.outputs):
            value.name = _fresh(value.name, taken | set(wanted))
            taken.add(value.name)
    for value, name in zip(graph.outputs, wanted, strict=True):
        value.name = name


def _part_equal_outputs(graph: ir.Graph) -> None:
    """One value may be several of the network's outputs; in a file each is a value of its own.

    (onnx-ir's OutputFixPass gives inputs that are handed through other names.)
    """
    taken = {value.name for value in _values(graph)}
    for index, value in enumerate(graph.outputs):
        if value in graph.outputs[:index]:
            name = _fresh(value.name, taken)
            taken.add(name)
            made = ir.Value(name=name, type=value.type, shape=value.shape)
            graph.append(ir.Node("", "Identity", [value], outputs=[made], name=name))
            graph.outputs[index] = made


def _fresh(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """The values of a graph and of those inside its operators (branches and loops)."""
    for part in (graph, *graph.subgraphs()):
        yield from (*part.inputs, *part.initializers.values())
        yield from (value for node in part for value in node.outputs)


def name_axes(model: onnx.ModelProto, inputs: Sequence[InputSpec]) -> None:
    """Call the free axes what they are: batch, length (of tokens), height and width (of images).

    Where two inputs are free on their own, the second's axis has the input's name before it.
    """
    symbols: dict[str, str] = {}
    for spec, value in zip(inputs, model.graph.input, strict=True):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if _SYMBOL.fullmatch(dim.dim_param) and dim.dim_param not in symbols:
                word = _word(spec, axis)
                own = f"{spec.name}_{word}" if word in symbols.values() else word
                symbols[dim.dim_param] = own
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = _SYMBOL.sub(lambda m: symbols.get(m[0], m[0]), dim.dim_param)


def _word(spec: InputSpec, axis: int) -> str:
    if axis == 0:
        return BATCH
    if len(spec.shape) == 4 and axis in (2, 3):
        return HEIGHT if axis == 2 else WIDTH
    if len(spec.shape) == 2 and not spec.dtype.is_floating_point:
        return LENGTH
    return f"axis{axis}"
