"""Solving the units of a network on calibration data: in parallel, or one after the other."""

from bitwright.solving.drive import solve, solve_units
from bitwright.solving.work import Edges, Task, Work, bound_batches

__all__ = ["Edges", "Task", "Work", "bound_batches", "solve", "solve_units"]
