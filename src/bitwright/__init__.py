"""Bitwright: trained PyTorch networks made small and fast without their training data."""

from bitwright.errors import BitwrightError, InputError, PromiseError
from bitwright.graph.capture import capture
from bitwright.graph.observe import observe
from bitwright.graph.simulate import stitch
from bitwright.graph.target import load_target
from bitwright.pipeline import quantize
from bitwright.result import Result
from bitwright.runs import load
from bitwright.solving import Work, solve
from bitwright.stages import assemble, input_grids

__version__ = "0.1.0"

__all__ = [
    "BitwrightError",
    "InputError",
    "PromiseError",
    "Result",
    "Work",
    "assemble",
    "capture",
    "input_grids",
    "load",
    "load_target",
    "observe",
    "quantize",
    "solve",
    "stitch",
]
