"""`X.onnx` -> a network of torch, and the record of what each of its parts is in the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import Tensor, fx

from bitwright.engine.note import Note
from bitwright.graph.interface import Interface, set_interface
from bitwright.sources.onnx_in.example import InputPlan, plan_inputs
from bitwright.sources.onnx_in.fold import fold
from bitwright.sources.onnx_in.fuse import fuse
from bitwright.sources.onnx_in.network import Constants, OnnxNode
from bitwright.sources.onnx_in.plain_form import Op, PlainForm, plain_form
from bitwright.sources.onnx_in.read import digest_of, read_file
from bitwright.sources.onnx_in.tried import TriedNetwork, try_network

_UNITS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Linear", "Gather")


@dataclass(frozen=True)
class UnitPlace:
    """Where a unit is in the file.

    Attributes:
        node: the node's name, or the one made for it.
        index: its place among the file's nodes; -1 where it lies inside of another.
        op: the operator.
        input, weight, bias, output: names of values; the bias is empty where there is none.
        bias_node, bias_index: the Add behind a MatMul that has the bias; empty and -1 elsewhere.
        transposed: whether the unit's weight is the transpose of the file's.
    """

    node: str
    index: int
    op: str
    input: str
    weight: str
    bias: str
    output: str
    bias_node: str = ""
    bias_index: int = -1
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A file as it was read, and what became of it.

    Attributes:
        path, digest: the file, and sha256 of it and of the files that its weights lie in.
        original: as read, all weights in memory; nothing writes to it.
        form: the plain form that the network was made of.
        inputs: what each input is like.
        places: where each unit is, by its name; several places share a weight.
        opaque: operators that ONNX Runtime runs as they are, as (name, kind).
    """

    path: Path
    digest: str
    original: onnx.ModelProto
    form: PlainForm
    inputs: tuple[InputPlan, ...]
    places: Mapping[str, tuple[UnitPlace, ...]]
    opaque: tuple[tuple[str, str], ...]

    def __deepcopy__(self, memo: object) -> ImportedModel:
        """Itself: nothing changes it."""
        return self


@dataclass(frozen=True, eq=False)
class OnnxSource:
    """A network that was made of a file.

    `example` has two samples (or the batch that the file fixes) of the shapes that it declares;
    `guessed` says which sizes it does not, so that the example's are guesses.
    """

    module: fx.GraphModule
    imported: ImportedModel
    example: tuple[Tensor, ...]
    guessed: str = ""


def load_onnx(path: Path, name: str = "") -> OnnxSource:
    """Read, check and translate a file, and compare with ONNX Runtime on numbers of its shapes.

    Raises:
        ModelError: the file is not sound, or holds what can be neither translated nor run.
    """
    name = name or str(path)
    original = read_file(path, name)
    form = fuse(fold(plain_form(original, name), name))
    plans = plan_inputs(form, name)
    tried = try_network(Constants(form), original, plans, name)
    plans = tried.plans
    imported = ImportedModel(
        path, digest_of(path, original), original, form, plans, _places(tried.module),
        tried.opaque,
    )  # fmt: skip
    notes = tuple(Note(path.name, text) for text in (*form.notes, *tried.notes))
    set_interface(
        tried.module,
        Interface(
            tuple(v.name for v in form.inputs), form.outputs, tried.batch or None, notes, imported
        ),
    )
    return OnnxSource(tried.module, imported, tried.example, _guesses(plans, tried))


def _guesses(plans: tuple[InputPlan, ...], tried: TriedNetwork) -> str:
    free = [
        f"{p.name!r} {list(t.shape[1:])}"
        for p, t in zip(plans, tried.example, strict=True)
        if p.guessed
    ]
    return ", ".join(free)


def _places(module: fx.GraphModule) -> dict[str, tuple[UnitPlace, ...]]:
    shared: dict[int, list[tuple[str, UnitPlace]]] = defaultdict(list)
    for path, part in module.named_modules():
        if not isinstance(part, OnnxNode) or part.op.kind not in _UNITS:
            continue
        weight = part._parameters.get("weight")
        if weight is not None:
            shared[weight.data_ptr()].append((path, _place(part.op, part)))
    return {found[0][0]: tuple(place for _, place in found) for found in shared.values()}


def _place(op: Op, part: OnnxNode) -> UnitPlace:
    look_up = op.kind == "Gather"
    attributes = part.call.attributes
    turned = op.kind == "Linear" or bool(attributes.get("held"))
    turned |= op.kind == "Gemm" and not op.attributes.get("transB")
    behind = op.kind == "Linear"
    return UnitPlace(
        node=op.protos[0].name or op.name,
        index=op.indices[0],
        op=op.protos[0].op_type,
        input=op.inputs[1 if look_up else 0],
        weight=op.inputs[0 if look_up else 1],
        bias=op.inputs[2] if len(op.inputs) > 2 else "",
        output=op.outputs[0],
        bias_node=op.protos[1].name if behind else "",
        bias_index=op.indices[1] if behind else -1,
        transposed=turned,
    )
