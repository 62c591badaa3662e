"""Solving the units of a network on calibration data: in parallel, or one after the other."""

from bitwright.solving.configuration import Configuration
from bitwright.solving.drive import Solving, solve, solve_units
from bitwright.solving.work import Edges, Task, Work, bind_batches

__all__ = [
    "Configuration",
    "Edges",
    "Solving",
    "Task",
    "Work",
    "bind_batches",
    "solve",
    "solve_units",
]
