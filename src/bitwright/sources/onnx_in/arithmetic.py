"""The table's arithmetic: operators that map entries, and logic."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.numerics.affine import round_half_even
from bitwright.sources.onnx_in.entry import (
    ACTIVATION,
    CHAIN,
    Call,
    Operator,
    Results,
    on_host,
    operand,
    unary,
)
from bitwright.sources.onnx_in.values import (
    DTYPES,
    Constant,
    Host,
    OnnxValue,
    OpaqueError,
    as_host,
    as_tensor,
    numbers,
)


def _binary(
    function: Callable[[Any, Any], Any],
    of_numbers: Callable[[Any, Any], Any] | None = None,
    since: tuple[int, ...] = (7, 13, 14),
    fate: str = CHAIN,
    gives: torch.dtype | None = None,
) -> Operator:
    """An operator of two values that broadcast; `of_numbers` is it for numbers of shapes."""

    def compute(_: Call, a: OnnxValue, b: OnnxValue) -> Results:
        known = on_host(a, b) if of_numbers else None
        if known is not None:
            assert of_numbers is not None
            made = np.frompyfunc(of_numbers, 2, 1)(known[0].array, known[1].array)
            return Host(np.asarray(made, dtype=object), gives or known[0].dtype)
        first, second = operand(a, b), operand(b, a)
        if not isinstance(first, Tensor) and not isinstance(second, Tensor):
            first = as_tensor(a)
        result: Tensor = function(first, second)
        return result

    return Operator(compute, {}, since, fate)


def _of_tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Any]:
    """A torch function that takes no plain numbers."""

    def compute(a: Any, b: Any) -> Any:
        like = a if isinstance(a, Tensor) else b
        first, second = (
            v if isinstance(v, Tensor) else torch.full((), v, dtype=like.dtype) for v in (a, b)
        )
        return function(first, second)

    return compute


def _tensor_first(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A function of which the order does not matter; exporters want the tensor first."""
    return lambda a, b: function(a, b) if isinstance(a, Tensor) else function(b, a)


def _divide(a: Any, b: Any) -> Any:
    if any(isinstance(v, Tensor) and v.is_floating_point() for v in (a, b)):
        return a / b
    like = a if isinstance(a, Tensor) else b
    first = a if isinstance(a, Tensor) else torch.full((), a, dtype=like.dtype)
    return torch.div(first, b, rounding_mode="trunc")


