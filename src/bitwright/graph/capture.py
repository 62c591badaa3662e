"""From a network to a ModelGraph by torch.export: flat ATen operators with the user's names."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from bitwright.engine.note import Note
from bitwright.errors import CaptureError
from bitwright.graph import rules, units
from bitwright.graph.answers import answer_of
from bitwright.graph.execute import channels_last, type_names
from bitwright.graph.find_heads import Leaf, NetworkResult, find_answer
from bitwright.graph.free_sizes import is_image
from bitwright.graph.interface import Interface, interface_of
from bitwright.graph.model_graph import (
    InputSpec,
    ModelGraph,
    get_tensor,
    name_tensors,
    set_tensor,
)
from bitwright.graph.names import in_forward_order, know_dataclasses, leaf_names
from bitwright.graph.said import parse_answer
from bitwright.graph.unread import output_notes, unread_notes
from bitwright.graph.value_names import collect_names, take_names
from bitwright.graph.working_copy import make_working_copy

ExampleInputs = tuple[Tensor, ...] | Mapping[str, Tensor]

# What torch.export is known to raise for a network that it cannot follow.
_EXPORT_ERRORS = (
    RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError,
    ArithmeticError, SyntaxError, NameError,
)  # fmt: skip


def capture(
    model: nn.Module, example_inputs: ExampleInputs, free_sizes: bool = False, answer: str = ""
) -> ModelGraph:
    """Capture a network and bring it into the form that everything else works on.

    The network is exported with a dynamic batch (and, for integer inputs such as token numbers, a
    dynamic length), then rewritten by `rules.RULES`: in-place operators made functional, dropout
    and identities removed, constants folded, batch-norms folded into the layer before them.

    Args:
        model: a network; one in training mode is taken in eval mode, in a copy, with a note.
        example_inputs: a tuple of tensors, or keyword tensors; the first dimension is the batch.
        free_sizes: let height and width of images vary too, where torch.export finds that they can
            (`export.free_images` tries whether that is so).
        answer: what outputs mean, as `--answer` says it: "boxes=box, scores=scores:1".

    Returns:
        The graph; the network itself is left untouched.

    Raises:
        CaptureError: the network cannot be exported; names the user's own line and what to try.
        RecipeError: `answer` names an output that there is not, or that cannot be so.
    """
    args, kwargs = call_of(model, example_inputs)
    model, converted = make_working_copy(model)
    expected = _answers(model, args, kwargs)
    know_dataclasses(expected)
    program = _export(model, args, kwargs, free_sizes)
    module = program.module(check_guards=False) if _has_check_guards(program) else program.module()
    assert isinstance(module, fx.GraphModule)
    take_names(module)
    _drop_bookkeeping(module)
    notes, folded = rules.rewrite(module)
    flat = _tensors(args, kwargs)
    _use_channels_last(module)
    found = units.find_units(module, flat)
    interface = interface_of(model)
    inputs = _called(_input_specs(module, program, flat), interface)
    said = interface.notes if interface else _static_batch(inputs)
    notes = [*converted, *notes, *said]
    names, free = interface.outputs if interface else leaf_names(expected), _free_sizes(module)
    named = dict(zip(names, pytree.tree_leaves(expected), strict=True)) if interface else expected
    calls = {call for unit in found for call in unit.calls}
    seen = NetworkResult(_leaves(module, expected, names), flat, free, calls)
    meaning = find_answer(answer_of(named, free), seen, parse_answer(answer))
    values = collect_names(module, interface)
    graph = ModelGraph(
        module, found, inputs, folded, tuple(notes), meaning, names, interface, values
    )
    _check_same_outputs(expected, graph, args, kwargs)
    return replace(graph, notes=(*graph.notes, *unread_notes(graph), *output_notes(graph)))


def _leaves(module: fx.GraphModule, expected: Any, names: tuple[str, ...]) -> tuple[Leaf, ...]:
    """The leaves of a network's result, each with the node that makes it."""
    result = next(n for n in module.graph.nodes if n.op == "output").args[0]
    nodes, values = pytree.tree_leaves(result), pytree.tree_leaves(expected)
    parts = zip(names, values, nodes, strict=True)
    return tuple(Leaf(name, i, value, node) for i, (name, value, node) in enumerate(parts))


def _free_sizes(module: fx.GraphModule) -> frozenset[int]:
    """The places of outputs whose size the values decide, as the boxes that a filter lets pass."""
    result = next(n for n in module.graph.nodes if n.op == "output").args[0]
    values = [getattr(leaf, "meta", {}).get("val") for leaf in pytree.tree_leaves(result)]
    return frozenset(
        place
        for place, value in enumerate(values)
        if isinstance(value, Tensor) and free_unbacked_symbols(value)
    )


