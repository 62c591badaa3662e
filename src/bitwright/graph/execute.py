"""Running a captured graph node by node: bind inputs, watch any edge, free what is dead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from bitwright.errors import DataError
from bitwright.graph.model_graph import InputSpec, ModelGraph

Inputs = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
Visit = Callable[[fx.Node, Any], None]
# A batch as the graph's flat inputs, and what opens a pass over many.
Flat = tuple[Any, ...]
Open = Callable[[], Iterator[Flat]]
NodeValues = dict[fx.Node, Any]
Evaluate = Callable[[fx.Node, NodeValues], Any]
Edit = Callable[[fx.Node, Any], Any]


def channels_last(tensor: Tensor) -> Tensor:
    """The same values in channels_last where that is defined (four dimensions)."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def bind(graph: ModelGraph, inputs: Inputs, place: str = "the data") -> tuple[Any, ...]:
    """Check a batch against what the network takes and flatten it to the graph's inputs.

    Raises:
        DataError: a missing or surplus tensor, or one of the wrong type or shape; the message says
            what the network expects.
    """
    tensors = _order_tensors(graph, inputs, place)
    for spec, tensor in zip(graph.inputs, tensors, strict=True):
        _check_tensor(spec, tensor, graph, place)
    values = iter(channels_last(t) if t.dim() == 4 else t for t in tensors)
    named = {spec.name for spec in graph.inputs}
    placeholders = [n for n in graph.module.graph.nodes if n.op == "placeholder"]
    return tuple(next(values) if n.target in named else None for n in placeholders)


def _describe_inputs(graph: ModelGraph) -> str:
    return "; ".join(str(spec) for spec in graph.inputs)


def _order_tensors(graph: ModelGraph, inputs: Inputs, place: str) -> list[Tensor]:
    names = [spec.name for spec in graph.inputs]
    if isinstance(inputs, Mapping):
        missing = [n for n in names if n not in inputs]
        if missing:
            raise DataError(
                f"{place}: a batch lacks the input {missing[0]!r} (it has "
                f"{sorted(inputs)}). The network expects {_describe_inputs(graph)}."
            )
        return [inputs[n] for n in names]
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if len(inputs) != len(names):
        raise DataError(
            f"{place}: a batch has {len(inputs)} input tensors, the network takes {len(names)}. "
            f"It expects {_describe_inputs(graph)}."
        )
    return list(inputs)


def _check_tensor(spec: InputSpec, tensor: Tensor, graph: ModelGraph, place: str) -> None:
    fits = tensor.dim() == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, tensor.shape, strict=False)
    )
    if not fits:
        raise DataError(
            f"{place}: a batch has shape {list(tensor.shape)} for the input {spec.label!r}. The "
            f"network expects {_describe_inputs(graph)}. Resize or reorder the data (N is the "
            "batch), or set example_inputs on the network to the shape you mean."
        )
    if tensor.dtype != spec.dtype:
        raise DataError(
            f"{place}: a batch has type {str(tensor.dtype).removeprefix('torch.')} for the input "
            f"{spec.label!r}. The network expects {_describe_inputs(graph)}. Convert it first."
        )
    if spec.rows is not None and tensor.numel():
        low, high = (int(value) for value in tensor.aminmax())
        if low < 0 or high >= spec.rows:
            raise DataError(
                f"{place}: the input {spec.label!r} holds {low if low < 0 else high}, but it is an "
                f"index into a table of {spec.rows} rows (0 to {spec.rows - 1}). Do the tokens "
                "come from this network's own tokenizer?"
            )


@contextlib.contextmanager
def blame_batch(flat: tuple[Any, ...]) -> Iterator[None]:
    """A network that fails on a batch, though it ran on the example inputs: tell of the batch.

    Raises:
        DataError: in place of what torch says; a lack of memory is left as it is.
    """
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if "allocat" in str(error) or "memory" in str(error):
            raise
        given = type_names(t for t in flat if isinstance(t, Tensor))
        first = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"the network fails on a batch of {given}: {type(error).__name__}: {first[:200]}. It "
            "ran on the example inputs, so these lie beyond what it takes: a text longer than its "
            "table of positions, an index outside a table, a size that it cannot divide. Shorten, "
            "resize or leave out such samples."
        ) from error


