"""What a graph must be before anything is made of it: each fault in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

from bitwright.errors import ModelError

# The opsets whose operators are known here.
LEAST, MOST = 7, 26
STANDARD = ("", "ai.onnx")
_QUANTISED = {
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "DynamicQuantizeLinear", "QLinearAdd", "QAttention", "QGemm",
}  # fmt: skip
_DEEPEST = 20


def opset_of(model: onnx.ModelProto, name: str) -> int:
    """The version of the standard operators that a file uses.

    Raises:
        ModelError: it says none, or one that is not known here.
    """
    found = [entry.version for entry in model.opset_import if entry.domain in STANDARD]
    if not found:
        raise ModelError(
            f"MODEL {name!r} does not say which opset its operators are of. Export it again."
        )
    if not LEAST <= found[0] <= MOST:
        remedy = (
            "Export it with a lower opset."
            if found[0] > MOST
            else "Export it again, or raise it by onnx.version_converter."
        )
        raise ModelError(
            f"MODEL {name!r} is of opset {found[0]}; opsets {LEAST} to {MOST} are read. {remedy}"
        )
    return int(found[0])


def check_graph(model: onnx.ModelProto, name: str) -> None:
    """Names, order and interface of a graph.

    Raises:
        ModelError: two values of one name, a value that nobody makes, operators in a circle, no
            output, or a file that is quantised already.
    """
    graph = model.graph
    if not graph.output:
        raise ModelError(f"MODEL {name!r} has no output, so it computes nothing. Export it again.")
    quantised = next((n for n in graph.node if n.op_type in _QUANTISED), None)
    if quantised is not None:
        raise ModelError(
            f"MODEL {name!r} is quantised already: it has the operator {quantised.op_type} "
            f"({quantised.name!r}). Give the float file that it was made from."
        )
    made = _check_single(graph, name)
    for node in graph.node:
        missing = next((v for v in reads(node) if v not in made), None)
        if missing is not None:
            raise ModelError(
                f"MODEL {name!r}: the node {node.name!r} ({node.op_type}) reads {missing!r}, which "
                "nothing in the file makes. Export it again."
            )
    lost = next((o.name for o in graph.output if o.name not in made), None)
    if lost is not None:
        raise ModelError(
            f"MODEL {name!r}: its output {lost!r} is made by no operator. Export it again."
        )


def _check_single(graph: onnx.GraphProto, name: str) -> set[str]:
    """The names of all values; each has one maker."""
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    made = stored | {value.name for value in graph.input}
    for node in graph.node:
        for value in filter(None, node.output):
            if value in made:
                raise ModelError(
                    f"MODEL {name!r}: the value {value!r} is made twice, the second time by the "
                    f"node {node.name!r} ({node.op_type}). Export it again."
                )
            made.add(value)
    return made


def reads(node: onnx.NodeProto, depth: int = 0) -> list[str]:
    """The values that a node reads, those that the graphs inside of it read from outside too."""
    found = [value for value in node.input if value]
    for graph in inner_graphs(node):
        if depth > _DEEPEST:
            raise ModelError(
                f"the node {node.name!r} ({node.op_type}) holds graphs nested more than {_DEEPEST} "
                "deep, which are not read."
            )
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        for inner in graph.node:
            found += [value for value in reads(inner, depth + 1) if value not in own]
            own.update(inner.output)
        found += [value.name for value in graph.output if value.name not in own]
    return list(dict.fromkeys(found))


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches and bodies inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def in_order(
    nodes: Iterable[onnx.NodeProto], known: Iterable[str], name: str
) -> list[onnx.NodeProto]:
    """The nodes so that each comes after what it reads, else in the order of the file.

    Raises:
        ModelError: some read each other in a circle.
    """
    waiting = list(nodes)
    there = set(known)
    done: list[onnx.NodeProto] = []
    needs = [set(reads(node)) for node in waiting]
    while waiting:
        left: list[onnx.NodeProto] = []
        left_needs: list[set[str]] = []
        for node, need in zip(waiting, needs, strict=True):
            if need <= there:
                done.append(node)
                there.update(node.output)
            else:
                left.append(node)
                left_needs.append(need)
        if len(left) == len(waiting):
            node = left[0]
            raise ModelError(
                f"MODEL {name!r}: the node {node.name!r} ({node.op_type}) needs its own result: "
                f"{len(left)} operators read each other in a circle. Export it again."
            )
        waiting, needs = left, left_needs
    return done
