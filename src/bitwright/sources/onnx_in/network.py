"""From the plain form of a file to a network of torch, each part named by its node."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitwright.graph.opaque import onnx_value
from bitwright.sources.onnx_in.entry import Call, Operator
from bitwright.sources.onnx_in.fuse import DOMAIN
from bitwright.sources.onnx_in.names import identifiers
from bitwright.sources.onnx_in.parts import NO_TENSORS, SIZED_BY_DATA, PartNode, is_traced
from bitwright.sources.onnx_in.plain_form import Array, Op, PlainForm
from bitwright.sources.onnx_in.table import attributes_of, entry_of
from bitwright.sources.onnx_in.values import Constant, OnnxValue, as_tensor

# What the stored inputs of an operator are called; the first of them is what is quantised.
_LEAVES: Mapping[str, tuple[str, ...]] = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "Linear": ("", "weight", "bias"),
    "MatMul": ("left", "weight"),
    "Gather": ("weight", ""),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "LayerNormalization": ("", "weight", "bias"),
    "LayerNorm": ("", "weight", "bias"),
    "InstanceNormalization": ("", "weight", "bias"),
    "GroupNormalization": ("", "weight", "bias"),
}
_TURNED = ("Linear", "MatMul", "Gemm")


class OnnxNode(nn.Module):
    """One operator of the table in use, with its constants as parameters or buffers."""

    def __init__(self, op: Op, entry: Operator, call: Call, slots: list[Slot]) -> None:
        super().__init__()
        self.op, self.entry, self.call, self.slots = op, entry, call, slots
        for slot in slots:
            if slot.tensor is None:
                continue
            if slot.is_parameter:
                self.register_parameter(slot.leaf, nn.Parameter(slot.tensor, requires_grad=False))
            else:
                self.register_buffer(slot.leaf, slot.tensor)

    def __deepcopy__(self, memo: object) -> OnnxNode:
        """Itself: it holds nothing that is ever changed."""
        return self

    def forward(self, *given: OnnxValue) -> Any:
        """The operator's results; named as the file does where torch.export looks on."""
        values = iter(given)
        full: list[OnnxValue] = []
        for slot in self.slots:
            if slot.array is not None:
                full.append(Constant(slot.array, getattr(self, slot.leaf)))
            else:
                full.append(next(values) if slot.is_value else None)
        made = self.entry.compute(self.call, *full)
        if not isinstance(made, tuple):
            return _named(made, self.op.outputs[0])
        return tuple(_named(v, n) for v, n in zip(made, self.op.outputs, strict=False))


def _named(value: Any, name: str) -> Any:
    return onnx_value(value, name) if is_traced(value) else value


@dataclass(frozen=True, eq=False)
class Slot:
    """One input of an operator: a value that is given, a constant that it holds, or nothing."""

    leaf: str = ""
    is_value: bool = False
    array: Array | None = None
    tensor: Tensor | None = None
    is_parameter: bool = False


@dataclass
class Constants:
    """Constants as tensors, each one once: who reads the same numbers shares them."""

    form: PlainForm
    made: dict[tuple[str, bool], Tensor] = field(default_factory=dict)

    def tensor(self, name: str, turned: bool = False) -> Tensor:
        """A constant's tensor, or that of its transpose."""
        base = self.form.turned.get(name) if turned else None
        key = (base, False) if base else (name, turned)
        if key not in self.made:
            array = self.form.constants[key[0]]
            own = torch.from_numpy(array.copy() if not turned or base else array.T.copy())
            self.made[key] = own
        return self.made[key]


def make_node(form: PlainForm, op: Op, store: Constants, batch: int = 0) -> OnnxNode | None:
    """The operator in use, or None where the table does not know it in this form."""
    entry = entry_of(op.domain, op.kind)
    attributes = None if entry is None else attributes_of(entry, op.attributes)
    if entry is None or attributes is None:
        return None
    if any(_is_text(form, value) for value in op.inputs):
        return None
    turned = _is_turned(form, op, attributes)
    if turned and op.kind == "Gemm":
        attributes = {**attributes, "transB": 1}
    elif turned and op.kind == "MatMul":
        attributes = {**attributes, "held": 1}
    shape = form.shapes.get(op.outputs[0])
    declared = None if shape is None or None in shape else tuple(s for s in shape if s is not None)
    opset = 1 if op.domain == DOMAIN else form.opset
    used = max((i + 1 for i, v in enumerate(op.outputs) if v and v in form.read), default=1)
    call = Call(op.name, attributes, opset, used, declared, batch)
    leaves = _LEAVES.get(op.kind, ())
    slots = []
    for place, value in enumerate(op.inputs):
        leaf = leaves[place] if place < len(leaves) and leaves[place] else f"input_{place}"
        if value not in form.constants:
            slots.append(Slot(leaf, bool(value)))
            continue
        turn = turned and place == 1
        tensor = store.tensor(value, turn)
        is_weight = leaf in ("weight", "bias") and tensor.is_floating_point()
        slots.append(Slot(leaf, False, form.constants[value], tensor, is_weight))
    return OnnxNode(op, entry, call, slots)


