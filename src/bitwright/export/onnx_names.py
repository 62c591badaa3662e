"""Names that people meet in a file: its outputs, and the free axes of its inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx

from bitwright.graph.model_graph import InputSpec

BATCH, LENGTH, HEIGHT, WIDTH = "batch", "length", "height", "width"
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
AxisPlaces = dict[str, tuple[str, str]]


def name_outputs(model: onnx.ModelProto, names: Sequence[str], units: AxisPlaces) -> AxisPlaces:
    """Give the outputs of a file their names; whatever else has one of them gets another.

    An input keeps its own name: an output that has it too is told apart by `_output`.

    Returns:
        The values of the units (`onnx_file.OnnxFile.units`) by their names of now.
    """
    _part_equal_outputs(model.graph)
    inputs = {value.name for value in model.graph.input}
    wanted = [f"{name}_output" if name in inputs else name for name in names]
    renamed = {value.name: name for value, name in zip(model.graph.output, wanted, strict=True)}
    taken = set(_names(model.graph))
    for name in sorted(taken & set(wanted) - set(renamed)):
        renamed[name] = _fresh(name, taken | set(wanted))
        taken.add(renamed[name])
    _rename(model.graph, renamed)
    return {
        unit: (renamed.get(start, start), renamed.get(end, end))
        for unit, (start, end) in units.items()
    }


def _part_equal_outputs(graph: onnx.GraphProto) -> None:
    """One value may be several of the network's outputs; in a file each is a value of its own."""
    seen: set[str] = set()
    for value in graph.output:
        source = value.name
        if source in seen:
            value.name = _fresh(source, {*_names(graph), *seen})
            graph.node.append(onnx.helper.make_node("Identity", [source], [value.name], value.name))
        seen.add(value.name)


def _fresh(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its operators (branches and loops)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from _graphs(inner)


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for part in _graphs(graph):
        for node in part.node:
            yield from node.output
        for value in (*part.initializer, *part.input, *part.output):
            yield value.name


def _rename(graph: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    for part in _graphs(graph):
        for node in part.node:
            for places in (node.input, node.output):
                for index, name in enumerate(places):
                    places[index] = renamed.get(name, name)
        for value in (*part.initializer, *part.input, *part.output, *part.value_info):
            value.name = renamed.get(value.name, value.name)


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
