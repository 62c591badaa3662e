"""Every entry of the table against ONNX Runtime: shapes, axes, paddings, attributes, opsets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from small_files import model_of, run

from bitwright.graph.opaque import RUNTIME_ERRORS
from bitwright.sources.onnx_in.agree import Failed, distance, run_nodes
from bitwright.sources.onnx_in.network import Constants, build
from bitwright.sources.onnx_in.parts import PartNode
from bitwright.sources.onnx_in.plain_form import plain_form

CLOSE = 1e-5
few = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 9)
KINDS = {
    np.dtype("float32"): TensorProto.FLOAT, np.dtype("int64"): TensorProto.INT64,
    np.dtype("int32"): TensorProto.INT32, np.dtype("bool"): TensorProto.BOOL,
}  # fmt: skip


def check(
    kind: str, *inputs: Any, opset: int = 17, stored: int = 0, outputs: int = 1, **attributes: Any
) -> str:
    """Compare one operator with ONNX Runtime; `stored` of its last inputs are initialisers.

    Returns `same`, or `opaque` where the translation leaves this form to ONNX Runtime.
    """
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(inputs)]
    known = {n: np.asarray(v) for n, v in zip(names, inputs, strict=True) if v is not None}
    count = len(names) - stored
    kept = {n: known[n] for n in names[count:] if n}
    free = {n: v for n, v in known.items() if n not in kept}
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(kind, names, results, name="node", **attributes)
    model = model_of(
        [node], {n: list(v.shape) for n, v in free.items()}, results, kept, opset,
        {n: KINDS[v.dtype] for n, v in free.items()},
    )  # fmt: skip
    try:
        expected = run(model, free)
    except RUNTIME_ERRORS:
        assume(False)
    form = plain_form(model, "test")
    module = build(Constants(form), "test")
    if any(isinstance(part, PartNode) for part in module.modules()):
        return "opaque"
    made = run_nodes(module, [torch.from_numpy(free[v.name].copy()) for v in form.inputs])
    if isinstance(made, Failed):
        assert made.why.startswith("OpaqueError"), made.why
        return "opaque"
    for want, got in zip(expected, made, strict=True):
        assert str(got.dtype).removeprefix("torch.") == str(want.dtype)
        exact = want.dtype.kind in "iub"
        assert distance(want, got) <= (0 if exact else CLOSE)
    return "same"


def floats(draw: Any, *shape: int) -> np.ndarray:
    return np.random.default_rng(draw(seeds)).standard_normal(shape).astype(np.float32)


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    axes = draw(st.integers(1, 2))
    sides = [draw(st.integers(5, 9)) for _ in range(axes)]
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    auto = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    made = {
        "sides": sides, "kernel": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(axes)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(axes)], "auto_pad": auto,
    }  # fmt: skip
    if auto == "NOTSET":
        made["pads"] = [draw(st.integers(0, 1)) for _ in range(2 * axes)]
    return made


@few
@given(st.data(), windows(), st.sampled_from([1, 2]), st.booleans(), st.sampled_from([9, 11, 22]))
def test_conv(data, window, groups, bias, opset):
    if window["auto_pad"].startswith("SAME"):
        window["dilations"] = [1] * len(window["kernel"])  # what runtimes do else differs
    sides, kernel = window.pop("sides"), window.pop("kernel")
    x, w = floats(data.draw, 2, 4, *sides), floats(data.draw, 6, 4 // groups, *kernel)
    extra = (floats(data.draw, 6),) if bias else ()
    assert (
        check("Conv", x, w, *extra, opset=opset, stored=1 + bias, group=groups, **window) == "same"
    )


@few
@given(st.data(), windows(), st.sampled_from([1, 2]), st.integers(0, 1))
def test_conv_transpose(data, window, groups, extra):
    sides, kernel = window.pop("sides"), window.pop("kernel")
    if window["auto_pad"].startswith("SAME"):
        window["dilations"] = [1] * len(kernel)
    extra = min(extra, min(window["strides"]) - 1)
    x, w = floats(data.draw, 2, 4, *sides), floats(data.draw, 4, 3, *kernel)
    check(
        "ConvTranspose", x, w, stored=1, group=groups, output_padding=[extra] * len(kernel),
        **window,
    )  # fmt: skip


@few
@given(st.data(), windows(), st.booleans(), st.sampled_from([10, 12, 22]))
def test_max_pool(data, window, ceil, opset):
    sides = window.pop("sides")
    if window["auto_pad"] != "NOTSET":
        ceil, window["dilations"] = False, [1] * len(sides)
    window["kernel_shape"] = window.pop("kernel")
    pads = window.get("pads", [0])
    assume(all(p < k for p, k in zip(pads, window["kernel_shape"] * 2, strict=False)))
    check("MaxPool", floats(data.draw, 2, 3, *sides), opset=opset, ceil_mode=int(ceil), **window)


@few
@given(st.data(), windows(), st.booleans(), st.booleans(), st.sampled_from([10, 11, 19]))
def test_average_pool(data, window, ceil, counted, opset):
    sides = window.pop("sides")
    window.pop("dilations")
    if window["auto_pad"] != "NOTSET":
        ceil = False
    window["kernel_shape"] = window.pop("kernel")
    pads = window.get("pads", [0])
    assume(all(p < k for p, k in zip(pads, window["kernel_shape"] * 2, strict=False)))
    check(
        "AveragePool", floats(data.draw, 2, 3, *sides), opset=opset, ceil_mode=int(ceil),
        count_include_pad=int(counted), **window,
    )  # fmt: skip


@few
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from([None, (), (5,), (1, 5), (2, 5)]),
       st.sampled_from([0, 1, 2]))  # fmt: skip
def test_gemm(data, turn_a, turn_b, bias, stored):
    a = floats(data.draw, *((3, 2) if turn_a else (2, 3)))
    b = floats(data.draw, *((5, 3) if turn_b else (3, 5)))
    extra = () if bias is None else (floats(data.draw, *bias),)
    stored = min(stored, 1 + len(extra))
    assert check(
        "Gemm", a, b, *extra, stored=stored, transA=int(turn_a), transB=int(turn_b), alpha=0.5,
        beta=2.0,
    ) == "same"  # fmt: skip


@few
@given(st.data(), st.sampled_from([((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)),
                                   ((3,), (3, 4)), ((2, 3), (3,))]), st.booleans())  # fmt: skip
def test_matmul(data, shapes, stored):
    a, b = (floats(data.draw, *shape) for shape in shapes)
    assert check("MatMul", a, b, stored=int(stored)) == "same"


SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 3), ()), ((2, 1, 3), (4, 1)), ((2, 3), (1,)),
          ((3,), (2, 3)), ((2, 3), (1, 1, 1))]  # fmt: skip


@few
@given(st.data(), st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Less",
                                   "Greater", "LessOrEqual", "GreaterOrEqual"]),
       st.sampled_from(SHAPES), st.booleans(), st.booleans())  # fmt: skip
def test_of_two(data, kind, shapes, whole, stored):
    a, b = (floats(data.draw, *shape) for shape in shapes)
    if whole:
        a, b = (np.rint(3 * v).astype(np.int64) for v in (a, b))
        b = np.where(b == 0, 1, b) if kind == "Div" else b
    assert check(kind, a, b, stored=int(stored)) == "same"


@pytest.mark.parametrize("kind", ["Sub", "Div", "Less", "Pow", "Max"])
def test_a_stored_number_may_come_first(kind):
    nodes = [helper.make_node(kind, ["c", "x"], ["y"], name="node")]
    x = np.abs(np.random.default_rng(0).standard_normal((2, 3))).astype(np.float32) + 0.5
    model = model_of(nodes, {"x": [2, 3]}, weights={"c": np.float32(1.5)})
    module = build(Constants(plain_form(model, "test")), "test")
    assert distance(run(model, {"x": x})[0], module(torch.from_numpy(x))) <= CLOSE


PLAIN = ["Relu", "Sigmoid", "Tanh", "Exp", "Neg", "Abs", "Floor", "Ceil", "Round", "Erf", "Cos",
         "Sin", "Softplus", "Softsign", "HardSwish", "Sign", "Atan", "Asinh", "Mish", "IsNaN",
         "Identity", "Reciprocal"]  # fmt: skip


@pytest.mark.parametrize("kind", PLAIN)
def test_of_one(kind):
    x = np.linspace(-4, 4, 41, dtype=np.float32)[None] + 0.0125
    assert check(kind, x, opset=18) == "same"


@few
@given(st.data(), st.sampled_from([
    ("LeakyRelu", {"alpha": 0.3}), ("Elu", {"alpha": 0.7}), ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}), ("Selu", {}), ("Celu", {"alpha": 2.0}),
    ("ThresholdedRelu", {"alpha": 0.4}), ("Shrink", {"bias": 0.2, "lambd": 0.3}),
    ("LRN", {"size": 3, "alpha": 0.2}), ("LpNormalization", {"axis": 1, "p": 1}),
    ("MeanVarianceNormalization", {}), ("GlobalAveragePool", {}), ("GlobalMaxPool", {}),
    ("LogSoftmax", {"axis": 2}), ("DepthToSpace", {"blocksize": 2}),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}), ("SpaceToDepth", {"blocksize": 2}),
    ("Transpose", {"perm": [0, 2, 3, 1]}), ("Transpose", {}), ("Flatten", {"axis": 2}),
    ("Flatten", {"axis": 0}), ("ArgMax", {"axis": -1, "keepdims": 0}), ("ArgMin", {"axis": 1}),
    ("ReduceL2", {"axes": [1, 2]}), ("ReduceLogSumExp", {"axes": [-1]}), ("Shape", {}),
    ("Size", {}), ("Shape", {"start": 1, "end": 3}), ("Trilu", {}), ("Trilu", {"upper": 0}),
]))  # fmt: skip
def test_of_one_with_attributes(data, case):
    kind, attributes = case
    assert check(kind, floats(data.draw, 2, 4, 6, 4), **attributes) == "same"


@pytest.mark.parametrize(("opset", "axis"), [(11, 1), (11, 2), (12, None), (13, 1), (13, None)])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_softmax_changed_its_meaning(kind, opset, axis):
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    assert check(kind, x, opset=opset, **({} if axis is None else {"axis": axis})) == "same"


@few
@given(st.data(), st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin",
                                   "ReduceProd", "ReduceL1", "ReduceSumSquare"]),
       st.sampled_from([None, [0], [1, -1], [0, 1, 2]]), st.booleans(),
       st.sampled_from([11, 13, 18]))  # fmt: skip
def test_reductions_take_axes_in_two_ways(data, kind, axes, keep, opset):
    x = floats(data.draw, 2, 3, 4)
    as_input = opset >= (13 if kind == "ReduceSum" else 18)
    if axes is None:
        made = check(kind, x, opset=opset, keepdims=int(keep))
    elif as_input:
        made = check(kind, x, np.array(axes), opset=opset, stored=1, keepdims=int(keep))
    else:
        made = check(kind, x, opset=opset, axes=axes, keepdims=int(keep))
    assert made == "same"


@pytest.mark.parametrize("opset", [6, 7, 9, 10, 11, 12, 13])
@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, None), (None, 0.5), (0.0, None)])
def test_clip_takes_its_limits_in_two_ways(opset, low, high):
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32) * 5
    opset = max(opset, 7)
    if opset < 11:
        limits = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
        assert check("Clip", x, opset=opset, **limits) == "same"
        return
    given = [None if v is None else np.float32(v) for v in (low, high)]
    assert check("Clip", x, *given, opset=opset, stored=2) == "same"


@few
@given(st.data(), st.integers(-3, 2), st.sampled_from([1, 2, -1]), st.integers(-5, 5),
       st.sampled_from([-(2**62), -2, 3, 2**62]), st.sampled_from([10, 13]))  # fmt: skip
def test_slice(data, axis, step, start, end, opset):
    x = floats(data.draw, 3, 4, 5)
    given = [np.array([v]) for v in (start, end, axis, step)]
    assert check("Slice", x, *given, opset=opset, stored=4) == "same"


def test_slice_by_attributes():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert check("Slice", x, opset=9, starts=[0, -3], ends=[1, 9], axes=[1, 2]) == "same"


@few
@given(st.data(), st.sampled_from(["constant", "reflect", "edge"]),
       st.lists(st.integers(-1, 1), min_size=8, max_size=8), st.sampled_from([11, 13]))  # fmt: skip
def test_pad(data, mode, pads, opset):
    if mode != "constant":
        pads = [0, 0, *map(abs, pads[2:4]), 0, 0, *map(abs, pads[6:])]
    x = floats(data.draw, 2, 3, 4, 5)
    assert (
        check("Pad", x, np.array(pads), np.float32(0.5), opset=opset, stored=2, mode=mode) == "same"
    )


@few
@given(st.data(), st.integers(-3, 2), st.sampled_from([(), (2,), (2, 2)]), st.booleans())
def test_gather(data, axis, shape, stored):
    x = floats(data.draw, 3, 4, 5)
    places = np.random.default_rng(data.draw(seeds)).integers(-3, 3, shape)
    assert check("Gather", x, places, stored=int(stored), axis=axis) == "same"


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("sizes", [None, [1, 3, 2]])
def test_split(opset, sizes):
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    more = {"num_outputs": 3} if opset >= 18 and sizes is None else {}
    if sizes is not None and opset >= 13:
        assert (
            check("Split", x, np.array(sizes), opset=opset, stored=1, outputs=3, axis=1) == "same"
        )
        return
    more |= {} if sizes is None else {"split": sizes}
    assert check("Split", x, opset=opset, outputs=3, axis=1, **more) == "same"


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset):
    x = np.zeros((2, 1, 3, 1), dtype=np.float32)
    for kind, axes in (("Squeeze", [1, -1]), ("Unsqueeze", [0, -1])):
        if opset < 13:
            assert check(kind, x, opset=opset, axes=axes) == "same"
        else:
            assert check(kind, x, np.array(axes), opset=opset, stored=1) == "same"
    assert check("Squeeze", x, opset=opset) == "same"


@pytest.mark.parametrize("allow", [0, 1])
@pytest.mark.parametrize("shape", [[6, -1], [0, -1], [-1, 2, 2], [2, 3, 4]])
def test_reshape(shape, allow):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    if 0 in shape and allow:
        return
    assert check("Reshape", x, np.array(shape), stored=1, allowzero=allow) == "same"


RESIZES = [
    ({"mode": "nearest", "coordinate_transformation_mode": c, "nearest_mode": n}, scales)
    for c in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")
    for n in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    for scales in ([1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 0.6, 1.5])
] + [
    ({"mode": m, "coordinate_transformation_mode": c}, scales)
    for m in ("linear", "cubic")
    for c in ("half_pixel", "align_corners", "pytorch_half_pixel")
    for scales in ([1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 0.6, 1.5])
]


@pytest.mark.parametrize(("attributes", "scales"), RESIZES)
def test_resize(attributes, scales):
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
    made = check(
        "Resize", x, None, np.array(scales, dtype=np.float32), opset=13, stored=2, **attributes
    )
    assert made == "same"


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_by_sizes(mode):
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
    sizes = np.array([1, 2, 8, 9])
    assert check("Resize", x, None, None, sizes, opset=13, stored=3, mode=mode) == "same"


@pytest.mark.parametrize("opset", [9, 10])
def test_resize_of_old(opset):
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
    kind = "Upsample" if opset == 9 else "Resize"
    scales = np.array([1, 1, 2, 3], dtype=np.float32)
    assert check(kind, x, scales, opset=opset, stored=1, mode="nearest") == "same"


@pytest.mark.parametrize("opset", [17, 22])
@pytest.mark.parametrize("kind", ["BatchNormalization", "InstanceNormalization",
                                  "LayerNormalization", "GroupNormalization"])  # fmt: skip
def test_norms(kind, opset):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 5)).astype(np.float32)
    count = 5 if kind == "LayerNormalization" else 4
    parts = [rng.standard_normal(count).astype(np.float32) for _ in range(2)]
    if kind == "BatchNormalization":
        parts += [parts[0] * 0.1, np.abs(parts[1]) + 0.1]
    more = {"num_groups": 2} if kind == "GroupNormalization" else {}
    opset = max(opset, 21) if kind == "GroupNormalization" else opset
    assert check(kind, x, *parts, opset=opset, stored=len(parts), **more) == "same"


def test_group_norm_had_a_gain_a_group():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 5)).astype(np.float32)
    parts = [rng.standard_normal(2).astype(np.float32) for _ in range(2)]
    assert check("GroupNormalization", x, *parts, opset=18, stored=2, num_groups=2) == "same"


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "ij,jk->ik", "bhid,bhjd->bhij"])
def test_einsum(equation):
    sizes = dict(zip("bhijkd", (2, 2, 3, 4, 5, 3), strict=True))
    rng = np.random.default_rng(0)
    given = [
        rng.standard_normal([sizes[a] for a in axes]).astype(np.float32)
        for axes in equation.split("->")[0].split(",")
    ]
    assert check("Einsum", *given, equation=equation) == "same"


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_cumulative_sum(reverse, exclusive):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert check(
        "CumSum", x, np.array(1), stored=1, reverse=reverse, exclusive=exclusive
    ) == "same"  # fmt: skip


def test_other_moves():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    index = np.array([[[0, -1, 2, 1]]])
    assert check("Expand", x[:, :1], np.array([2, 3, 1]), stored=1) == "same"
    assert check("Tile", x, np.array([1, 2, 3]), stored=1) == "same"
    assert check("GatherElements", x[:1, :1], index, axis=2) == "same"
    assert check("GatherND", x, np.array([[0, 1], [1, -1]]), stored=1) == "same"
    assert check("ScatterND", x, np.array([[0], [1]]), x[:2] * 2) == "same"
    assert check("ScatterElements", x[:1, :1], index, x[:1, :1] * 2, axis=2) == "same"
    assert (
        check("OneHot", np.array([0, 2, -1]), np.array(4), np.float32([0, 1]), stored=2) == "same"
    )
    assert check("Where", x > 3, x, np.float32(0)) == "same"
    assert check("Cast", x, to=TensorProto.INT64) == "same"
    assert check("Concat", x, x * 2, axis=-2) == "same"
    assert check("And", x > 3, x < 9) == "same"
    assert check("Not", x > 3) == "same"
    assert check("Mod", x.astype(np.int64), np.array(-5)) == "same"
    assert check("Mod", x, np.float32(5), fmod=1) == "same"
    assert check("Pow", x, np.float32(2), stored=1) == "same"
    assert check("Sum", x, x, x) == "same"
    assert check("Mean", x, x * 2, x * 3) == "same"
    assert check("PRelu", x - 9, np.float32([0.1, 0.2, 0.3]).reshape(3, 1), stored=1) == "same"
    assert check("Gelu", x / 9, opset=20, approximate="tanh") == "same"
    assert check("Swish", x / 9, opset=24, alpha=1.0) in ("same", "opaque")
    assert check("RMSNormalization", x, np.float32([1, 2, 3, 4]), opset=23, stored=1) == "same"
