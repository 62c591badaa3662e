"""The operator table: every operator of ONNX that is translated, an entry each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.sources.onnx_in.arithmetic import ARITHMETIC
from bitwright.sources.onnx_in.entry import Operator
from bitwright.sources.onnx_in.fuse import DOMAIN
from bitwright.sources.onnx_in.indexing import INDEXING
from bitwright.sources.onnx_in.layers import FUSED, LAYERS
from bitwright.sources.onnx_in.reducing import REDUCING
from bitwright.sources.onnx_in.shaping import SHAPING

TABLE: Mapping[str, Operator] = {**LAYERS, **ARITHMETIC, **SHAPING, **INDEXING, **REDUCING}

# Attributes that say nothing of the result.
_IGNORED = frozenset({"consumed_inputs", "is_test"})


def entry_of(domain: str, kind: str) -> Operator | None:
    """The table's entry for an operator, or None where it becomes an opaque part."""
    if domain == DOMAIN:
        return FUSED[kind]
    return TABLE.get(kind) if not domain else None


def attributes_of(entry: Operator, stated: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """All attributes of an operator, with defaults; None where it states one that is not known."""
    if not set(stated) <= {*entry.attributes, *_IGNORED}:
        return None
    return {**entry.attributes, **stated}
