"""Whether the network that was made of a file computes what ONNX Runtime computes with the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, fx

from bitwright.errors import BitwrightError
from bitwright.graph.opaque import RUNTIME_ERRORS
from bitwright.sources.onnx_in.network import OnnxNode
from bitwright.sources.onnx_in.parts import PartNode
from bitwright.sources.onnx_in.values import OpaqueError, as_tensor

# What a network may raise on inputs that it does not take.
FAILURES: tuple[type[Exception], ...] = (
    OpaqueError, BitwrightError, AssertionError, AttributeError, KeyError, NotImplementedError,
    ArithmeticError, *RUNTIME_ERRORS,
)  # fmt: skip
# So far the network may be from the file, relative to the largest entry; with numbers of 16 bits.
CLOSE, CLOSE_SHORT = 1e-4, 2e-2


@dataclass(frozen=True)
class Failed:
    """The node at which a network stopped, and why."""

    node: str
    why: str
    is_part: bool


def run_nodes(module: fx.GraphModule, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | Failed:
    """The outputs of a network, or the first node that fails."""
    runner = _Runner(module)
    try:
        with torch.no_grad():
            made = runner.run(*inputs)
    except FAILURES as error:
        first = next(iter(str(error).strip().splitlines()), "")
        return Failed(runner.current, f"{type(error).__name__}: {first[:200]}", runner.in_part)
    return made if isinstance(made, tuple) else (made,)


class _Runner(fx.Interpreter):
    """Runs a graph and remembers where it is."""

    current = ""
    in_part = False

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.extra_traceback = False

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - fx's own
        """As fx does, noting the operator's name."""
        module = self.fetch_attr(target)
        assert isinstance(module, (OnnxNode, PartNode))
        self.current = module.op.name if isinstance(module, OnnxNode) else module.name
        self.in_part = isinstance(module, PartNode)
        return module(*args)


def run_file(
    model: onnx.ModelProto | str, inputs: Mapping[str, Tensor], extra: Sequence[str] = ()
) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of a file in ONNX Runtime without its optimisations; `extra` values too.

    Raises:
        what ONNX Runtime raises (`RUNTIME_ERRORS`).
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source: Any = model if isinstance(model, str) else _bytes_with(model, extra)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for given in session.get_inputs():
        array = inputs[given.name].contiguous().numpy()
        feeds[given.name] = array.astype(np.float16) if given.type == "tensor(float16)" else array
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _bytes_with(model: onnx.ModelProto, extra: Sequence[str]) -> bytes:
    if not extra:
        return bytes(model.SerializeToString())
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    there = {value.name for value in copied.graph.output}
    copied.graph.output.extend(onnx.ValueInfoProto(name=n) for n in extra if n not in there)
    return bytes(copied.SerializeToString())


def distance(expected: Any, got: Any) -> float:
    """The largest difference, relative to the largest entry; infinite where shapes differ."""
    want = np.asarray(expected)
    have = as_tensor(got).detach().numpy()
    if want.dtype.kind not in "fiub" and want.dtype.name != "float16":
        return 0.0
    if want.shape != have.shape:
        return float("inf")
    if not want.size:
        return 0.0
    a, b = want.astype(np.float64), have.astype(np.float64)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(equal, 0.0, np.abs(a - b))
    finite = np.abs(a[np.isfinite(a)])
    scale = max(float(finite.max()) if finite.size else 1.0, 1e-6)
    return float("inf") if not np.all(np.isfinite(gap)) else float(gap.max()) / scale


def first_to_differ(
    module: fx.GraphModule, inputs: Sequence[Tensor], known: Mapping[str, Any], close: float
) -> str:
    """The first operator that gives something else than the file, on what the file gives it."""
    values: dict[fx.Node, Any] = dict(
        zip((n for n in module.graph.nodes if n.op == "placeholder"), inputs, strict=True)
    )
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is not as_tensor:
            values[node] = node.target(*fx.map_arg(node.args, values.__getitem__))
        if node.op != "call_module":
            continue
        part = module.get_submodule(str(node.target))
        with torch.no_grad():
            made = part(*fx.map_arg(node.args, values.__getitem__))
        values[node] = made
        if not isinstance(part, OnnxNode):
            continue
        results = made if isinstance(made, tuple) else (made,)
        for name, value in zip(part.op.outputs, results, strict=False):
            if name in known and distance(known[name], value) > close:
                return part.op.name
    return ""