def _use_channels_last(module: fx.GraphModule) -> None:
    """Put 4-d weights into channels_last: convolutions then keep that layout from end to end."""
    for target, tensor in name_tensors(module).items():
        set_tensor(module, target, channels_last(tensor))


def call_of(model: nn.Module, example: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, object]]:
    """The arguments and keywords with which an example is given to forward(), two samples each."""
    interface = interface_of(model)
    if interface and interface.batch:  # it takes no other number of samples
        if isinstance(example, Mapping):
            return (), dict(in_forward_order(model, example))
        return (example,) if isinstance(example, Tensor) else tuple(example), {}
    if isinstance(example, Mapping):
        return (), pytree.tree_map(_at_least_two, in_forward_order(model, example))
    args = (example,) if isinstance(example, Tensor) else tuple(example)
    return pytree.tree_map(_at_least_two, args), {}


def _at_least_two(value: Any) -> Any:
    # torch.export takes a dimension of size one as a constant, so show it two samples.
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == 1:
        return torch.cat([value, value])
    return value


def _dynamic(value: Any, free_sizes: bool) -> Any:
    if not isinstance(value, Tensor) or not value.dim():
        return None
    tokens = not value.dtype.is_floating_point and value.dim() == 2
    axes = (0, 1) if tokens else (0, 2, 3) if free_sizes and is_image(value) else (0,)
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


def _export(
    model: nn.Module, args: Any, kwargs: Any, free_sizes: bool
) -> torch.export.ExportedProgram:
    shapes = pytree.tree_map(partial(_dynamic, free_sizes=free_sizes), (args, kwargs))
    dynamic = shapes[1] if kwargs and not args else shapes[0]
    try:
        with quiet_torch(), torch.no_grad():
            program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
            if rules.needs_functional_form(program.graph):
                program = program.run_decompositions({})
            return program
    except _EXPORT_ERRORS as error:
        raise CaptureError(explain(model, error)) from error


def _answers(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """The network's own answers on the example inputs."""
    try:
        with torch.no_grad(), quiet_torch():
            return model(*args, **kwargs)
    except _EXPORT_ERRORS as error:
        raise CaptureError(_refuse_example(model, error, _tensors(args, kwargs))) from error


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]


def _has_check_guards(program: torch.export.ExportedProgram) -> bool:
    return "check_guards" in program.module.__code__.co_varnames


@contextlib.contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep torch's own warnings, log lines and progress texts out of the user's terminal."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def explain(model: nn.Module, error: BaseException) -> str:
    """Say where in the user's own code the export stopped, why in plain words, and what to try."""
    cause, remedy = _cause(str(error))
    return (
        f"cannot capture the network {type(model).__name__}.\n"
        f"  where:  {_where(error)}\n"
        f"  cause:  {cause}\n"
        f"  torch:  {_first_line(error)}\n"
        f"  remedy: {remedy}"
    )


def _refuse_example(model: nn.Module, error: BaseException, tensors: list[Tensor]) -> str:
    """A network that fails on the example inputs even without torch.export: say what it was fed."""
    return (
        f"cannot run the network {type(model).__name__} on the example inputs (those that it "
        "carries, else the first batch of the data).\n"
        f"  inputs: {type_names(tensors)}\n"
        f"  where:  {_where(error)}\n"
        f"  torch:  {_first_line(error)}\n"
        f"  remedy: {_misfit(str(error).lower(), tensors)}"
    )


def _misfit(lowered: str, tensors: list[Tensor]) -> str:
    """What to try where inputs and network do not fit together."""
    whole = [t.dtype for t in tensors if not t.is_floating_point()]
    if "index out of range" in lowered:
        return (
            "a number among the inputs lies outside the network's table: check that the tokens "
            "come from this network's own tokenizer."
        )
    if "unexpected keyword" in lowered or "positional argument" in lowered:
        return "give example_inputs as a tuple in forward()'s order, or as a dict of its keywords."
    if any(word in lowered for word in ("should be the same", "same dtype", "scalar type")):
        if whole:
            return (
                "turn the samples into floating numbers, scaled as in training (for bytes often "
                "x.float() / 255, then mean and standard deviation)."
            )
        return "call .float() on the network, and take conversions to other types out of forward()."
    return (
        "check number, order and shape of the inputs. The first dimension of each counts the "
        "samples: one colour picture is [1, 3, height, width]."
    )


def _where(error: BaseException) -> str:
    place = user_frame(error)
    return f"{place.filename}, line {place.lineno}: {place.line}" if place else "no user line known"


