"""The three marking operators as seen by the ONNX exporter, which later rewrites them away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnxscript
from onnx.defs import OpSchema

from bitwright.export.onnx_parts import DOMAIN, register_parts, translate_part
from bitwright.graph.custom_ops import DEQUANTIZE, FAKE_QUANTIZE, MARK

INT = OpSchema.AttrType.INT
_INTEGERS = ["tensor(int8)", "tensor(uint8)", "tensor(int16)", "tensor(uint16)", "tensor(int32)"]


def _parameter(name: str, kind: str) -> OpSchema.FormalParameter:
    return OpSchema.FormalParameter(name, kind)


def _register() -> None:
    """Tell onnx of the operators; without a schema the exporter refuses to emit them."""
    grid = {
        "bits": INT,
        "signed": INT,
        "name": OpSchema.AttrType.STRING,
    }
    shapes: list[tuple[str, str, dict[str, OpSchema.AttrType]]] = [
        ("FakeQuantize", "tensor(float)", {**grid, "at_run": INT}),
        ("Dequantize", "Q", {**grid, "points": INT}),
        ("Mark", "tensor(float)", {"name": OpSchema.AttrType.STRING}),
    ]
    for name, first, attributes in shapes:
        if onnx.defs.has(name, domain=DOMAIN):
            continue
        inputs = [_parameter("x", first)]
        if name != "Mark":
            inputs += [_parameter("scale", "tensor(float)"), _parameter("zero", "tensor(int32)")]
        onnx.defs.register_schema(
            OpSchema(
                name,
                DOMAIN,
                1,
                inputs=inputs,
                outputs=[_parameter("y", "tensor(float)")],
                type_constraints=[("Q", _INTEGERS, "integer tensors")] if first == "Q" else [],
                attributes=[OpSchema.Attribute(k, v) for k, v in attributes.items()],
            )
        )


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` should emit for each of our torch operators."""
    _register()
    register_parts()
    ops = onnxscript.values.Opset(DOMAIN, 1)

    def fake_quantize(
        x: Any, scale: Any, zero: Any, bits: int, signed: bool, name: str, at_run: int = 0
    ) -> Any:
        return ops.FakeQuantize(
            x, scale, zero, bits=bits, signed=int(signed), name=name, at_run=at_run
        )

    def dequantize(
        q: Any, scale: Any, zero: Any, bits: int, signed: bool, name: str, points: int
    ) -> Any:
        return ops.Dequantize(
            q, scale, zero, bits=bits, signed=int(signed), name=name, points=points
        )

    def mark(x: Any, name: str) -> Any:
        return ops.Mark(x, name=name)

    plain: dict[Callable[..., Any], Callable[..., Any]] = {
        FAKE_QUANTIZE: fake_quantize,
        DEQUANTIZE: dequantize,
        MARK: mark,
    }
    return {**plain, **translate_part(ops)}
