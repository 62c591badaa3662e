"""Bitwright: trained PyTorch networks made small and fast with a few unlabelled samples."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitwright.allocation.allocate import allocate
    from bitwright.errors import BitwrightError, InputError
    from bitwright.graph.choice import Choice
    from bitwright.graph.observe import observe
    from bitwright.graph.simulate import stitch
    from bitwright.graph.target import Target, load_target
    from bitwright.methods.problem import Method
    from bitwright.pipeline.compare_files import compare
    from bitwright.pipeline.from_file import capture
    from bitwright.pipeline.plan import Plan
    from bitwright.pipeline.quantize import quantize
    from bitwright.pipeline.result import Result
    from bitwright.pipeline.runs import load
    from bitwright.recipe.values import Recipe
    from bitwright.sensitivity.table import measure_losses
    from bitwright.solving import Configuration, Work, solve
    from bitwright.solving.assembly import assemble
    from bitwright.solving.grids import input_grids, task_grids
    from bitwright.tuning.steps import tune

__version__ = "0.1.0"

__all__ = [
    "BitwrightError",
    "Choice",
    "Configuration",
    "InputError",
    "Method",
    "Plan",
    "Recipe",
    "Result",
    "Target",
    "Work",
    "allocate",
    "assemble",
    "capture",
    "compare",
    "input_grids",
    "load",
    "load_target",
    "measure_losses",
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
    "Choice": "graph.choice",
    "Configuration": "solving",
    "InputError": "errors",
    "Method": "methods.problem",
    "Plan": "pipeline.plan",
    "Recipe": "recipe.values",
    "Result": "pipeline.result",
    "Target": "graph.target",
    "Work": "solving",
    "allocate": "allocation.allocate",
    "assemble": "solving.assembly",
    "capture": "pipeline.from_file",
    "compare": "pipeline.compare_files",
    "input_grids": "solving.grids",
    "load": "pipeline.runs",
    "load_target": "graph.target",
    "measure_losses": "sensitivity.table",
    "observe": "graph.observe",
    "quantize": "pipeline.quantize",
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