def _truncate(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    if isinstance(a, int) and isinstance(b, int):
        return math.trunc(a / b) if abs(a) < 1 << 52 else a // b
    return a // b  # symbols of sizes are not negative


def _power(_: Call, a: OnnxValue, b: OnnxValue) -> Results:
    base, exponent = as_tensor(a), operand(b, a)
    whole = not base.is_floating_point()
    if not isinstance(exponent, Tensor) and float(exponent) == 0.5 and not whole:
        return torch.sqrt(base)
    made = torch.pow(base, exponent)
    return made.to(base.dtype) if made.dtype != base.dtype else made


def _modulo(call: Call, a: OnnxValue, b: OnnxValue) -> Results:
    first, second = as_tensor(a), operand(b, a)
    return torch.fmod(first, second) if call["fmod"] else torch.remainder(first, second)


def _variadic(pair: Operator) -> Operator:
    def compute(call: Call, *values: OnnxValue) -> Results:
        def both(a: OnnxValue, b: OnnxValue) -> OnnxValue:
            made = pair.compute(call, a, b)
            assert not isinstance(made, tuple)
            return made

        return reduce(both, values)

    return Operator(compute, {}, (8, 12, 13), pair.fate)


def _mean_of(_: Call, *values: OnnxValue) -> Results:
    return sum(as_tensor(v) for v in values[1:]) / len(values) + as_tensor(values[0]) / len(values)


# ---- activations -----------------------------------------------------------------------------


def _relu(_: Call, x: OnnxValue) -> Results:
    return F.relu(as_tensor(x))


def _clip(call: Call, x: OnnxValue, low: OnnxValue = None, high: OnnxValue = None) -> Results:
    value = as_tensor(x)
    limits = [
        _limit(given, call.attributes[key], value) for given, key in ((low, "min"), (high, "max"))
    ]
    least, most = limits
    if least is None and most is None:
        return value
    plain = not isinstance(least, Tensor) and not isinstance(most, Tensor)
    if plain and value.is_floating_point() and None not in limits and least <= most:
        return F.hardtanh(value, float(least), float(most))
    if least == 0 and most is None and value.is_floating_point():
        return F.relu(value)
    if plain:
        return torch.clamp(value, least, most)
    bounds = [
        None if v is None else v if isinstance(v, Tensor) else torch.tensor(v, dtype=value.dtype)
        for v in limits
    ]
    clamped: Tensor = torch.clamp(value, *bounds)
    return clamped


def _limit(given: OnnxValue, stated: float | None, x: Tensor) -> Any:
    if given is None:
        # Files state the largest number of a type where they mean none.
        return None if stated is None or abs(stated) > 3.4e38 else stated
    number = given.single if isinstance(given, Constant) else None
    if number is not None:
        huge = x.is_floating_point() and abs(number) > 3.4e38
        return None if huge else number
    return as_tensor(given).reshape(())


def _leaky(call: Call, x: OnnxValue) -> Results:
    return F.leaky_relu(as_tensor(x), call["alpha"])


def _prelu(_: Call, x: OnnxValue, slope: OnnxValue) -> Results:
    value, weight = as_tensor(x), as_tensor(slope)
    channels = value.dim() >= 2 and weight.dim() == value.dim() - 1 and weight.dim() >= 1
    if channels and weight.numel() == weight.shape[0] and weight.shape[0] == value.shape[1]:
        return F.prelu(value, weight.reshape(-1))
    if weight.numel() == 1:
        return F.prelu(value, weight.reshape(-1))
    return F.relu(value) - F.relu(-value) * weight


def _elu(call: Call, x: OnnxValue) -> Results:
    return F.elu(as_tensor(x), call["alpha"])


def _celu(call: Call, x: OnnxValue) -> Results:
    return F.celu(as_tensor(x), call["alpha"])


def _selu(call: Call, x: OnnxValue) -> Results:
    value, alpha, gamma = as_tensor(x), call["alpha"], call["gamma"]
    made: Tensor = torch.where(value > 0, value, alpha * torch.exp(value) - alpha)
    return made.mul(gamma)


def _hard_sigmoid(call: Call, x: OnnxValue) -> Results:
    alpha, beta = call["alpha"], call["beta"]
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(as_tensor(x))
    return torch.clamp(as_tensor(x) * alpha + beta, 0.0, 1.0)


def _gelu(call: Call, x: OnnxValue) -> Results:
    return F.gelu(as_tensor(x), approximate=call["approximate"])


def _swish(call: Call, x: OnnxValue) -> Results:
    value, alpha = as_tensor(x), call["alpha"]
    return F.silu(value) if alpha == 1.0 else value * torch.sigmoid(alpha * value)


def _thresholded(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    return torch.where(value > call["alpha"], value, torch.zeros_like(value))


def _shrink(call: Call, x: OnnxValue) -> Results:
    value, bias, limit = as_tensor(x), call["bias"], call["lambd"]
    kept = torch.where(value > limit, value - bias, torch.zeros_like(value))
    return torch.where(value < -limit, value + bias, kept)


# ---- types and choices -----------------------------------------------------------------------


def _cast(call: Call, x: OnnxValue) -> Results:
    kind = DTYPES.get(call["to"])
    if kind is None:
        raise OpaqueError(f"numbers of type {call['to']}")
    known = as_host(x) if isinstance(x, Host) else None
    if known is not None:
        convert = _sym_float if kind.is_floating_point else _sym_int
        if kind == torch.bool:
            return Host(np.asarray(np.frompyfunc(bool, 1, 1)(known.array), dtype=object), kind)
        return Host(np.asarray(np.frompyfunc(convert, 1, 1)(known.array), dtype=object), kind)
    return as_tensor(x).to(kind)


def _sym_float(value: Any) -> Any:
    return torch.sym_float(value)  # type: ignore[no-untyped-call]


def _sym_int(value: Any) -> Any:
    return torch.sym_int(value)  # type: ignore[no-untyped-call]


def _cast_like(_: Call, x: OnnxValue, like: OnnxValue) -> Results:
    return as_tensor(x).to(as_tensor(like).dtype)


def _where(_: Call, condition: OnnxValue, a: OnnxValue, b: OnnxValue) -> Results:
    known = on_host(condition, a, b)
    if known is not None:
        choose = np.frompyfunc(lambda c, x, y: x if bool(c) else y, 3, 1)
        made = choose(*(v.array for v in known))
        return Host(np.asarray(made, dtype=object), known[1].dtype)
    first, second = as_tensor(a), as_tensor(b)
    return torch.where(as_tensor(condition), first, second)


def _is_inf(call: Call, x: OnnxValue) -> Results:
    value = as_tensor(x)
    found = torch.zeros_like(value, dtype=torch.bool)
    if call["detect_positive"]:
        found = found | (value == torch.inf)
    if call["detect_negative"]:
        found = found | (value == -torch.inf)
    return found


def _rounding(function: Callable[[Tensor], Tensor], of_number: Callable[[Any], Any]) -> Operator:
    def compute(_: Call, x: OnnxValue) -> Results:
        if isinstance(x, Host):
            made = np.asarray(np.frompyfunc(of_number, 1, 1)(x.array), dtype=object)
            return Host(made, x.dtype)
        return function(as_tensor(x))

    return Operator(compute)


def _shift(call: Call, a: OnnxValue, b: OnnxValue) -> Results:
    x, by = as_tensor(a), as_tensor(b)
    left = call["direction"] == "LEFT"
    wide = (
        x.to(torch.int64) << by.to(torch.int64) if left else x.to(torch.int64) >> by.to(torch.int64)
    )
    return wide.to(x.dtype)


def _identity(_: Call, x: OnnxValue) -> Results:
    return x


def _dropout(
    call: Call, x: OnnxValue, _ratio: OnnxValue = None, training: OnnxValue = None
) -> Results:
    if training is not None and any(numbers(training) or ()):
        raise OpaqueError("dropout that drops: the file is in training mode")
    if call.outputs == 1:
        return x
    return x, torch.ones_like(as_tensor(x), dtype=torch.bool)


_COMPARE = (7, 9, 13)
_ADD = _binary(_tensor_first(torch.add), operator.add)
_SUBTRACT = _binary(operator.sub, operator.sub)
_MAXIMUM = _binary(_of_tensors(torch.maximum), lambda a, b: a if a >= b else b)
_MINIMUM = _binary(_of_tensors(torch.minimum), lambda a, b: a if a <= b else b)


def _compare(
    function: Callable[[Any, Any], Any], of_numbers: Callable[[Any, Any], Any]
) -> Operator:
    def turned(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor):
            return function(a, b)
        return function(torch.full((), a, dtype=b.dtype), b)

    return _binary(turned, of_numbers, _COMPARE, "float", torch.bool)


ARITHMETIC: dict[str, Operator] = {
    "Add": _ADD,
    "Sub": _SUBTRACT,
    "Mul": _binary(_tensor_first(torch.mul), operator.mul),
    "Div": _binary(_divide, _truncate),
    "Pow": Operator(_power, {}, (7, 12, 13, 15)),
    "Mod": Operator(_modulo, {"fmod": 0}, (10, 13)),
    "Min": _variadic(_MINIMUM),
    "Max": _variadic(_MAXIMUM),
    "Sum": _variadic(_ADD),
    "Mean": Operator(_mean_of, {}, (8, 13)),
    "Sqrt": unary(torch.sqrt, since=6),
    "Exp": unary(torch.exp, since=6),
    "Log": unary(torch.log, since=6),
    "Neg": unary(torch.neg, since=6),
    "Abs": unary(torch.abs, since=6),
    "Reciprocal": unary(torch.reciprocal, since=6),
    "Sign": unary(torch.sign, since=9),
    "Floor": _rounding(torch.floor, math.floor),
    "Ceil": _rounding(torch.ceil, math.ceil),
    "Round": unary(round_half_even, since=11),
    "Erf": unary(torch.erf, since=9),
    "Cos": unary(torch.cos, since=7),
    "Sin": unary(torch.sin, since=7),
    "Tan": unary(torch.tan, since=7),
    "Acos": unary(torch.acos, since=7),
    "Asin": unary(torch.asin, since=7),
    "Atan": unary(torch.atan, since=7),
    "Cosh": unary(torch.cosh, since=9),
    "Sinh": unary(torch.sinh, since=9),
    "Acosh": unary(torch.acosh, since=9),
    "Asinh": unary(torch.asinh, since=9),
    "Atanh": unary(torch.atanh, since=9),
    "IsNaN": unary(torch.isnan, since=9),
    "IsInf": Operator(_is_inf, {"detect_positive": 1, "detect_negative": 1}, (10, 20)),
    "Not": unary(torch.logical_not, since=1),
    "And": _binary(torch.logical_and, None, (7,), "float"),
    "Or": _binary(torch.logical_or, None, (7,), "float"),
    "Xor": _binary(torch.logical_xor, None, (7,), "float"),
    "BitwiseAnd": _binary(torch.bitwise_and, None, (18,), "float"),
    "BitwiseOr": _binary(torch.bitwise_or, None, (18,), "float"),
    "BitwiseXor": _binary(torch.bitwise_xor, None, (18,), "float"),
    "BitwiseNot": unary(torch.bitwise_not, since=18),
    "BitShift": Operator(_shift, {"direction": ""}, (11,)),
    "Equal": _compare(torch.eq, operator.eq),
    "Less": _compare(torch.lt, operator.lt),
    "Greater": _compare(torch.gt, operator.gt),
    "LessOrEqual": _compare(torch.le, operator.le),
    "GreaterOrEqual": _compare(torch.ge, operator.ge),
    "Where": Operator(_where, {}, (9, 16)),
    "Cast": Operator(_cast, {"to": 1, "saturate": 1, "round_mode": "up"}, (6, 9, 13, 19)),
    "CastLike": Operator(_cast_like, {"saturate": 1, "round_mode": "up"}, (15,)),
    "Identity": Operator(_identity, {}, (1, 13, 14)),
    "Dropout": Operator(_dropout, {"ratio": 0.5, "seed": 0}, (7, 10, 12, 13)),
    # Activations.
    "Relu": Operator(_relu, {}, (6, 13, 14), ACTIVATION),
    "Clip": Operator(_clip, {"min": None, "max": None}, (6, 11, 12, 13), ACTIVATION),
    "Sigmoid": unary(torch.sigmoid, ACTIVATION, 6),
    "Tanh": unary(torch.tanh, ACTIVATION, 6),
    "HardSigmoid": Operator(_hard_sigmoid, {"alpha": 0.2, "beta": 0.5}, (6, 22), ACTIVATION),
    "HardSwish": unary(F.hardswish, ACTIVATION, 14),
    "LeakyRelu": Operator(_leaky, {"alpha": 0.01}, (6, 16), ACTIVATION),
    "PRelu": Operator(_prelu, {}, (7, 9, 16), ACTIVATION),
    "Elu": Operator(_elu, {"alpha": 1.0}, (6, 22), ACTIVATION),
    "Celu": Operator(_celu, {"alpha": 1.0}, (12,), ACTIVATION),
    "Selu": Operator(
        _selu, {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}, (6, 22)
    ),
    "Gelu": Operator(_gelu, {"approximate": "none"}, (20,), ACTIVATION),
    "Swish": Operator(_swish, {"alpha": 1.0}, (24,), ACTIVATION),
    "Mish": unary(F.mish, ACTIVATION, 18),
    "Softplus": unary(F.softplus, ACTIVATION, 1),
    "Softsign": unary(F.softsign, since=1),
    "ThresholdedRelu": Operator(_thresholded, {"alpha": 1.0}, (10, 22)),
    "Shrink": Operator(_shrink, {"bias": 0.0, "lambd": 0.5}, (9,)),
}
