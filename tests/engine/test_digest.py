"""Digests: equal values, equal keys; different values, different keys."""

from __future__ import annotations

import enum
import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.engine.code import code_version
from bitwright.engine.digest import digest
from bitwright.graph.choice import Choice
from bitwright.methods.catalogue import METHODS
from bitwright.solving import solve

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=4), inner, max_size=4),
    ),
    max_leaves=12,
)


def bits(value):
    """A value as text that tells apart what a digest tells apart."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{bits(k)}:{bits(v)}" for k, v in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({','.join(bits(v) for v in value)})"
    return f"{type(value).__name__}|{value!r}"


@given(VALUES, VALUES)
def test_digests_are_equal_exactly_where_values_are(one, other):
    assert (digest(one) == digest(other)) == (bits(one) == bits(other))


@given(VALUES)
def test_a_change_anywhere_changes_the_digest(value):
    assert digest([value]) != digest(value) and digest((value,)) != digest([value])
    assert digest(value) != digest(value, value) != digest((value, value))


@given(st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), SCALARS, max_size=6))
def test_the_order_of_a_dict_does_not_matter(value):
    turned = dict(reversed(list(value.items())))
    assert digest(value) == digest(turned)
    assert digest(set(value)) == digest(set(turned)) == digest(frozenset(value))


@pytest.mark.parametrize("pair", [
    (1, 1.0), (1, True), (0, False), (0, None), (0.0, -0.0), ("1", 1), ("a", b"a"), ((), []),
    ({}, ()), (("ab", "c"), ("a", "bc")), ({"a": 1}, {"a": "1"}), ({1: 2}, {"1": 2}),
    ([[1], 2], [[1, 2]]), ({"a": {}, "b": 1}, {"a": {"b": 1}}),
    (torch.float32, "torch.float32"), (set(), {}),
])  # fmt: skip
def test_types_and_nesting_count(pair):
    assert digest(pair[0]) != digest(pair[1])


@given(
    st.sampled_from([torch.float32, torch.float64, torch.int8, torch.uint8, torch.int32,
                     torch.bfloat16, torch.bool, torch.uint16, torch.complex64]),
    st.lists(st.integers(0, 4), max_size=4), st.randoms(use_true_random=False),
)  # fmt: skip
def test_strides_do_not_matter_values_do(dtype, shape, random):
    count = math.prod(shape)
    plain = torch.tensor([random.randrange(100) for _ in range(count)]).reshape(shape).to(dtype)
    order = random.sample(range(len(shape)), len(shape))
    back = [order.index(i) for i in range(len(shape))]
    turned = plain.permute(order).contiguous().permute(back)
    inside = torch.cat([plain.reshape(1, *shape)] * 2)[1]
    assert digest(plain) == digest(turned) == digest(inside)
    if count and dtype != torch.bool:
        other = turned.clone()
        other[(0,) * len(shape)] = 101
        assert digest(other) != digest(plain)
    if count > 1:
        assert digest(plain.reshape(-1)) != digest(plain) or plain.dim() == 1
        assert digest(plain) != digest(plain.reshape(1, *shape))


def test_memory_format_and_expansion_do_not_matter():
    x = torch.randn(2, 3, 4, 5)
    assert digest(x) == digest(x.contiguous(memory_format=torch.channels_last))
    assert digest(x) == digest(x.clone().requires_grad_())
    assert digest(torch.ones(3, 4)) == digest(torch.ones(1).expand(3, 4))
    assert digest(x[:, 1]) == digest(x[:, 1].clone())
    assert digest(torch.zeros(2, dtype=torch.int32)) != digest(torch.zeros(2))


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.IntEnum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: int
    y: object = None


@dataclass(frozen=True)
class Spot:
    x: int
    y: object = None


def test_dataclasses_and_enums():
    assert digest(Point(1, Colour.RED)) == digest(Point(1, Colour.RED))
    different = [
        Point(1, Colour.RED), Point(1, Colour.BLUE), Point(2, Colour.RED), Spot(1, Colour.RED),
        Point(1, Shade.RED), Point(1, 1), (1, Colour.RED), {"x": 1, "y": Colour.RED},
    ]  # fmt: skip
    assert len({digest(v) for v in different}) == len(different)
    assert digest(Choice(4, 8)) != digest(Choice(4, 4))
    assert len({digest(m) for m in METHODS.values()}) == len(METHODS)


def test_what_has_no_digest_is_named_with_its_place():
    @dataclass
    class Loose:
        x: int = 1

    with pytest.raises(TypeError, match=r"value 0\['a'\]\[1\] is a builtins.object, which has no"):
        digest({"a": (1, object())})
    with pytest.raises(TypeError, match=r"value 1 is a .*Loose, which is not frozen: freeze it"):
        digest(1, Loose())
    with pytest.raises(TypeError, match=r"Point|value 0.y is a builtins.function"):
        digest(Point(1, lambda: None))
    with pytest.raises(TypeError, match="sparse"):
        digest(torch.eye(2).to_sparse())


def test_stable_between_processes():
    value = {"b": [1, 2.5, None], "a": ("x", True)}
    code = (
        "from bitwright.engine.digest import digest;"
        "from bitwright.engine.code import code_version;"
        "from bitwright.solving import solve;"
        f"print(digest({value!r}), code_version(solve))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.split() == [digest(value), code_version(solve)]
    # A key of an earlier version must stay what it was, or every store is lost.
    assert digest(value) == "d6d0c2244486b7193224f7cdd8ade4f920af853a883fc1d03712bee18bde4678"
