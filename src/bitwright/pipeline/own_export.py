"""The user's own ONNX export of a PyTorch network: which of its values and nodes are the network's.

Both are captured and run on the same few samples; values that are numerically the same are the
same value. So the export may be of any exporter, with names and operators of its own, as long as
what the run quantises is there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx

from bitwright.errors import ModelError
from bitwright.graph.capture import ExampleInputs, capture
from bitwright.graph.execute import bind, walk
from bitwright.graph.model_graph import ModelGraph
from bitwright.sources.onnx_in.imported import ImportedModel, UnitPlace, load_onnx

# Of a value's norm: what two orders of summation leave, and far less than what two values differ.
SAME = 1e-4
_PROBES = 3

_Print = tuple[float, ...]
_Seen = tuple[tuple[int, ...], _Print]


def with_own_export(graph: ModelGraph, example: ExampleInputs, path: Path) -> ModelGraph:
    """The network with the places of its values and units in the user's own export of it.

    A solution is then written into that file (`own_file.write_model`).

    Args:
        graph: the captured network.
        example: a few samples of its inputs.
        path: the export.

    Raises:
        ModelError: it is no export of this network; the first unit that differs is named.
    """
    if graph.interface is not None:
        raise ModelError(
            f"--onnx {path}: MODEL is an ONNX file, which comes out itself. Leave it out."
        )
    source = load_onnx(path)
    flat = bind(graph, example)
    given = tuple(value for value in flat if isinstance(value, Tensor))
    if len(given) != len(source.example):
        raise ModelError(
            f"--onnx {path} takes {len(source.example)} inputs and the network {len(given)}: it is "
            "no export of this network."
        )
    other = capture(source.module, given)
    assert other.interface is not None
    mine, theirs = _prints(graph, flat), _prints(other, bind(other, given))
    same = _match(mine, theirs)
    for one, two in zip(graph.inputs, other.inputs, strict=True):
        same[one.name] = (two.name,)
    places = dict(_places(graph, other, same, path, source.imported))
    values = {
        name: tuple(dict.fromkeys(v for o in others for v in other.values.get(o, ())))
        for name, others in same.items()
    }
    inputs = tuple(
        replace(spec, called=name)
        for spec, name in zip(graph.inputs, other.interface.inputs, strict=True)
    )
    origin = replace(source.imported, places=places)
    interface = replace(other.interface, batch=None, origin=origin)
    return replace(
        graph, inputs=inputs, interface=interface, values={k: v for k, v in values.items() if v},
    )  # fmt: skip


def _prints(graph: ModelGraph, flat: tuple[object, ...]) -> dict[str, _Seen]:
    """Of every float value its shape, its norm and a few projections."""
    found: dict[str, _Seen] = {}

    def look(node: fx.Node, value: object) -> None:
        if isinstance(value, Tensor) and value.dtype.is_floating_point and value.numel():
            x = value.detach().double().contiguous().reshape(-1)
            generator = torch.Generator().manual_seed(x.numel())
            probes = torch.randn(_PROBES, x.numel(), generator=generator, dtype=torch.float64)
            shape = tuple(value.shape)
            found[node.name] = shape, (float(x.norm()), *(probes @ x).tolist())

    walk(graph.module, flat, look)
    return found


def _match(
    mine: Mapping[str, _Seen],
    theirs: Mapping[str, _Seen],
) -> dict[str, tuple[str, ...]]:
    """For each value all of the other network's that are numerically the same."""
    by_shape: dict[tuple[int, ...], list[tuple[str, _Print]]] = defaultdict(list)
    for name, (shape, print_) in theirs.items():
        by_shape[shape].append((name, print_))
    found = {}
    for name, (shape, own) in mine.items():
        bound = SAME * max(own[0], 1e-12)
        found[name] = tuple(
            other
            for other, print_ in by_shape.get(shape, ())
            if all(abs(a - b) <= bound for a, b in zip(own, print_, strict=True))
        )
    return found


def _places(
    graph: ModelGraph,
    other: ModelGraph,
    same: Mapping[str, tuple[str, ...]],
    path: Path,
    imported: ImportedModel,
) -> Iterator[tuple[str, tuple[UnitPlace, ...]]]:
    """Where each unit is in the export, call by call.

    Raises:
        ModelError: one is not there.
    """
    calls = {
        call: imported.places[unit.name][index]
        for unit in other.units
        for index, call in enumerate(unit.calls)
        if index < len(imported.places.get(unit.name, ()))
    }
    taken: set[str] = set()
    for unit in graph.units:
        found = []
        for call in unit.calls:
            fitting = [o for o in same.get(call, ()) if o in calls and o not in taken]
            if not fitting:
                raise ModelError(
                    f"--onnx {path} is no export of this network: nothing in it computes what "
                    f"{unit.name} ({unit.kind}) does. Export the network once more, in eval mode "
                    "and with its present weights."
                )
            taken.add(fitting[0])
            found.append(calls[fitting[0]])
        yield unit.name, tuple(found)
