"""Bit for bit the numbers of the runtime."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from bitwright.numerics.affine import QParams, dequantize, fake_quantize, quantize
from bitwright.numerics.grid import WIDTHS, Grid

# Widths that ONNX has no type for are computed in their container and clipped to the grid.
STORED = (2, 4, 8, 16)
# ONNX Runtime 1.31's 2- and 4-bit kernels convert to int32 before they clamp, so that larger
# quotients wrap to the wrong end where ONNX says saturate. The 8- and 16-bit kernels saturate.
WRAPS_FROM = 2.0**31


@functools.cache
def session(bits: int, signed: bool, axis: int | None) -> onnxruntime.InferenceSession:
    """x, scale, zero point -> integers and their real values; the integers travel as int32."""
    kind = getattr(TensorProto, f"{'INT' if signed else 'UINT'}{bits}")
    axes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("Cast", ["zero"], ["z"], to=kind),
        helper.make_node("QuantizeLinear", ["x", "scale", "z"], ["q"], **axes),
        helper.make_node("DequantizeLinear", ["q", "scale", "z"], ["real"], **axes),
        helper.make_node("Cast", ["q"], ["integers"], to=TensorProto.INT32),
    ]
    rank = None if axis is None else ["c"]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c", "d"]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, rank or []),
        helper.make_tensor_value_info("zero", TensorProto.INT32, rank or []),
    ]
    outputs = [
        helper.make_tensor_value_info("integers", TensorProto.INT32, None),
        helper.make_tensor_value_info("real", TensorProto.FLOAT, None),
    ]
    opset = 25 if bits == 2 else 21
    model = helper.make_model(
        helper.make_graph(nodes, "qdq", inputs, outputs),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=13 if bits == 2 else 10,
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def runtime(x: torch.Tensor, qp: QParams, bits: int, axis: int | None):
    size = () if axis is None else (-1,)
    feeds = {
        "x": x.numpy(),
        "scale": qp.scale.reshape(size).numpy(),
        "zero": qp.zero_point.reshape(size).numpy(),
    }
    integers, real = session(bits, qp.grid.signed, axis).run(None, feeds)
    return torch.from_numpy(np.array(integers)), torch.from_numpy(np.array(real))


def check(x: torch.Tensor, qp: QParams, axis: int | None) -> None:
    bits = qp.grid.bits if qp.grid.bits in STORED else 8
    if bits < 8 and bool(((x / qp.scale).abs() >= WRAPS_FROM).any()):
        bits = 8
    integers, real = runtime(x, qp, bits, axis)
    ours = quantize(x, qp)
    assert torch.equal(ours.to(torch.int32), integers.clamp(qp.grid.qmin, qp.grid.qmax))
    if qp.grid.bits == bits:
        assert same_bits(dequantize(ours, qp), real)
        assert torch.equal(fake_quantize(x, qp), real)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


@st.composite
def problems(draw):
    grid = Grid(draw(st.sampled_from(WIDTHS)), draw(st.booleans()))
    axis = draw(st.sampled_from([None, 0, 1, 2, 3]))
    shape = draw(st.sampled_from([(1, 1, 1, 1), (2, 3, 5, 7), (4, 1, 3, 3), (1, 16, 4, 4)]))
    if axis is None or axis > 1:
        shape = draw(st.sampled_from([shape, (0, 3, 2, 2), (2, 0, 2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size = [1] * 4
    if axis is not None:
        size[axis] = shape[axis]
    scale = torch.rand(size, generator=generator) + 0.01
    scale = scale * draw(st.sampled_from([1e-20, 1e-3, 1.0, 7e10]))
    zero = torch.randint(grid.qmin, grid.qmax + 1, size, generator=generator, dtype=torch.int32)
    kind = draw(st.sampled_from(["normal", "ties", "constant", "infinite", "huge"]))
    x = torch.randn(shape, generator=generator) * (0.4 * grid.levels)
    if kind == "ties":
        # A power-of-two scale, so that the quotient is a half integer exactly.
        scale = torch.exp2(torch.floor(torch.log2(scale)))
        x = torch.floor(x) + 0.5
    if kind == "constant":
        x = torch.full(shape, float(torch.randn((), generator=generator)))
    x = x * scale
    if kind == "infinite":
        x = torch.where(x > 0, math.inf, -math.inf)
    if kind == "huge":
        x = x * 1e15
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    return x, QParams(grid, scale, zero), axis


@given(problems())
@settings(max_examples=400, deadline=None)
def test_integers_and_real_values_equal_the_runtimes(problem):
    check(*problem)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", WIDTHS)
def test_every_half_step_of_every_grid(bits, signed):
    grid = Grid(bits, signed)
    zero = grid.qmin + grid.levels // 3
    steps = torch.arange(2 * (grid.qmin - zero) - 4, 2 * (grid.qmax - zero) + 5) * 0.5
    scale = torch.tensor(0.25)
    qp = QParams(grid, scale, torch.tensor(zero, dtype=torch.int32))
    check((steps * scale).reshape(1, 1, 1, -1), qp, None)