def _is_text(form: PlainForm, value: str) -> bool:
    array = form.constants.get(value)
    return array is not None and array.dtype.kind not in "fiub"


def _is_turned(form: PlainForm, op: Op, attributes: Mapping[str, Any]) -> bool:
    """Whether a stored matrix [inputs, outputs] is held as [outputs, inputs]."""
    if op.kind not in _TURNED or len(op.inputs) < 2 or attributes.get("transB"):
        return False
    array = form.constants.get(op.inputs[1])
    return array is not None and array.ndim == 2 and op.inputs[0] not in form.constants


def build(
    store: Constants, file: str, opaque: frozenset[str] = frozenset(), batch: int = 0
) -> fx.GraphModule:
    """The network: a graph that calls one module an operator.

    Args:
        store: the file, and the tensors of its constants.
        file: its name, for messages.
        opaque: names of operators that are not translated.
        batch: the batch that the file fixes and that is freed; 0 where there is none.
    """
    root, graph, form = nn.Module(), fx.Graph(), store.form
    values: dict[str, fx.Node] = {}
    for value, name in zip(form.inputs, identifiers(v.name for v in form.inputs), strict=True):
        values[value.name] = graph.placeholder(name)
    for module, op_inputs, outputs in _modules(store, file, opaque, batch):
        path = _put(root, module)
        node = graph.call_module(path, tuple(values[v] for v in op_inputs))
        if len(outputs) == 1:
            values[outputs[0]] = node
            continue
        for place, value in enumerate(outputs):
            values[value] = graph.call_function(operator.getitem, (node, place))
    results = [_result(graph, root, store, values, value) for value in form.outputs]
    graph.output(results[0] if len(results) == 1 else tuple(results))
    made = fx.GraphModule(root, graph, "OnnxNetwork")
    made.eval()
    return made


def _modules(
    store: Constants, file: str, opaque: frozenset[str], batch: int
) -> Iterator[tuple[OnnxNode | PartNode, tuple[str, ...], tuple[str, ...]]]:
    """Each operator or part as (module, the values it is given, the values it gives), in order."""
    form = store.form
    tail = tail_of(form)
    gone = set(map(id, tail))
    for op in form.ops:
        if id(op) in gone:
            continue
        module = None if op.name in opaque else make_node(form, op, store, batch)
        if module is None:
            part = PartNode(form, (op,), file)
            yield part, part.inputs, part.outputs
            continue
        given = tuple(v for v, s in zip(op.inputs, module.slots, strict=True) if s.is_value)
        outputs = op.outputs[: module.call.outputs] if module.call.outputs > 1 else op.outputs[:1]
        yield module, given, _several(op, outputs)
    if tail:
        part = PartNode(form, tail, file)
        yield part, part.inputs, part.outputs


def _several(op: Op, outputs: tuple[str, ...]) -> tuple[str, ...]:
    # Split gives a tuple however many of its results are read.
    return op.outputs if op.kind == "Split" and not op.domain else outputs


def tail_of(form: PlainForm) -> tuple[Op, ...]:
    """The operators whose results have sizes that the data decide, or are no tensors, and all that
    follow them: one part that ends the network."""
    found: list[Op] = []
    behind: set[str] = set()
    for op in form.ops:
        starts = op.kind in SIZED_BY_DATA or op.kind.startswith(NO_TENSORS)
        if starts or behind & set(op.reads):
            found.append(op)
            behind.update(v for v in op.outputs if v)
    return tuple(found)


def _put(root: nn.Module, module: OnnxNode | PartNode) -> str:
    """Hang a module up under its name; under another where the path is taken."""
    name = module.op.name if isinstance(module, OnnxNode) else module.name
    path, number = name, 2
    while True:
        *owners, leaf = path.split(".")
        owner: Any = root
        for part in owners:
            if part not in owner._modules and not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
            if not isinstance(owner, nn.Module):
                break
        if isinstance(owner, nn.Module) and not hasattr(owner, leaf):
            owner.add_module(leaf, module)
            return path
        path, number = f"{name}_{number}", number + 1


def _result(
    graph: fx.Graph, root: nn.Module, store: Constants, values: dict[str, fx.Node], name: str
) -> fx.Node:
    if name in values:
        return graph.call_function(as_tensor, (values[name],))
    leaf = f"output_{len(root._buffers)}"
    root.register_buffer(leaf, store.tensor(name))
    return graph.get_attr(leaf)