def _first_line(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return next((line for line in text.splitlines() if line.strip()), text)[:200]


def user_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame that is neither torch's, nor ours, nor the standard library's."""
    ours = str(Path(__file__).parents[1])
    foreign = (str(Path(torch.__file__).parent), ours, str(Path(traceback.__file__).parent))
    packages = tuple(p for p in sys.path if p.endswith("site-packages"))
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith("<")
        and not f.filename.startswith(foreign[:2])
        and (not f.filename.startswith(foreign[2]) or f.filename.startswith(packages))
    ]
    return frames[-1] if frames else None


def _cause(text: str) -> tuple[str, str]:
    """Plain words for the ways in which a network is commonly not exportable."""
    lowered = text.lower()
    data_dependent = ("data-dependent", "data dependent", "guardondatadependent", "unbacked")
    if any(word in lowered for word in data_dependent) or ".item()" in lowered:
        return (
            "the path through the network depends on the values of its input (an if, a loop or an "
            "index that reads a tensor), so it has no fixed graph.",
            "replace the branch by torch.where or torch.cond, or move it out of forward().",
        )
    if "numpy" in lowered:
        return (
            "the network leaves torch for numpy.",
            "use the torch function of the same name instead.",
        )
    return (
        "torch.export cannot follow this line.",
        "run torch.export.export(model, example_inputs, strict=False) alone to see all of torch's "
        "message, and rewrite that line in plain tensor operations.",
    )


_CHECKS = ("aten._assert_", "aten.sym_constrain_", "aten._check")


def _drop_bookkeeping(module: fx.GraphModule) -> None:
    """Drop what only checks or counts: guards, assertions on types and sizes."""
    for node in reversed(list(module.graph.nodes)):
        checks = str(node.target).startswith(_CHECKS) and not node.users
        if node.op == "call_module" or checks:
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _input_specs(
    module: fx.GraphModule, program: torch.export.ExportedProgram, flat: list[Tensor]
) -> tuple[InputSpec, ...]:
    # By target, not by name: fx renames a node that is called as a builtin is, such as `input`.
    nodes = {str(n.target): n for n in module.graph.nodes if n.op == "placeholder"}
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    specs = []
    tensors = iter(flat)
    for name, node in nodes.items():
        value = values.get(name)
        if not isinstance(value, Tensor):
            continue
        example = next(tensors)
        shape = tuple(
            size if _is_constant(dim) else None
            for dim, size in zip(value.shape, example.shape, strict=True)
        )
        specs.append(InputSpec(name, shape, example.dtype, _count_rows_indexed(module, node)))
    return tuple(specs)


def _count_rows_indexed(module: fx.GraphModule, node: fx.Node) -> int | None:
    """How many rows the smallest table has that a network's input looks into directly."""
    tables = [
        get_tensor(module, str(user.args[0].target))
        for user in node.users
        if user.target is torch.ops.aten.embedding.default
        and user.args[1] is node
        and isinstance(user.args[0], fx.Node)
        and user.args[0].op == "get_attr"
    ]
    return min((len(t) for t in tables), default=None)


def _called(inputs: tuple[InputSpec, ...], interface: Interface | None) -> tuple[InputSpec, ...]:
    """The inputs with the names that a file has for them."""
    if interface is None:
        return inputs
    return tuple(
        replace(spec, called=name) for spec, name in zip(inputs, interface.inputs, strict=True)
    )


def _is_constant(size: int | torch.SymInt) -> bool:
    """Whether a dimension is a number, or a symbol that torch made a number while exporting."""
    return isinstance(size, int) or size.node.maybe_as_int() is not None


def _static_batch(inputs: tuple[InputSpec, ...]) -> tuple[Note, ...]:
    fixed = [spec for spec in inputs if spec.shape and spec.shape[0] is not None]
    return tuple(
        Note(
            spec.name,
            f"the batch is fixed at {spec.shape[0]}: the network computes with the batch size as a "
            f"constant. Give --batch {spec.shape[0]} and a number of samples that it divides.",
        )
        for spec in fixed
    )


def _check_same_outputs(expected: Any, graph: ModelGraph, args: Any, kwargs: Any) -> None:
    """The captured and rewritten graph must compute what the network does, on the example."""
    with torch.no_grad(), quiet_torch():
        actual = pytree.tree_leaves(graph.module(*args, **kwargs))
    pairs = [
        (e, a)
        for e, a in zip(pytree.tree_leaves(expected), actual, strict=False)
        if isinstance(e, Tensor) and isinstance(a, Tensor)
    ]
    for position, (want, got) in enumerate(pairs):
        if want.shape != got.shape:
            raise CaptureError(
                f"output {position} of the captured network has shape {tuple(got.shape)}, the "
                f"network's own {tuple(want.shape)}: please report this network."
            )
        if not want.dtype.is_floating_point or not want.numel():
            continue
        scale = want.abs().max().clamp_min(1e-6)
        difference = ((want - got).abs().max() / scale).item()
        if not difference <= 1e-3:
            raise CaptureError(
                f"output {position} of the captured network differs from the network's own by "
                f"{difference:.2g} relative: is its forward() random, or does it change its own "
                "buffers? A network must give the same output for the same input."
            )