def run(graph: ModelGraph, inputs: tuple[Any, ...], visit: Visit | None = None) -> Any:
    """Run the graph on bound inputs; `visit` sees every value as it is made; return the output.

    Each value is dropped after its last use, so memory is that of the widest cut of the graph.
    """
    return walk(graph.module, inputs, visit)


def walk(
    module: fx.GraphModule,
    inputs: tuple[Any, ...],
    visit: Visit | None = None,
    edit: Edit | None = None,
) -> Any:
    """As `run`, for any GraphModule; `edit` may put another value in place of a node's own."""
    given = iter(inputs)

    def evaluate(node: fx.Node, values: NodeValues) -> Any:
        value = compute(module, node, values, given)
        return edit(node, value) if edit and node.op != "output" else value

    value: Any = None
    with torch.no_grad():
        for node, value in interpret(module.graph.nodes, {}, evaluate):
            if visit and node.op != "get_attr":
                visit(node, value)
    return value


def interpret(
    nodes: Iterable[fx.Node],
    values: NodeValues,
    evaluate: Evaluate,
    keep: Container[fx.Node] = (),
) -> Iterator[tuple[fx.Node, Any]]:
    """The one loop over a graph: each node's value, in order, as it is made.

    A value is dropped after its last use, so memory is that of the widest cut of the graph.

    Args:
        nodes: what to compute, in order.
        values: what is there already; what is made comes in.
        evaluate: a node's value from those that it reads.
        keep: nodes whose values are not dropped.
    """
    nodes = tuple(nodes)
    last = last_uses(nodes)
    for node in nodes:
        values[node] = evaluate(node, values)
        yield node, values[node]
        for dead in last.get(node, ()):
            if dead not in keep:
                values.pop(dead, None)


def compute(
    module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any], given: Iterator[Any]
) -> Any:
    """The value of one node from the values of its inputs; of the output what it returns."""
    if node.op == "placeholder":
        return next(given)
    if node.op == "output":
        return fx.map_arg(node.args[0], values.__getitem__)
    if node.op == "get_attr":
        value: Any = module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value
    args = fx.map_arg(node.args, values.__getitem__)
    kwargs = fx.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_function":
        assert callable(node.target)
        return node.target(*args, **kwargs)
    assert node.op == "call_method"
    return getattr(args[0], str(node.target))(*args[1:], **kwargs)


def last_uses(nodes: Iterable[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values that nobody needs after it."""
    seen: set[fx.Node] = set()
    last: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(list(nodes)):
        for used in (*node.all_input_nodes, node):
            if used not in seen:
                seen.add(used)
                last.setdefault(node, []).append(used)
    return last


def outputs_of(graph: ModelGraph, result: Any) -> Any:
    """Shape a flat result as the user's network returns it."""
    spec = getattr(graph.module.graph._codegen, "pytree_info", None)
    return result if spec is None else pytree.tree_unflatten(pytree.tree_leaves(result), spec[2])


def type_names(tensors: Iterable[Tensor]) -> str:
    """`float32 [2, 3, 8, 8]; int64 [2, 7]`."""
    return "; ".join(f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in tensors)


def first_tensor(result: Any) -> Tensor:
    """The output that metrics read: `logits` where there is one, else the first float tensor."""
    logits = result.get("logits") if isinstance(result, Mapping) else None
    if isinstance(logits, Tensor):
        return logits
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point:
            return leaf
    raise DataError("the network returns no float tensor, so there is nothing to compare.")


def class_rows(outputs: Tensor) -> Tensor:
    """Outputs as rows of class scores, whatever their rank (axis 1 of images, else the last)."""
    if outputs.dim() == 4:
        outputs = outputs.permute(0, 2, 3, 1)
    return outputs.reshape(-1, outputs.shape[-1]) if outputs.dim() else outputs.reshape(1, 1)
