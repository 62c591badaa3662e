"""Bitwright: trained PyTorch networks made small and fast with a few unlabelled samples."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitwright.errors import BitwrightError, InputError, PromiseError
    from bitwright.graph.capture import capture
    from bitwright.graph.observe import observe
    from bitwright.graph.simulate import stitch
    from bitwright.graph.target import load_target
    from bitwright.pipeline import quantize
    from bitwright.result import Result
    from bitwright.runs import load
    from bitwright.search.allocate import allocate
    from bitwright.solving import Configuration, Work, solve
    from bitwright.solving.assembly import assemble
    from bitwright.solving.grids import input_grids, task_grids
    from bitwright.tabulating import measure
    from bitwright.tuning.steps import tune

__version__ = "0.1.0"

__all__ = [
    "BitwrightError",
    "Configuration",
    "InputError",
    "PromiseError",
    "Result",
    "Work",
    "allocate",
    "assemble",
    "capture",
    "input_grids",
    "load",
    "load_target",
    "measure",
    "observe",
    "quantize",
    "solve",
    "stitch",
    "task_grids",
    "tune",
]

# Where each public name lives. It is fetched when it is first asked for, so that what needs a run's
# table alone (allocate, frontier, explain) answers before torch would have been imported.
_HOMES = {
    "BitwrightError": "errors",
    "Configuration": "solving",
    "InputError": "errors",
    "PromiseError": "errors",
    "Result": "result",
    "Work": "solving",
    "allocate": "search.allocate",
    "assemble": "solving.assembly",
    "capture": "graph.capture",
    "input_grids": "solving.grids",
    "load": "runs",
    "load_target": "graph.target",
    "measure": "tabulating",
    "observe": "graph.observe",
    "quantize": "pipeline",
    "solve": "solving",
    "stitch": "graph.simulate",
    "task_grids": "solving.grids",
    "tune": "tuning.steps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bitwright' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bitwright.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
